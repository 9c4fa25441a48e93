"Labels on a grid: what every format gives, where pixels lie, and what is refused."
import json
import warnings

import numpy as np
import pytest

geopandas = pytest.importorskip("geopandas", reason="comes with the extra finetune")
pytest.importorskip("pyogrio", reason="comes with the extra finetune")
import rioxarray  # noqa: F401
import xarray as xr
from shapely.geometry import LineString, MultiPoint, Point, box

from olmoearth.checks import InputWarning
from olmoearth.labels import Place, label_cells, read_labels, write_labels
from olmoearth.samples import InputError, Label, Sample
from olmoearth.settings import rng
from olmoearth.sources import open_scene

LEFT, TOP = 500_000., 5_600_000.


@pytest.fixture(scope="module")
def scene():
    values = {"sentinel2_l2a": np.ones((40, 60, 1, 12), np.int16)}
    return Sample(values, np.array(["2021-06-01"]), crs="EPSG:32632", transform=(10, 0, LEFT, 0, -10, TOP), attrs={"sentinel2_offset": 0})


def at(col, row): return LEFT + 10 * col, TOP - 10 * row


def frame(rows, crs="EPSG:32632", **more):
    return geopandas.GeoDataFrame({"class": [n for n, *_ in rows], **more}, geometry=[g for _, g in rows], crs=crs)


def told(call):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        out = call()
    return out, " | ".join(str(m.message) for m in w if m.category is InputWarning)


@pytest.fixture
def points():
    return frame([("b", Point(at(3.2, 4.9))), ("a", Point(at(59.9, 39.9))), ("b", Point(at(10.5, 0.1))), ("a", Point(at(0.1, 20.5)))])


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "frame", "fgb"])
def test_points_label_the_pixel_they_stand_on(scene, points, suffix, tmp_path):
    given = points
    if suffix != "frame":
        given = tmp_path / f"points.{suffix}"
        (points.to_crs("EPSG:4326") if suffix == "geojson" else points).to_file(given)
    label = read_labels(given, scene)
    assert label.classes == {0: "a", 1: "b"} and label.ignore == (-1,)
    assert {tuple(map(int, p)): int(label.values[tuple(p)]) for p in np.argwhere(label.values >= 0)} == {(4, 3): 1, (39, 59): 0, (0, 10): 1, (20, 0): 0}


def test_every_kind_of_scene_has_the_same_place(scene, points, tmp_path):
    from olmoearth.sources import write_store
    store = write_store(scene, tmp_path / "s.zarr")
    band = scene.to_xarray()["sentinel2_l2a"].isel(time=0, band_sentinel2_l2a=0)
    for kind in (scene, open_scene(scene), store, scene.to_xarray(), band.rio.write_crs(scene.crs)):
        assert Place.of(kind) == Place.of(scene)
    np.testing.assert_array_equal(read_labels(points, store).values, read_labels(points, scene).values)
    with pytest.raises(InputError, match="the scene has no coordinate system"): read_labels(points, Sample(scene.arrays, scene.times))


def test_numbers_do_not_depend_on_the_scene(scene, points):
    part, text = told(lambda: read_labels(points, scene.crop(0, 0, 8, 20)))
    assert part.classes == {0: "a", 1: "b"} and set(np.unique(part.values)) == {-1, 1}
    assert "2 of 4 labels (50 %) lie outside the scene" in text


@pytest.mark.parametrize("order", [1, -1])
def test_contradicting_polygons_label_nothing(scene, order):
    rows = [("wheat", box(*at(0, 10), *at(10, 0))), ("maize", box(*at(5, 10), *at(20, 0))), ("maize", box(*at(12, 8), *at(30, 0)))][::order]
    label, text = told(lambda: read_labels(frame(rows), scene))
    assert "50 px are claimed by different classes" in text
    assert (label.values[:10, 5:10] == -1).all() and (label.values[:10, :5] == 1).all() and (label.values[:8, 10:30] == 0).all()      # the same class twice is no contradiction
    three = [*rows, ("rye", box(*at(0, 3), *at(30, 0)))]
    assert (told(lambda: read_labels(frame(three), scene))[0].values[:3, :30] == -1).all()
    values, text = told(lambda: read_labels(frame(rows, height=[1.5, 2.5, 2.5][::order]), scene, "height"))
    assert np.isnan(values.values[:10, 5:10]).all() and "different values" in text and values.classes == {}


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:3857"])
def test_radius_is_in_metres_whatever_the_file_is_in(scene, crs):
    label = read_labels(frame([("a", Point(at(20.5, 20.5))), ("b", Point(at(40.5, 20.5)))]).to_crs(crs), scene, radius=52)
    y, x = np.indices((11, 11)) - 5
    n = (x ** 2 + y ** 2 < 27.04).sum()
    assert (label.values == 0).sum() == n == (label.values == 1).sum()
    row, col = np.argwhere(label.values == 0).mean(0)
    assert (row, col) == pytest.approx((20, 20), abs=.2)


