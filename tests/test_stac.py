"""STAC searches against a local API that serves real files: the rule, the offset, clouds, paging, static catalogues, faults."""
import json

import numpy as np
import pytest
import rasterio

pytest.importorskip("pystac_client")
pytest.importorskip("odc.stac")
pytestmark = pytest.mark.filterwarnings("ignore")      # of the libraries among themselves
import pystac
from odc.geo.geobox import GeoBox

from olmoearth.modalities import modality
from olmoearth.samples import InputError
from olmoearth.settings import find_data, rng
from olmoearth.stac import PRODUCTS, LocalStac, find_items, item_offset, month_table, nearest_clear, search_stac

BBOX = (9.0, 50.0, 9.002, 50.001)
X, Y, SIZE = 499_900, 5_538_900, 36      # a grid of 10 m that holds the box
S2 = modality("sentinel2_l2a").bands
BLUE = dict(zip("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split(),
                "coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 swir16 swir22".split(), strict=True))


def tif(path, pixels, nodata=0):
    with rasterio.open(path, "w", driver="GTiff", count=1, height=pixels.shape[0], width=pixels.shape[1], dtype=pixels.dtype, crs="EPSG:32632", nodata=nodata,
                       transform=rasterio.Affine(10, 0, X, 0, -10, Y), tiled=True, blockxsize=16, blockysize=16) as dst: dst.write(pixels, 1)


def item(folder, day, assets, collection="sentinel-2-l2a", id=None, extra=None, bbox=BBOX, **properties):
    "Write an item and its images: asset -> pixels."
    id = id or f"{collection}_{day}"
    w, s, e, n = bbox
    feature = {"type": "Feature", "stac_version": "1.0.0", "id": id, "collection": collection, "bbox": list(bbox), "links": [], "stac_extensions": [],
               "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
               "properties": {"datetime": f"{day}T10:30:00Z", "proj:epsg": 32632, **properties}, "assets": {}}
    for k, pixels in assets.items():
        tif(folder / f"{id}_{k}.tif", pixels)
        feature["assets"][k] = {"href": f"{id}_{k}.tif", "type": "image/tiff; application=geotiff", **(extra or {})}
    (folder / f"{id}.json").write_text(json.dumps(feature))


def s2(value, scl=4, names=S2, quality="SCL"):
    "Assets of a Sentinel-2 image of one value; `scl` a code or a map of codes."
    full = np.full((SIZE, SIZE), value, np.uint16)
    return {**{(BLUE[b] if names is None else b): full for b in S2}, quality: np.broadcast_to(np.asarray(scl, np.uint8), (SIZE, SIZE)).copy()}


def search(folder, months=1, start="2021-06", **kw):
    with LocalStac(folder, **{k: kw.pop(k) for k in ("page",) if k in kw}) as api: return search_stac(api.url, BBOX, start, months, check="off", **kw)


def values(sample, t=0): return np.unique(sample.arrays["sentinel2_l2a"][:, :, t][~sample.mask("sentinel2_l2a")[:, :, t]]).tolist()


# the rule

@pytest.mark.parametrize("seed", range(4))
def test_rule_against_a_plain_loop(seed):
    g = rng(seed, "rule")
    clear, days = g.random((7, 5, 5)) < 0.4, np.datetime64("2021-06-01") + g.integers(0, 30, 7)
    got = nearest_clear(clear, days, np.datetime64("2021-06-16"))
    for r in range(5):
        for c in range(5):
            best = sorted((abs(int((d - np.datetime64("2021-06-16")).astype(int))), d, i) for i, d in enumerate(days) if clear[i, r, c])
            assert got[r, c] == (best[0][2] if best else -1)


def test_no_images_at_all(): assert (nearest_clear(np.zeros((0, 2, 2), bool), np.zeros(0, "datetime64[D]"), np.datetime64("2021-06-16")) == -1).all()


# clouds

