"""GeoTIFF folders and stacks: faults, properties and the real scenes."""
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from olmoearth.modalities import OSM_LAYERS, modality
from olmoearth.rasters import (
    TERRAMESH, band_name, find_layout, find_offset, join_times, order_bands, read_geotiffs, read_layout, read_raster, without_offset)
from olmoearth.samples import InputError, Label, Sample, same
from olmoearth.settings import find_data, rng
from olmoearth.stacks import add_osm, burn_osm, osm_layer, read_monthly_stack, read_written, write_geotiffs

S2_ORDER = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()
GRID = dict(transform=(10, 0, 500_000, 0, -10, 5_000_000), crs="EPSG:32632")


def write(path, values, names=(), nodata=None, transform=GRID["transform"], crs=GRID["crs"], offset=None, **tags):
    with rasterio.open(path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype,
                       crs=crs, transform=rasterio.Affine(*transform), nodata=nodata) as dst:
        dst.write(values)
        dst.update_tags(**tags)
        if offset: dst.offsets, dst.scales = [offset[0]] * len(values), [offset[1]] * len(values)
        for i, n in enumerate(names, 1): dst.set_band_description(i, n)
    return path


def real(name):
    folder = find_data(name)
    if folder is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    return folder


def quiet(f, *args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **kw)


# one file

def test_nodata_and_nan_are_invalid(tmp_path):
    r = read_raster(write(tmp_path / "a.tif", np.array([[[np.nan, -5, 3]]], np.float32), nodata=-5))
    assert r.valid.tolist() == [[[False, False, True]]]


def test_nan_is_invalid_without_nodata(tmp_path):
    assert not read_raster(write(tmp_path / "a.tif", np.array([[[np.nan, np.inf]]], np.float32))).valid.any()


def test_file_without_crs_is_named(tmp_path):
    with pytest.raises(InputError, match="a.tif has no coordinate system"): read_raster(write(tmp_path / "a.tif", np.ones((1, 2, 2), np.uint8), crs=None))


def test_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.tif").write_text("hello")
    with pytest.raises(InputError, match="a.tif cannot be read"): read_raster(tmp_path / "a.tif")


# bands

@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_bands_gives_the_same_array(seed):
    order = rng(seed, "order").permutation(S2_ORDER)
    value = {b: i + 1 for i, b in enumerate(modality("sentinel2_l2a").bands)}
    v = np.array([[value[b] for b in order]])
    out, gaps, left = order_bands("sentinel2_l2a", list(order), v, np.ones(v.shape, bool))
    assert out.tolist() == [list(range(1, 13))] and not gaps.any() and left == []


def test_every_spelling_of_a_band():
    for b in modality("sentinel2_l2a").bands:
        assert {band_name("sentinel2_l2a", s) for s in (b, b.lower(), b.replace("B0", "B"), f" {b} ")} == {b}


def test_bands_named_twice_or_too_few():
    v = np.zeros((1, 2))
    with pytest.raises(InputError, match="twice"): order_bands("sentinel1", ["vv", "VV"], v, v == 0)
    with pytest.raises(InputError, match="one name per band"): order_bands("sentinel1", ["vv"], v, v == 0)


def test_gaps_hold_zero():
    v = np.array([[5.0, np.nan]])
    out, gaps, _ = order_bands("sentinel1", ["vv", "vh"], v, np.isfinite(v))
    assert out.tolist() == [[5, 0]] and gaps.tolist() == [[False, True]]


# dates

def days(*d): return np.array(d, "datetime64[D]")


def test_exact_union_at_tolerance_zero():
    times, at = join_times({"a": days("2020-01-01", "2020-02-01"), "b": days("2020-01-02", "2020-02-01")}, 0)
    assert [str(t) for t in times] == ["2020-01-01", "2020-01-02", "2020-02-01"] and at["b"].tolist() == [1, 2] and at["a"].tolist() == [0, 2]