def test_a_scene_in_degrees(points):
    scene = Sample({"sentinel2_l2a": np.ones((40, 60, 1, 12), np.int16)}, np.array(["2021-06-01"]), crs="EPSG:4326", transform=(1e-4, 0, 9.0, 0, -1e-4, 50.0))
    label = read_labels(geopandas.GeoDataFrame({"class": ["a", "b"]}, geometry=[Point(9.00205, 49.99795), Point(9.00405, 49.99795)], crs="EPSG:4326"), scene, radius=30)
    assert label.values[20, 20] == 0 and label.values[20, 40] == 1
    assert (label.values == 0).any(0).sum() > (label.values == 0).any(1).sum()       # a circle on the ground is wide in degrees of longitude


def test_small_polygons_and_many_points(scene):
    rows = [("tiny", box(*at(7.1, 5.3), *at(7.3, 5.1))), ("tiny", MultiPoint([at(1.5, 1.5), at(2.5, 1.5)])), ("big", box(*at(20, 20), *at(30, 10)))]
    label = read_labels(frame(rows), scene)
    assert np.argwhere(label.values == 1).tolist() == [[1, 1], [1, 2], [5, 7]] and (label.values == 0).sum() == 100


@pytest.mark.parametrize("columns, column, kind, classes", [
    ({"crop": ["x", "y"]}, None, None, {0: "x", 1: "y"}), ({"id": [7, 8], "lc": [30, 4]}, None, None, {0: "4", 1: "30"}),
    ({"Class": ["q", "p"], "who": ["m", "n"]}, None, None, {0: "p", 1: "q"}), ({"h": [1.5, 2.]}, None, None, {}),
    ({"h": [1., 2.]}, None, None, {0: "1", 1: "2"}), ({"h": [1, 2]}, None, "values", {}), ({"h": [.5, 2.]}, "h", "classes", {0: "0.5", 1: "2"}),
    ({"t": [" a", "b "]}, None, None, {0: "a", 1: "b"})])