def test_each_scene_class(tmp_path):
    item(tmp_path, "2021-06-10", s2(500, np.arange(SIZE) // (SIZE // 12)))                # stripes of all twelve classes
    s = search(tmp_path, geobox=GeoBox((SIZE, SIZE), rasterio.Affine(10, 0, X, 0, -10, Y), "EPSG:32632"))
    seen = ~s.mask("sentinel2_l2a")[:, ::SIZE // 12, 0].any((0, 2))
    assert np.flatnonzero(seen).tolist() == [2, 4, 5, 6, 7, 11] and s.attrs["months"][0]["valid"] == 0.5


def test_half_a_cloud_takes_the_other_date_there(tmp_path):
    scl = np.full((SIZE, SIZE), 4)
    scl[:, :SIZE // 2] = 9
    item(tmp_path, "2021-06-16", s2(1600, scl))
    item(tmp_path, "2021-06-29", s2(2900))
    s = search(tmp_path)
    v = s.arrays["sentinel2_l2a"][:, :, 0]
    assert values(s) == [1600, 2900] and (v == v[..., :1]).all() and not s.mask("sentinel2_l2a").any() and s.attrs["months"][0]["dates"] == 2


def test_months_do_not_borrow(tmp_path):
    item(tmp_path, "2021-05-31", s2(500))
    item(tmp_path, "2021-07-01", s2(700))
    s = search(tmp_path, months=3, start="2021-05")
    assert values(s, 0) == [500] and s.mask("sentinel2_l2a")[:, :, 1].all() and values(s, 2) == [700]
    assert [str(t) for t in s.times] == ["2021-05-01", "2021-06-01", "2021-07-01"]
    assert [r["valid"] for r in s.attrs["months"]] == [1.0, 0.0, 1.0] and "2021-06" in month_table(s)


def test_nodata_is_a_gap_whatever_the_class(tmp_path):
    assets = s2(500)
    assets["B05"] = np.where(np.arange(SIZE) < SIZE // 2, 0, 500).astype(np.uint16) * np.ones((SIZE, 1), np.uint16)
    item(tmp_path, "2021-06-10", assets)
    gone = search(tmp_path).mask("sentinel2_l2a")[:, :, 0]
    assert gone.any() and not gone.all() and (gone == gone[..., :1]).all()         # a pixel without one band has none


def test_without_quality_layer_it_stops(tmp_path):
    assets = s2(500)
    del assets["SCL"]
    item(tmp_path, "2021-06-10", assets)
    with pytest.raises(InputError, match="no quality layer"): search(tmp_path)


# the offset

@pytest.mark.parametrize("properties,extra,want,fact", [
    ({"s2:processing_baseline": "05.09"}, {}, 500, 0), ({"s2:processing_baseline": "03.00"}, {}, 1500, 0), ({}, {}, 1500, None),
    ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, 1500, 0),
    ({}, {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, 500, 0)])
def test_offset_by_the_flags(tmp_path, properties, extra, want, fact):
    item(tmp_path, "2022-06-10", s2(1500), extra=extra, **properties)
    s = search(tmp_path, start="2022-06")
    assert values(s) == [want] and s.attrs.get("sentinel2_offset") == fact


def test_two_baselines_in_one_month(tmp_path):
    scl = np.full((SIZE, SIZE), 4)
    scl[:, :SIZE // 2] = 8
    item(tmp_path, "2022-01-16", s2(800, scl), **{"s2:processing_baseline": "03.01"})
    item(tmp_path, "2022-01-26", s2(1800), **{"s2:processing_baseline": "04.00"})
    s = search(tmp_path, start="2022-01")
    assert values(s) == [800] and s.attrs["sentinel2_offset"] == 0 and s.attrs["sentinel2_offset_removed"] == 1000


# catalogues

def test_names_of_other_catalogues(tmp_path):
    item(tmp_path, "2021-06-10", s2(500, names=None, quality="scl"))
    assert values(search(tmp_path)) == [500]


def test_bands_that_a_collection_lacks_are_gaps(tmp_path):
    assets = s2(500)
    for b in ("B01", "B09"): del assets[b]
    item(tmp_path, "2021-06-10", assets)
    s = search(tmp_path)
    lost = s.mask("sentinel2_l2a").all((0, 1, 2))
    assert [b for b, g in zip(S2, lost, strict=True) if g] == ["B01", "B09"] and s.attrs["months"][0]["valid"] == 1.0


def test_pages_dates_boxes_and_collections(tmp_path):
    for day in range(1, 8): item(tmp_path, f"2021-06-{day:02d}", {"vv": np.full((SIZE, SIZE), day, np.uint16)}, collection="other")
    item(tmp_path, "2021-06-03", {"vv": np.full((SIZE, SIZE), 1, np.uint16)}, id="far", bbox=(20, 10, 21, 11), collection="other")
    item(tmp_path, "2021-06-03", {"vv": np.full((SIZE, SIZE), 1, np.uint16)}, id="another", collection="elsewhere")
    with LocalStac(tmp_path, page=2) as api:
        items = find_items(api.url, BBOX, "2021-06-02", "2021-06-06", "other")
        assert [i.datetime.day for i in items] == [2, 3, 4, 5, 6] and len(api.searches) == 3
        assert len(find_items(api.url, BBOX, "2021-06-02", "2021-06-06")) == 6


def test_radar_becomes_decibel_beside_optical(tmp_path):
    item(tmp_path, "2021-06-10", s2(500))
    one = np.full((SIZE, SIZE), 0.1, np.float32)
    item(tmp_path, "2021-06-12", {"vv": one, "vh": one / 10}, collection="sentinel-1-rtc")
    s = search(tmp_path, products=("sentinel2_l2a", "sentinel1"))
    assert np.allclose(s.arrays["sentinel1"][..., 0], -10, atol=1e-4) and np.allclose(s.arrays["sentinel1"][..., 1], -20, atol=1e-4)
    assert s.arrays["sentinel1"].shape[:3] == s.arrays["sentinel2_l2a"].shape[:3] and len(s.attrs["months"]) == 2


def test_landsat_bits(tmp_path):
    qa = np.full((SIZE, SIZE), 1 << 6, np.uint16)
    qa[:, :SIZE // 2] |= 1 << 3                                                      # cloud
    item(tmp_path, "2021-06-10", {**{n[1]: np.full((SIZE, SIZE), 9000, np.uint16) for n in PRODUCTS["landsat"].bands.values()}, "qa_pixel": qa}, collection="landsat-c2-l1")
    s = search(tmp_path, products=("landsat",))
    gone = s.mask("landsat")[:, :, 0, 0]
    assert gone.any() and not gone.all() and set(np.unique(s.arrays["landsat"][~s.mask("landsat")])) == {9000}


def test_static_catalogue_gives_the_same(tmp_path):
    for day, value in (("2021-06-10", 500), ("2021-07-10", 700), ("2023-01-01", 900)): item(tmp_path, day, s2(value))
    want = search(tmp_path, months=2)
    catalogue, inner = pystac.Catalog("outer", "outer"), pystac.Catalog("inner", "inner")
    catalogue.add_child(inner)
    for p in sorted(tmp_path.glob("*.json")):
        i = pystac.Item.from_dict(json.loads(p.read_text()))
        for a in i.assets.values(): a.href = str(tmp_path / a.href)
        inner.add_item(i)
    catalogue.normalize_and_save(str(tmp_path / "static"), pystac.CatalogType.ABSOLUTE_PUBLISHED)
    got = search_stac(tmp_path / "static" / "catalog.json", BBOX, "2021-06", 2, check="off")
    assert np.array_equal(got.arrays["sentinel2_l2a"], want.arrays["sentinel2_l2a"]) and np.array_equal(got.missing.get("sentinel2_l2a", 0), want.missing.get("sentinel2_l2a", 0))


def test_static_catalogue_over_http_is_walked(tmp_path):
    item(tmp_path, "2021-06-10", s2(500))
    catalogue = pystac.Catalog("static", "static")
    with LocalStac(tmp_path) as api:
        i = pystac.Item.from_dict(json.loads((tmp_path / "sentinel-2-l2a_2021-06-10.json").read_text()))
        for a in i.assets.values(): a.href = api.url + a.href
        catalogue.add_item(i)
        catalogue.normalize_and_save(str(tmp_path / "static"), pystac.CatalogType.SELF_CONTAINED)
        assert values(search_stac(api.url + "static/catalog.json", BBOX, "2021-06", 1, check="off")) == [500]


# faults

def test_nothing_found_and_nothing_there(tmp_path):
    with pytest.raises(InputError, match="collections="): search(tmp_path)
    with pytest.raises(InputError, match="unknown product"): search(tmp_path, products=("sentinel9",))
    with pytest.raises(InputError, match="cannot be used"): find_items(tmp_path / "none.json", BBOX, "2021-06-01", "2021-06-30")
    with pytest.raises(InputError, match="cannot be used"): find_items("http://127.0.0.1:9/", BBOX, "2021-06-01", "2021-06-30", timeout=2)


def test_item_without_bands(tmp_path):
    item(tmp_path, "2021-06-10", {"thumbnail": np.ones((SIZE, SIZE), np.uint8)})
    with pytest.raises(InputError, match="none of the assets"): search(tmp_path)


def test_the_check_runs(tmp_path):
    item(tmp_path, "2021-06-10", {**s2(1), **{b: np.ones((SIZE, SIZE), np.uint16) for b in S2}})    # reflectance rounded away
    with LocalStac(tmp_path) as api, pytest.raises(InputError): search_stac(api.url, BBOX, "2021-06", 1, check="raise")


# a real image, served

def test_real_scene_through_the_catalogue(tmp_path):
    scene = find_data("terramesh/637U_59R_1_3")
    if scene is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    with rasterio.open(scene / "S2L2A.tif") as src:
        bands, profile, box = src.read(), src.profile, rasterio.warp.transform_bounds(src.crs, "EPSG:4326", *src.bounds)
        geobox = GeoBox(src.shape, src.transform, src.crs)
    order = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()
    feature = {"type": "Feature", "stac_version": "1.0.0", "id": "real", "collection": "sentinel-2-l2a", "bbox": list(box), "links": [], "stac_extensions": [],
               "geometry": {"type": "Polygon", "coordinates": [[[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], [box[0], box[1]]]]},
               "properties": {"datetime": "2017-10-30T10:41:51Z", "s2:processing_baseline": "02.06", "proj:epsg": 32632}, "assets": {}}
    for name, pixels in [*zip(order, bands, strict=True), ("SCL", np.full(bands.shape[1:], 4, np.uint8))]:
        with rasterio.open(tmp_path / f"{name}.tif", "w", **{**profile, "count": 1, "dtype": pixels.dtype, "nodata": 0}) as dst: dst.write(pixels, 1)
        feature["assets"][name] = {"href": f"{name}.tif", "type": "image/tiff; application=geotiff"}
    (tmp_path / "real.json").write_text(json.dumps(feature))
    with LocalStac(tmp_path) as api: s = search_stac(api.url, box, "2017-10", 1, geobox=geobox, check="raise")
    for b, pixels in zip(order, bands, strict=True): assert np.array_equal(s.arrays["sentinel2_l2a"][:, :, 0, S2.index(b)], pixels)
    assert s.attrs["months"][0]["valid"] == 1.0 and s.attrs["sentinel2_offset"] == 0


def test_item_offset_needs_metadata():
    i = pystac.Item("x", None, None, __import__("datetime").datetime(2023, 1, 1), {})
    assert item_offset(i) is None