def test_dates_of_the_first_sensor_move_when_another_opens_one_before():
    times, at = join_times({"a": days("2020-05-01"), "b": days("2020-01-01")})
    assert at["a"].tolist() == [1] and at["b"].tolist() == [0] and (np.diff(times.astype(int)) > 0).all()


# the offset

@pytest.mark.parametrize("facts,want", [
    ({}, None), ({"s2:processing_baseline": "04.00"}, 1000), ({"s2:processing_baseline": "03.01"}, 0), ({"s2:processing_baseline": 5.09}, 1000),
    ({"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.00"}, 0), ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.00"}, 1000),
    ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "02.12"}, 0), ({"earthsearch:boa_offset_applied": False}, None),
    ({"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, 1000), ({"raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0),
    ({"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, 1000), ({"raster:offset": -0.1, "raster:scale": 0.0001}, 1000),
    ({"raster:bands": [{"offset": -1000}]}, 1000), ({"BOA_ADD_OFFSET": "-1000"}, 1000),
    ({"s2:processing_baseline": "02.12", "raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, 0), ({"processing:version": "sen2cor"}, None),
    ({"s2:processing_baseline": "05.00", "raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0), ({"PROCESSING_BASELINE": "05.10"}, 1000)])
def test_offset_from_metadata(facts, want): assert find_offset(facts) == want


def test_offset_in_the_tags_is_removed_once_on_reading(tmp_path):
    write(tmp_path / "s2.tif", np.full((12, 4, 4), 1400, np.uint16), datetime="2022-06-01", PROCESSING_BASELINE="05.09")
    s = read_geotiffs(tmp_path, {"s2.tif": ("sentinel2_l2a", S2_ORDER)}, check="off")
    assert (s.arrays["sentinel2_l2a"] == 400).all() and s.attrs["sentinel2_offset"] == 0 and s.attrs["sentinel2_offset_removed"] == 1000
    assert same(without_offset(s), s)


def test_offset_of_a_gdal_band_is_removed(tmp_path):
    write(tmp_path / "s2.tif", np.full((12, 4, 4), 1400, np.uint16), datetime="2022-06-01", offset=(-0.1, 0.0001))
    assert (read_geotiffs(tmp_path, {"s2.tif": ("sentinel2_l2a", S2_ORDER)}, check="off").arrays["sentinel2_l2a"] == 400).all()


def test_each_file_has_its_own_offset(tmp_path):
    write(tmp_path / "s2_2021-06-01.tif", np.full((12, 4, 4), 400, np.uint16), PROCESSING_BASELINE="03.00")
    write(tmp_path / "s2_2022-06-01.tif", np.full((12, 4, 4), 1400, np.uint16), PROCESSING_BASELINE="04.00")
    s = read_geotiffs(tmp_path, {"s2_*.tif": ("sentinel2_l2a", S2_ORDER)}, check="off")
    assert s.n_times == 2 and (s.arrays["sentinel2_l2a"] == 400).all() and s.attrs["sentinel2_offset"] == 0


def test_unknown_offset_is_not_invented(tmp_path):
    write(tmp_path / "s2_2022-06-01.tif", np.full((12, 4, 4), 1400, np.uint16))
    s = read_geotiffs(tmp_path, {"s2_*.tif": ("sentinel2_l2a", S2_ORDER)}, check="off")
    assert "sentinel2_offset" not in s.attrs and (s.arrays["sentinel2_l2a"] == 1400).all()


def test_one_unknown_among_known_stays_in_doubt(tmp_path):
    write(tmp_path / "s2_2021-06-01.tif", np.full((12, 4, 4), 1400, np.uint16))
    write(tmp_path / "s2_2022-06-01.tif", np.full((12, 4, 4), 1400, np.uint16), PROCESSING_BASELINE="04.00")
    s = read_geotiffs(tmp_path, {"s2_*.tif": ("sentinel2_l2a", S2_ORDER)}, check="off")
    assert "sentinel2_offset" not in s.attrs and s.arrays["sentinel2_l2a"][0, 0, :, 0].tolist() == [1400, 400]


def test_removal_leaves_gaps_and_floor():
    v, gone = np.full((1, 2, 1, 12), 300, np.uint16), np.zeros((1, 2, 1, 12), bool)
    gone[0, 1] = True
    v[gone] = 0
    s = without_offset(Sample({"sentinel2_l2a": v}, days("2023-01-01"), {"sentinel2_l2a": gone}, attrs={"sentinel2_offset": 1000}))
    assert not s.arrays["sentinel2_l2a"].any() and s.missing["sentinel2_l2a"].sum() == 12    # below 1000 is 0, never 64836


# a folder

def test_dates_stacked_in_one_file(tmp_path):
    v = np.arange(4 * 4, dtype=np.float32).reshape(4, 2, 2) - 20
    write(tmp_path / "s1.tif", v)
    s = read_geotiffs(tmp_path, {"s1.tif": ("sentinel1", ["vv", "vh"])}, date=["2020-01-01", "2020-02-01"], check="off")
    assert s.arrays["sentinel1"][0, 1].tolist() == [[-19, -15], [-11, -7]]


def test_files_in_any_order_give_rising_dates(tmp_path):
    for name, v in (("a_2020-03-01", 3), ("b_2020-01-01", 1), ("c_20200201", 2)): write(tmp_path / f"{name}.tif", np.full((2, 2, 2), -v, np.float32))
    s = read_geotiffs(tmp_path, {"*.tif": ("sentinel1", ["vv", "vh"])}, check="off")
    assert [str(t) for t in s.times] == ["2020-01-01", "2020-02-01", "2020-03-01"] and s.arrays["sentinel1"][0, 0, :, 0].tolist() == [-1, -2, -3]


@pytest.mark.parametrize("change,says", [
    (dict(transform=(20, 0, 500_000, 0, -20, 5_000_000)), "reproject_match"), (dict(crs="EPSG:32633"), "reproject_match")])
def test_unequal_grids_stop(tmp_path, change, says):
    write(tmp_path / "a.tif", np.ones((2, 4, 4), np.float32), datetime="2020-01-01")
    write(tmp_path / "dem.tif", np.ones((1, 4, 4), np.float32), **change)
    with pytest.raises(InputError, match=says): read_geotiffs(tmp_path, {"a.tif": ("sentinel1", ["vv", "vh"]), "dem.tif": ("srtm", ["srtm"])}, check="off")


def test_wrong_band_count_and_no_date(tmp_path):
    write(tmp_path / "a.tif", np.ones((3, 4, 4), np.float32))
    with pytest.raises(InputError, match="3 bands, but the map names 2"): read_geotiffs(tmp_path, {"a.tif": ("sentinel1", ["vv", "vh"])}, check="off")
    with pytest.raises(InputError, match="pass date="): read_geotiffs(tmp_path, {"a.tif": ("sentinel2_l2a", ["B02", "B03", "B04"])}, check="off")
    with pytest.raises(InputError, match="2 days|1 days"):
        read_geotiffs(tmp_path, {"a.tif": ("sentinel2_l2a", ["B02", "B03", "B04"])}, date=["2020-01-01", "2020-02-01"], check="off")


def test_unknown_folder_lists_what_was_looked_for(tmp_path):
    with pytest.raises(InputError) as err: find_layout(tmp_path)
    assert all(text in str(err.value) for text in ("TerraMesh", "Sen1Floods11", "S2L2A.tif", "nothing", "read_geotiffs("))


def test_input_check_runs_on_reading(tmp_path):
    write(tmp_path / "s1_2020-01-01.tif", rng(0, "linear").uniform(0.01, 0.4, (2, 8, 8)).astype(np.float32))
    with pytest.raises(InputError, match="log10"): read_geotiffs(tmp_path, {"s1*.tif": ("sentinel1", ["vv", "vh"])}, check="raise")


# real scenes

@pytest.mark.parametrize("name", ["433D_629L_3_1", "637U_59R_1_3", "38D_378R_2_3", "609U_541L_3_0"])
def test_terramesh_scenes_pass_the_check(name):
    s = read_layout(real(f"terramesh/{name}"), TERRAMESH, check="raise")
    with rasterio.open(real(f"terramesh/{name}") / "S2L2A.tif") as src: b02, b12 = src.read(2), src.read(12)
    removed = s.attrs.get("sentinel2_offset_removed", 0)
    assert (s.arrays["sentinel2_l2a"][:, :, 0, 0] == np.maximum(b02, removed) - removed).all()
    assert (s.arrays["sentinel2_l2a"][:, :, 0, modality("sentinel2_l2a").bands.index("B12")] == np.maximum(b12, removed) - removed).all()
    assert s.shape == (224, 224) and s.labels["land_cover"].ignore == (0, 8) and set(np.unique(s.labels["land_cover"].values)) <= set(s.labels["land_cover"].classes) | {0, 8}


def test_the_callers_word_keeps_the_files_numbers():
    folder = real("terramesh/433D_629L_3_1")
    s = read_geotiffs(folder, attrs={"sentinel2_offset": 0}, check="off")
    assert s.arrays["sentinel2_l2a"].min() == 969 and "sentinel2_offset_removed" not in s.attrs


def test_flood_chip():
    s = quiet(read_geotiffs, real("sen1floods11"), check="warn")
    assert s.attrs["sentinel2_level"] == "L1C" and set(np.unique(s.labels["flood"].values)) == {-1, 0, 1} and s.labels["flood"].classes[1] == "water"
    assert s.attrs["dates"] == {"sentinel2_l2a": ["2019-09-18"], "sentinel1": ["2019-09-17"]} and s.n_times == 1


# stacks

def test_togo_year():
    path = next(real("cropharvest_togo").glob("*.tif"))
    s = quiet(read_monthly_stack, path, check="off")
    with rasterio.open(path) as src:
        names = list(src.descriptions)
        assert np.array_equal(s.arrays["sentinel2_l2a"][:, :, 5, 0], src.read(names.index("B2_5") + 1))
        assert np.array_equal(s.arrays["srtm"][:, :, 0, 0], src.read(names.index("elevation") + 1))
    assert s.n_times == 12 and s.missing["era5_10"][:, 1:5].all() and not s.missing["era5_10"][:, [0, 5]].any()


def test_stack_with_a_step_missing(tmp_path):
    write(tmp_path / "f_2020-01-01.tif", np.ones((3, 2, 2), np.float32), names=["VV", "VH", "VV_1"])
    with pytest.raises(InputError, match="vh has 1 steps, 2 expected"): read_monthly_stack(tmp_path / "f_2020-01-01.tif", check="off")


def test_stack_without_date_or_names(tmp_path):
    write(tmp_path / "f.tif", np.ones((2, 2, 2), np.float32), names=["VV", "VH"])
    with pytest.raises(InputError, match="start="): read_monthly_stack(tmp_path / "f.tif", check="off")
    write(tmp_path / "g.tif", np.ones((2, 2, 2), np.float32), names=["red", "green"])
    with pytest.raises(InputError, match="pass names="): read_monthly_stack(tmp_path / "g.tif", start="2020-01-01", check="off")


# writing

@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "int32"])
def test_written_samples_come_back(tmp_path, dtype):
    g = rng(0, "written", dtype)
    v = g.integers(0, 5000, (4, 5, 3, 12)).astype(dtype)
    gone = g.random(v.shape) < 0.2
    v[gone] = 0
    s = Sample({"sentinel2_l2a": v, "era5_10": g.normal(280, 1, (3, 6)).astype(np.float32), "worldcover": g.choice([10, 80], (4, 5, 1, 1)).astype(np.uint8)},
               days("2020-01-01", "2020-02-01", "2020-03-01"), {"sentinel2_l2a": gone}, GRID["crs"], GRID["transform"],
               {"crop": Label(g.integers(0, 3, (4, 5)), {0: "none", 1: "maize"}, (2,))}, "a place", {"source": "simulated"})
    assert same(read_written(write_geotiffs(s, tmp_path / "out"), check="off"), s)


def test_writing_needs_a_place(tmp_path):
    with pytest.raises(InputError, match="no georeference"): write_geotiffs(Sample({"sentinel1": np.zeros((2, 2, 1, 2))}, days("2020-01-01")), tmp_path)


# map features

def polygon(x, y, w, h): return {"type": "Polygon", "coordinates": [[[x, y], [x + w, y], [x + w, y - h], [x, y - h], [x, y]]]}
def feature(geometry, **tags): return {"type": "Feature", "geometry": geometry, "properties": tags}
FLAT = dict(crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0), height=8, width=8, features_crs="EPSG:32632")


def test_share_is_the_covered_area():
    out = burn_osm({"features": [feature(polygon(5, -5, 50, 30), building="yes")]}, **FLAT)
    assert out.shape == (8, 8, 1, 30) and np.isclose(out[..., OSM_LAYERS.index("building")].sum() * 100, 1500) and out.max() == 1
    assert not np.delete(out, OSM_LAYERS.index("building"), -1).any()


def test_holes_and_overlaps():
    ring = polygon(0, 0, 80, 80)
    ring["coordinates"].append(polygon(20, -20, 40, 40)["coordinates"][0])
    out = burn_osm({"features": [feature(ring, leisure="park"), feature(polygon(0, 0, 80, 40), leisure="pitch")]}, **FLAT)[:, :, 0, OSM_LAYERS.index("leisure")]
    assert out.max() == 1 and out[5, 4] == 0 and out[3, 4] == 1


def test_geographic_coordinates_reach_the_grid():
    from rasterio.warp import transform_geom
    flat = polygon(500_020, 5_540_060, 30, 20)
    crs, transform = "EPSG:32632", (10, 0, 500_000, 0, -10, 5_540_080)
    a = burn_osm({"features": [feature(flat, building="yes")]}, crs, transform, 8, 8, features_crs=crs)
    b = burn_osm({"features": [feature(transform_geom(crs, "EPSG:4326", flat), building="yes")]}, crs, transform, 8, 8)
    assert np.abs(a - b).max() <= 0.25 and abs(a.sum() - b.sum()) < 0.5 and a.sum() == 6


def test_strays_are_told_and_nonsense_stops(tmp_path):
    with pytest.warns(UserWarning, match="1 of 1 features"): burn_osm({"features": [feature(polygon(0, 0, 10, 10), natural="water")]}, **FLAT)
    (tmp_path / "x.geojson").write_text("[]")
    with pytest.raises(InputError, match="FeatureCollection"): burn_osm(tmp_path / "x.geojson", **FLAT)
    with pytest.raises(InputError, match="official"): burn_osm({"features": []}, how="mean", **FLAT)


def test_every_layer_has_a_tag():
    from olmoearth.stacks import _OSM_TAGS
    for layer, (key, value) in _OSM_TAGS.items(): assert osm_layer({key: "yes" if value == "*" else value}) == layer


def test_add_osm():
    s = Sample({"sentinel1": np.zeros((8, 8, 1, 2), np.float32)}, days("2020-01-01"), crs="EPSG:32632", transform=(10, 0, 500_000, 0, -10, 5_540_080))
    out = add_osm(s, {"features": []})
    assert out.arrays["openstreetmap_raster"].shape == (8, 8, 1, 30) and "openstreetmap_raster" not in s.arrays
    with pytest.raises(InputError): add_osm(Sample(s.arrays, s.times), {"features": []})


def test_no_path_of_this_machine_in_messages(tmp_path):
    with pytest.raises(InputError) as err: find_layout(tmp_path)
    assert str(Path(tmp_path).parent) not in str(err.value)