def test_columns(scene, columns, column, kind, classes):
    given = geopandas.GeoDataFrame(columns, geometry=[Point(at(1.5, 1.5)), Point(at(5.5, 5.5))], crs=scene.crs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = read_labels(given, scene, column, kind=kind).classes
    assert got == classes


def test_what_cannot_be_used_is_said(scene, points, tmp_path):
    fails = lambda text, *a, **k: pytest.raises(InputError, match=text)
    with fails("no column 'crop'; there are class"): read_labels(points, scene, "crop")
    with fails(r"pass column='...' \(in a terminal: --column\), one of a, b"):
            read_labels(geopandas.GeoDataFrame({"a": [1], "b": [2]}, geometry=[Point(at(1, 1))], crs=scene.crs), scene)
    with fails("have no column"): read_labels(geopandas.GeoDataFrame(geometry=[Point(at(1, 1))], crs=scene.crs), scene)
    with fails("has no coordinate system; set the one"): read_labels(points.set_crs(None, allow_override=True), scene)
    with fails("is empty"): read_labels(points.iloc[:0], scene)
    with fails("holds LineString; give points or polygons"): read_labels(frame([("a", LineString([at(0, 0), at(5, 5)]))]), scene)
    with fails("there is no"): read_labels(tmp_path / "none.geojson", scene)
    with fails("holds text, which is no quantity"): read_labels(points, scene, kind="values")
    with fails("use 'classes' or 'values'"): read_labels(points, scene, kind="class")
    with fails("the column 'class' is empty"): read_labels(points.assign(**{"class": [None] * 4}), scene)
    with fails("too many for classes"): read_labels(frame([(str(i), Point(at(1, 1))) for i in range(300)]), scene)
    with fails("use metres, 0 or more"): read_labels(points, scene, radius=-1)
    with fails("no pixel of the scene got a label"): read_labels(frame([("a", Point(at(1.5, 1.5))), ("b", Point(at(1.5, 1.5)))]), scene)
    (tmp_path / "broken.geojson").write_text('{"type": "FeatureCollection", "features": [{"type"')
    with fails("broken.geojson cannot be read"): read_labels(tmp_path / "broken.geojson", scene)
    (tmp_path / "bare.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with fails("bare.geojson"): read_labels(tmp_path / "bare.geojson", scene)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with fails("has no geometries"): read_labels(tmp_path / "table.csv", scene)


def test_outside_says_both_boxes_in_one_system(scene, points):
    away = points.translate(20_000, 0)
    with pytest.raises(InputError, match=r"labels 520001, 5599601, 520599, 5599999, scene 500000, 5599600, 500600, 5600000 \(left, bottom, right, top in EPSG:32632\)"):
        read_labels(points.set_geometry(away), scene)
    degrees = points.to_crs("EPSG:4326")
    with pytest.raises(InputError, match="write longitude first, then latitude"):
        read_labels(degrees.set_geometry([Point(p.y, p.x) for p in degrees.geometry], crs="EPSG:4326"), scene)


def test_one_pixel_of_a_class_is_named(scene, points):
    assert "one pixel alone is labelled a" in told(lambda: read_labels(points.iloc[:3], scene))[1]
    assert told(lambda: read_labels(points, scene))[1] == ""
    same_pixel = frame([("a", Point(at(1.1, 1.1))), ("a", Point(at(1.9, 1.9))), ("b", box(*at(5, 9), *at(9, 5)))])
    assert "one pixel alone is labelled a" in told(lambda: read_labels(same_pixel, scene))[1]
    lost = frame([("a", Point(at(1.5, 1.5))), ("b", box(*at(1, 2), *at(20, 1))), ("b", box(*at(5, 9), *at(9, 5)))])
    assert "no pixel is left of a" in told(lambda: read_labels(lost, scene))[1]


def test_empty_geometries_and_values_are_counted(scene, points):
    holes = geopandas.GeoDataFrame({"class": [*points["class"], "a", None]}, geometry=[*points.geometry, None, Point(at(9, 9))], crs=scene.crs)
    text = told(lambda: read_labels(holes, scene))[1]
    assert "1 of 6 labels have no geometry" in text and "1 of 5 labels have nothing in 'class'" in text


def test_layers_of_a_geopackage(scene, points, tmp_path):
    for n in ("field", "forest"): points.to_file(tmp_path / "two.gpkg", layer=n)
    with pytest.raises(InputError, match="has the layers field, forest; pass layer='field'"): read_labels(tmp_path / "two.gpkg", scene)
    with pytest.raises(InputError, match="no layer 'x'"): read_labels(tmp_path / "two.gpkg", scene, layer="x")
    assert (read_labels(tmp_path / "two.gpkg", scene, layer="forest").values >= 0).sum() == 4


def raster(values, scene, scale=1., nodata=0, crs=None, shift=(0, 0)):
    h, w = values.shape
    size = 10 / scale
    coords = {"y": TOP + shift[1] - size * (np.arange(h) + .5), "x": LEFT + shift[0] + size * (np.arange(w) + .5)}
    out = xr.DataArray(values, dims=("y", "x"), coords=coords)
    out = out.rio.write_crs(crs or scene.crs)
    return out if nodata is None else out.rio.write_nodata(nodata)


def test_rasters_of_any_resolution(scene, tmp_path):
    truth = np.repeat(np.repeat(rng(0, "raster").integers(0, 5, (8, 12)), 5, 0), 5, 1).astype(np.uint8)       # (40, 60), blocks of 50 m
    want = np.where(truth == 0, -1, truth.astype(int))
    same = read_labels(raster(truth, scene), scene)
    np.testing.assert_array_equal(same.values, want)
    assert same.classes == {k: str(k) for k in range(1, 5)}
    fine = np.repeat(np.repeat(truth, 4, 0), 4, 1)
    noisy = np.where(rng(1, "raster").random(fine.shape) < .15, 5 - fine, fine).astype(np.uint8)
    noisy[fine == 0] = 0
    assert (read_labels(raster(noisy, scene, 4), scene).values == want).mean() > .98                       # most of 16 pixels
    coarse = read_labels(raster(truth[::5, ::5], scene, .2), scene)
    np.testing.assert_array_equal(coarse.values, want)
    raster(truth, scene).rio.to_raster(tmp_path / "map.tif")
    np.testing.assert_array_equal(read_labels(tmp_path / "map.tif", scene).values, want)
    np.testing.assert_array_equal(read_labels(raster(truth, scene, nodata=None), scene, ignore=(0, 3)).values, np.where(np.isin(truth, (0, 3)), -1, truth.astype(int)))


def test_rasters_of_quantities(scene):
    v = rng(0, "quantity").random((160, 240)).astype(np.float32)
    v[:4, :4] = np.nan
    got = read_labels(raster(v, scene, 4, nodata=None), scene)
    assert got.classes == {} and np.isnan(got.values[0, 0]) and got.values.dtype == np.float32
    np.testing.assert_allclose(got.values[1, 5], v[4:8, 20:24].mean(), rtol=1e-5)


def test_rasters_that_do_not_fit(scene, tmp_path):
    ones = np.ones((40, 60), np.uint8); ones[0] = 2
    assert "covers 50 % of the scene" in told(lambda: read_labels(raster(ones, scene, shift=(300, 0)), scene))[1]
    with pytest.raises(InputError, match="the labels lie outside the scene: labels 501000"): read_labels(raster(ones, scene, shift=(1000, 0)), scene)
    bare = xr.DataArray(ones, dims=("y", "x"), coords={"y": np.arange(40.), "x": np.arange(60.)})
    with pytest.raises(InputError, match="the raster has no coordinate system"): read_labels(bare, scene)
    three = xr.concat([raster(ones, scene)] * 3, "band").rio.write_crs(scene.crs)
    with pytest.raises(InputError, match="has 3 bands; pass band=1"): read_labels(three, scene)
    assert (read_labels(three, scene, band=2).values == ones).all()
    with pytest.raises(InputError, match="no band 4"): read_labels(three, scene, band=4)
    with pytest.raises(InputError, match="nothing but no-data"): read_labels(raster(0 * ones, scene), scene)
    with pytest.raises(InputError, match="too many for classes"): read_labels(raster(np.arange(2400).reshape(40, 60), scene, nodata=None), scene)
    (tmp_path / "cut.tif").write_bytes(b"II*\0 not much")
    with pytest.raises(InputError, match="cut.tif cannot be read"): read_labels(tmp_path / "cut.tif", scene)


def test_there_and_back(scene, points, tmp_path):
    label = read_labels(points, scene)
    for name in ("x.geojson", "x.gpkg"):
        again = read_labels(write_labels(label, scene, tmp_path / name), scene)
        np.testing.assert_array_equal(again.values, label.values)
        assert again.classes == label.classes
    page = json.loads((tmp_path / "x.geojson").read_text())
    assert len(page["features"]) == 4 and abs(page["features"][0]["geometry"]["coordinates"][0] - 9) < .1       # longitude first
    with pytest.raises(InputError, match="exists"): write_labels(label, scene, tmp_path / "x.gpkg")
    with pytest.raises(InputError, match="end it with"): write_labels(label, scene, tmp_path / "x.shp")
    with pytest.raises(InputError, match="the scene that they were read for"): write_labels(label, scene.crop(0, 0, 8), tmp_path / "y.gpkg")


def test_cells_need_agreement_among_what_is_labelled():
    v = np.full((8, 10), -1)
    v[0, 0] = 2                              # one pixel: enough
    v[0, 4:8] = [1, 1, 1, 2]                 # three of four
    v[4:8, 0:4] = [[1, 2, 1, 2]] * 4         # half and half
    v[:, 8:] = 3                             # the rim
    np.testing.assert_array_equal(label_cells(Label(v, {1: "a", 2: "b", 3: "c"}, (-1,)), 4), [[2, 1], [-1, -1]])
    q = np.where(v == 2, 4., np.nan)
    got = label_cells(Label(q, {}, ()), 4)
    assert got[0, 0] == 4 and np.isnan(got[1, 1])
