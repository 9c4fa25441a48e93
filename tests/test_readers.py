"Readers of benchmarks: every band where it belongs, in our unit, gaps kept; and one clear line for another folder, a damaged file, a missing band."
import json
import pickle
import types
import warnings

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
import rasterio
from layouts import CODES, MADOS, NAMES, breizh, cut_short, floods, geobench, harvest, mados, numbered, pastis, tif

from olmoearth.chips import FLOODS, Example, Examples, Tiles, monthly, read_mados, read_pastis, read_sen1floods11
from olmoearth.geobench import geobench_bands, read_geobench, safe_unpickle
from olmoearth.loading import absent_bands, collate
from olmoearth.modalities import modality
from olmoearth.readers import GENERA, HARVEST_BANDS, read_breizhcrops, read_cropharvest, read_labelled, read_task, read_treesat, read_treesat_file
from olmoearth.samples import InputError, Sample
from olmoearth.settings import find_data, rng
from olmoearth.stacks import write_geotiffs
from olmoearth.synthetic import World
from olmoearth.tasks import task, tasks

S2 = modality("sentinel2_l2a").bands


def seen(sample, name="sentinel2_l2a", t=0):
    "Band -> value of the first pixel; absent bands are left out."
    v, gone = sample.arrays[name][0, 0, t], sample.mask(name)[0, 0, t]
    return {b: float(x) for b, x, g in zip(modality(name).bands, v, gone) if not g}


# GEO-Bench


def test_geobench_bands_by_name(tmp_path):
    order = [NAMES[i] for i in rng(0, "order").permutation(13)]
    e = read_geobench(geobench(tmp_path / "m-bigearthnet", numbered(), label=np.array([0, 1, 1]), order=order), "train", "multilabel")[0]
    assert seen(e.sample) == {b: 100. * (CODES.index(b) + 1) for b in CODES if b != "B10"}
    assert e.target.dtype == bool and e.target.tolist() == [False, True, True]
    assert e.sample.shape == (4, 4) and e.sample.attrs["date_known"] is False and str(e.sample.times[0]) == "2020-06-01"


@pytest.mark.parametrize("dataset,true", [("m-eurosat", "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A"), ("m-brick-kiln", "B01 B02 B03 B04 B05 B07 B8A B08 B11 B12 x x x")])
def test_geobench_names_that_are_wrong_are_put_right(tmp_path, dataset, true):
    folder = geobench(tmp_path / dataset, numbered(), label=1)
    assert seen(read_geobench(folder, "train")[0].sample) == {b: 100. * (i + 1) for i, b in enumerate(true.split()) if b in S2}
    assert seen(read_geobench(folder, "train", as_stored=True)[0].sample) == {b: 100. * (CODES.index(b) + 1) for b in CODES if b != "B10"}
    if dataset == "m-brick-kiln": assert absent_bands(read_geobench(folder, "train")[0].sample, "sentinel2_l2a") == ["B06", "B09"]


def test_geobench_reflectance_becomes_digital_numbers_and_radar_is_left(tmp_path):
    bands = {**numbered(["01 - VH.Real", "06 - VV.LEE Filtered"], dtype=np.float32), **{n: np.full((4, 4), .1234, np.float32) for n in [*NAMES[1:9], *NAMES[11:]]}}
    s = read_geobench(geobench(tmp_path / "m-so2sat", bands, label=3), "train")[0].sample
    assert s.modalities == ("sentinel2_l2a",) and set(seen(s)) == set(CODES[1:9] + CODES[11:]) and np.allclose(list(seen(s).values()), 1234)
    assert absent_bands(s, "sentinel2_l2a") == ["B01", "B09"]


def test_geobench_landsat(tmp_path):
    names = ["04 - Red", "03 - Green", "02 - Blue", "05 - NIR", "06 - SWIR1", "07 - SWIR2"]
    crs, to = "EPSG:4326", rasterio.Affine(.0001, 0, 100, 0, -.0001, 2)
    s = read_geobench(geobench(tmp_path / "m-forestnet", {n: np.full((4, 4), i + 1, np.uint8) for i, n in enumerate(names)},
                               label=0, day="2015-08-01", crs=crs, transform=to), "train")[0].sample
    assert seen(s, "landsat") == {"B4": 1, "B3": 2, "B2": 3, "B5": 4, "B6": 5, "B7": 6} and s.attrs["landsat_unit"] == "8-bit"
    assert str(s.times[0]) == "2015-08-01" and s.attrs["date_known"] is True and s.crs == "EPSG:4326" and s.transform == tuple(to)[:6]


def test_geobench_segmentation_with_a_place(tmp_path):
    raster = np.arange(16, dtype=np.int16).reshape(4, 4) % 7
    crs = rasterio.crs.CRS.from_epsg(32631)
    bands, to = {**numbered(), "Cloud Probability": np.zeros((4, 4), np.int16)}, rasterio.Affine(10, 0, 5, 0, -10, 7)
    e = read_geobench(geobench(tmp_path / "m-cashew-plant", bands, raster=raster, day="2019-11-20", crs=crs, transform=to), "train", "segmentation")[0]
    assert np.array_equal(e.target, raster) and e.target.dtype == np.int64 and e.sample.crs == "EPSG:32631" and e.sample.transform == (10, 0, 5, 0, -10, 7)
    other = read_geobench(geobench(tmp_path / "m-SA-crop-type", bands, raster=raster, crs=crs, transform=to), "train", "segmentation")[0]
    assert other.sample.crs is None, "all chips of that data set carry the same place"


def test_geobench_json_instead_of_a_pickle(tmp_path):
    e = read_geobench(geobench(tmp_path / "m-eurosat", numbered(), label=4, text=True), "train")[0]
    assert e.target == 4 and seen(e.sample)["B8A"] == 1300


class Hostile:
    def __init__(self, path): self.path = path
    def __reduce__(self): return (open, (str(self.path), "w"))


def test_a_hostile_file_runs_nothing(tmp_path):
    folder = geobench(tmp_path / "m-eurosat", numbered(), label=1)
    for i, evil in enumerate((Hostile(tmp_path / "run"), {"label": Hostile(tmp_path / "run")}, np.array([Hostile(tmp_path / "run")], object))):
        with h5py.File(folder / "a.hdf5", "a") as f: f.attrs["pickle"] = str(pickle.dumps(evil))
        with pytest.raises(InputError, match="a.hdf5 cannot be read.*(never writes|array of)"): read_geobench(folder, "train")[0]
        assert not (tmp_path / "run").exists(), i
    with h5py.File(folder / "a.hdf5", "a") as f: f.attrs["pickle"] = f"open({str(tmp_path / 'run')!r}, 'w')"
    with pytest.raises(InputError, match="a.hdf5 cannot be read"): read_geobench(folder, "train")[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["i1", "<i4", ">i8", "u2", "f4", ">f8", "?"])
@pytest.mark.parametrize("protocol", (3, 4))
def test_arrays_come_back_from_pickles(dtype, protocol):
    a = (np.arange(12).reshape(3, 4) % 5).astype(dtype)
    for v in (a, np.asfortranarray(a)):
        back = safe_unpickle(pickle.dumps({"a": [v, (v,)], "s": v.dtype.type(1)}, protocol=protocol))
        assert np.array_equal(back["a"][0], a) and np.array_equal(back["a"][1][0], a) and back["s"] == 1


@pytest.mark.parametrize("evil", [np.array([1, None], object), np.zeros(2, [("a", "O")]), np.zeros(1, "M8[s]"), print, types.SimpleNamespace(a=1), np.ma.masked_array([1])])
def test_what_the_benchmark_does_not_write_is_refused(evil):
    with pytest.raises(pickle.UnpicklingError): safe_unpickle(pickle.dumps(evil))


def test_geobench_faults(tmp_path):
    with pytest.raises(InputError, match="'nothing' holds no default_partition.json .there: no such folder"): read_geobench(tmp_path / "nothing", "train")
    folder = geobench(tmp_path / "m-eurosat", numbered(), label=1)
    with pytest.raises(InputError, match="no split 'tests'; it has train, valid, test"): read_geobench(folder, "tests")
    with pytest.raises(InputError, match="does not fit kind='segmentation'"): read_geobench(folder, "train", "segmentation")[0]
    geobench(folder, numbered(), label=1, order=[*NAMES, "13 - Red"])
    with pytest.raises(InputError, match="band 13 - Red is named and not there"): read_geobench(folder, "train")[0]
    geobench(folder, {**numbered(), NAMES[3]: np.zeros((2, 2), np.int16)}, label=1)
    with pytest.raises(InputError, match="resample them to one size"): read_geobench(folder, "train")[0]
    geobench(folder, numbered(["red", "nir"]), label=1)
    with pytest.raises(InputError, match="none of the bands nir, red is known"): read_geobench(folder, "train")[0]
    geobench(folder, numbered(), label=1); cut_short(folder / "a.hdf5")
    with pytest.raises(InputError, match="a.hdf5 cannot be read, it is cut short"): read_geobench(folder, "train")[0]
    (folder / "a.hdf5").unlink()
    with pytest.raises(InputError, match="a.hdf5 is not there; the download is not complete"): read_geobench(folder, "train")[0]
    assert geobench_bands("m-bigearthnet", ["04 - Red"]) == ("sentinel2_l2a", {"04 - Red": "B04"})


# PASTIS-R


def test_pastis(tmp_path):
    folder = pastis(tmp_path / "PASTIS-R")
    e = read_pastis(folder, "train", ("sentinel2_l2a", "sentinel1"))[0]
    assert [read_pastis(folder, s).names for s in ("train", "val", "test")] == [["10", "13"], ["11"], ["12"]]
    order = "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12".split()
    assert seen(e.sample, t=2) == {b: 450. + i for i, b in enumerate(order)} and absent_bands(e.sample, "sentinel2_l2a") == ["B01", "B09"]
    assert seen(e.sample, "sentinel1", 11) == {"vv": -10, "vh": -17} and e.sample.n_times == 12 and str(e.sample.times[-1]) == "2019-08-01"
    assert set(np.unique(e.target)) == {-1, 18} and (np.diag(e.target) == -1).all()
    whole = read_pastis(folder, "train", months=None)[0].sample
    assert whole.n_times == 28 and str(whole.times[1]) == "2018-09-25"
    only = read_pastis(folder, "train", ("sentinel1",), orbit="D")[0].sample
    assert only.n_times == 10 and only.modalities == ("sentinel1",)


def test_pastis_faults(tmp_path):
    with pytest.raises(InputError, match="PASTIS-R: .* holds no metadata.geojson"): read_pastis(tmp_path, "train")
    folder = pastis(tmp_path / "p")
    with pytest.raises(InputError, match="no split 'fold1'"): read_pastis(folder, "fold1")
    cut_short(folder / "DATA_S2/S2_10.npy")
    with pytest.raises(InputError, match="S2_10.npy cannot be read, it is cut short"): read_pastis(folder, "train")[0]
    pastis(folder, bands=9)
    with pytest.raises(InputError, match=r"S2_10.npy has shape \(28, 9, 8, 8\).*a band is missing"): read_pastis(folder, "train")[0]
    pastis(folder); np.save(folder / "DATA_S2/S2_10.npy", np.zeros((27, 10, 8, 8), np.int16))
    with pytest.raises(InputError, match="27 images, metadata.geojson 28 dates"): read_pastis(folder, "train")[0]
    (folder / "ANNOTATIONS/TARGET_13.npy").unlink()
    with pytest.raises(InputError, match="TARGET_13.npy is not there"): read_pastis(folder, "train")[1]
    (folder / "metadata.geojson").write_text('{"features": [')
    with pytest.raises(InputError, match="metadata.geojson cannot be read"): read_pastis(folder, "train")


def test_monthly_means_skip_gaps():
    g = rng(0, "monthly")
    days = np.sort(g.integers(17900, 18300, 30)).astype("datetime64[D]")
    v, gone = g.normal(size=(3, 2, 30, 4)), g.random((3, 2, 30, 4)) < .3
    v[gone] = np.nan
    months, mean, gaps = monthly(days, v, gone)
    for i, m in enumerate(months.astype("datetime64[M]")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = np.nanmean(v[:, :, days.astype("datetime64[M]") == m], axis=2)
        assert np.allclose(np.where(gaps[:, :, i], np.nan, mean[:, :, i]), want, equal_nan=True, atol=1e-6)


# MADOS


@pytest.mark.parametrize("leave,absent", [((), ["B09"]), ((740,), ["B06", "B09"])])
def test_mados(tmp_path, leave, absent):
    e = read_mados(mados(tmp_path, leave=leave), "train")[1]
    nm = dict(zip("B01 B02 B03 B04 B05 B06 B07 B08 B8A B11 B12".split(), MADOS))
    assert seen(e.sample) == pytest.approx({b: w for b, w in nm.items() if b not in absent}, abs=.01) and absent_bands(e.sample, "sentinel2_l2a") == absent
    assert e.sample.shape == (24, 24) and (np.diag(e.target) == 14).all() and (e.target == -1).sum() == 24 * 23


def test_mados_gaps_stay_gaps(tmp_path):
    folder = mados(tmp_path)
    v = np.full((24, 24), .05, np.float32); v[3, 4] = np.nan
    tif(folder / "Scene_0/10/Scene_0_L2R_rhorc_492_1.tif", v, crs=None)
    gone = read_mados(folder, "train")[0].sample.mask("sentinel2_l2a")[:, :, 0, S2.index("B02")]
    assert gone.sum() == 1 and gone[3, 4]


def test_mados_faults(tmp_path):
    with pytest.raises(InputError, match="MADOS: .* holds no splits/train_X.txt"): read_mados(tmp_path, "train")
    folder = mados(tmp_path / "m")
    (folder / "Scene_0/20/Scene_0_L2R_rhorc_864_1.tif").unlink()
    with pytest.raises(InputError, match=r"MADOS Scene_0_1: band B8A \(865 nm\) is not there"): read_mados(folder, "train")[0]
    cut_short(mados(folder) / "Scene_0/10/Scene_0_L2R_rhorc_833_1.tif")
    with pytest.raises(InputError, match="rhorc_833_1.tif cannot be read, it is cut short"): read_mados(folder, "train")[0]
    (mados(folder) / "Scene_0/10/Scene_0_L2R_cl_1.tif").unlink()
    with pytest.raises(InputError, match="no Scene_0_L2R_cl_1.tif"): read_mados(folder, "train")[0]


# Sen1Floods11


@pytest.mark.parametrize("flat", (True, False))
def test_sen1floods11(tmp_path, flat):
    floods(tmp_path, flat=flat)
    e = read_sen1floods11(tmp_path, "val", ("sentinel1", "sentinel2_l2a"))[0]
    order = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()
    assert seen(e.sample) == {b: 100. * (i + 1) for i, b in enumerate(order) if b != "B10"} and seen(e.sample, "sentinel1") == {"vv": -10, "vh": -17}
    assert (e.target == 1).sum() == 4 and (e.target == -1).sum() == 1 and e.sample.n_times == 1 and str(e.sample.times[0]) == FLOODS["Ghana"][0]
    assert e.sample.attrs["date_known"] is True and e.sample.name == "Ghana_1"
    assert read_sen1floods11(tmp_path, "valid")[0].sample.modalities == ("sentinel1",)


def test_sen1floods11_faults(tmp_path):
    with pytest.raises(InputError, match="Sen1Floods11: .* holds no flood_train_data.csv"): read_sen1floods11(tmp_path, "train")
    floods(tmp_path, s2=12)
    with pytest.raises(InputError, match="12 bands, but the map names 13"): read_sen1floods11(tmp_path, "valid", ("sentinel2_l2a",))[0]
    cut_short(floods(tmp_path)("S1Hand"))
    with pytest.raises(InputError, match="Ghana_1_S1Hand.tif cannot be read"): read_sen1floods11(tmp_path, "valid")[0]
    floods(tmp_path)("LabelHand").unlink()
    with pytest.raises(InputError, match="holds no LabelHand/Ghana_1_LabelHand.tif"): read_sen1floods11(tmp_path, "valid")[0]


def test_the_real_flood_chip(tmp_path):
    if (real := find_data("sen1floods11")) is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    for f in real.glob("*.tif"): (tmp_path / f.name).symlink_to(f)
    (tmp_path / "flood_test_data.csv").write_text("Spain_7370579_S1Hand.tif,Spain_7370579_LabelHand.tif\n")
    tiles = list(read_task("Sen1Floods11-S1", tmp_path, "test"))
    assert 50 < len(tiles) <= 64 and all(t.sample.shape == (64, 64) and (t.target == 1).any() for t in tiles)
    whole = read_task("Sen1Floods11-ft", tmp_path, "test", tiles=False)[0]
    assert whole.target.shape == (512, 512) and whole.sample.labels["target"].ignore == (-1,) and str(whole.sample.times[0]) == "2019-09-17"
    assert -30 < np.median(whole.sample.arrays["sentinel1"]) < -5


# BreizhCrops

BREIZH = "B1 B10 B11 B12 B2 B3 B4 B5 B6 B7 B8 B8A B9".split()


def test_breizhcrops(tmp_path):
    train = read_breizhcrops(breizh(tmp_path), "train")
    assert train.names == ["frh01/0", "frh02/0"] and [e.target for e in train] == [0, 1]
    pad = lambda b: f"B0{b[1:]}" if len(b) == 2 else b
    assert seen(train[0].sample) == {pad(b): 5. + 100 * i for i, b in enumerate(BREIZH) if b != "B10"}
    assert train[0].sample.times.astype(str).tolist() == ["2017-01-01", "2017-02-01"] and train[0].sample.shape == (1, 1)
    assert seen(train[0].sample, t=1)["B01"] == 20, "of two entries of one day the first counts"
    assert read_breizhcrops(tmp_path, "train", months=False)[0].sample.times.astype(str).tolist() == ["2017-01-05", "2017-01-25", "2017-02-04"]


def test_breizhcrops_faults(tmp_path):
    with pytest.raises(InputError, match="holds no classmapping.csv"): read_breizhcrops(tmp_path, "train")
    breizh(tmp_path, bands=16)
    with pytest.raises(InputError, match=r"\(T, 17\) expected: a band is missing"): read_breizhcrops(tmp_path, "train")[0]
    cut_short(breizh(tmp_path) / "2017/L1C/frh04.h5")
    with pytest.raises(InputError, match="frh04.h5 cannot be read, it is cut short"): read_breizhcrops(tmp_path, "test")[0]
    (tmp_path / "2017/L1C/frh03.h5").unlink()
    with pytest.raises(InputError, match="no 2017/L1C/frh03.h5"): read_breizhcrops(tmp_path, "valid")
    (tmp_path / "classmapping.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="classmapping.csv has no column code, id"): read_breizhcrops(tmp_path, "test")


# CropHarvest


def test_cropharvest(tmp_path):
    elsewhere = [{"index": 50, "is_crop": True, "lon": 30.0}, {"index": 51, "is_crop": True, "is_test": True}]
    folder = harvest(tmp_path, [*({"index": i, "is_crop": i % 2 == 0} for i in range(20)), *elsewhere])
    every = ("sentinel2_l2a", "sentinel1", "era5_10", "srtm")
    train, valid, test = (read_cropharvest(folder, s, sensors=every) for s in ("train", "val", "test"))
    assert (len(train), len(valid), len(test)) == (16, 4, 2) and not set(train.names) & set(valid.names) and "50_togo" not in train.names + valid.names
    assert sum(e.target for e in valid) == 2, "drawn by class"
    assert [e.target for e in test] == [1, 0]
    for e in (train[0], test[0]):
        s = e.sample
        where = {(f"B0{b[1:]}" if len(b) == 2 else b): i for i, b in enumerate(HARVEST_BANDS) if b[0] == "B"}
        assert seen(s, t=3) == {b: 300. + i for b, i in where.items()} and seen(s, "sentinel1", 3) == {"vv": 300, "vh": 301}
        assert s.arrays["era5_10"][3, [0, 5]].tolist() == [313, 314] and s.arrays["srtm"].item() == 15 and s.times[[0, -1]].astype(str).tolist() == ["2019-02-06", "2020-01-02"]
    assert read_task("CH-PRC-S2", tmp_path, "test")[0].sample.n_times == 6
    again = read_cropharvest(folder, "train").names
    assert again == train.names


def test_cropharvest_faults(tmp_path):
    with pytest.raises(InputError, match="holds no labels.geojson"): read_cropharvest(tmp_path, "train")
    with pytest.raises(InputError, match="no test_features/togo-eval"): read_cropharvest(tmp_path, "test")
    with pytest.raises(InputError, match="no test set for 'Mali'"): read_cropharvest(tmp_path, "train", "Mali")
    harvest(tmp_path, [{"index": 1, "is_crop": True}], bands=17)
    for s in ("train", "test"):
        with pytest.raises(InputError, match=r"\(12, 18\) expected: a band is missing"): read_cropharvest(tmp_path, s)[0]
    with pytest.raises(InputError, match="CropHarvest has no landsat"): read_cropharvest(harvest(tmp_path, [{"index": 1, "is_crop": True}]), "train", sensors=("landsat",))[0]
    cut_short(tmp_path / "features/arrays/1_togo.h5"); cut_short(tmp_path / "test_features/togo-eval.h5")
    with pytest.raises(InputError, match="1_togo.h5 cannot be read, it is cut short"): read_cropharvest(tmp_path, "train")[0]
    with pytest.raises(InputError, match="togo-eval.h5 cannot be read"): read_cropharvest(tmp_path, "test")
    with pytest.raises(InputError, match="no labelled place of China has a file"): read_cropharvest(tmp_path, "train", "China")


def test_the_real_field_of_togo(tmp_path):
    if (real := find_data("cropharvest_togo")) is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    (tmp_path / "eo_data").mkdir()
    for f in real.glob("*.tif"): (tmp_path / "eo_data" / f.name).symlink_to(f)
    row = {"index": 98, "dataset": "togo", "lon": 1.0, "lat": 8.0, "is_crop": True, "is_test": False}
    (tmp_path / "labels.geojson").write_text(json.dumps({"features": [{"properties": row}]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        e = read_task("CH-Togo-S1S2", tmp_path, "train")[0]
    assert e.target == 1 and e.sample.shape == (17, 17) and e.sample.n_times == 12 and e.sample.modalities == ("sentinel2_l2a", "sentinel1")


# TreeSat

def treesat(folder, name="Abies_alba_1_1_X", bands=10, shares=(("Abies", .9), ("Pinus", .08), ("Picea", .05)), leave=()):
    (folder / "labels").mkdir(parents=True, exist_ok=True); (folder / "sentinel").mkdir(exist_ok=True)
    days = ["20200105", "20200120", "20200310"]
    with h5py.File(folder / f"sentinel/{name}.h5", "w") as f:
        f["sen-2-data"] = np.broadcast_to((np.arange(3)[:, None] * 100 + np.arange(bands))[:, :, None, None], (3, bands, 6, 6)).astype(np.float32)
        cloud = np.zeros((3, 10, 6, 6), np.float32); cloud[1, 1] = 80
        f["sen-2-masks"] = cloud
        f["sen-2-products"] = [f"S2A_MSIL2A_{d}T102421_N0213_R065_T32UNC_{d}T115419" for d in days]
        for o, p in (("asc", .1), ("des", .001)):
            f[f"sen-1-{o}-data"] = np.broadcast_to(np.array([p, p / 10])[None, :, None, None], (3, 2, 6, 6)).astype(np.float32)
            f[f"sen-1-{o}-products"] = [f"S1A_IW_GRDH_1SDV_{d}T170841_{d}T170906_030639_0382D5_360A" for d in days]
        for k in leave: del f[k]
    (folder / "val_filenames.lst").write_text(f"{name}.tif\n")
    (folder / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps({f"{name}.tif": list(shares)}))
    return folder


def test_treesat(tmp_path):
    e = read_treesat(treesat(tmp_path), "valid")[0]
    assert [g for g, t in zip(GENERA, e.target) if t] == ["Abies", "Pinus"] and e.sample.times.astype(str).tolist() == ["2020-01-01", "2020-03-01"]
    order = "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12".split()
    assert seen(e.sample) == {b: float(i) for i, b in enumerate(order)}, "the cloudy image of January does not count"
    assert seen(e.sample, "sentinel1")["vv"] == pytest.approx(10 * np.log10((.1 + .001) / 2), abs=1e-4), "powers are averaged, not decibels"
    every = read_treesat_file(tmp_path / "sentinel/Abies_alba_1_1_X.h5", months=False)
    assert every.n_times == 3 and every.mask("sentinel2_l2a")[:, :, 1].all() and seen(every, "sentinel1") == pytest.approx({"vv": -10, "vh": -20}, abs=1e-4)


def test_treesat_faults(tmp_path):
    with pytest.raises(InputError, match="TreeSat: .* holds no test_filenames.lst"): read_treesat(tmp_path, "test")
    with pytest.raises(InputError, match="a band is missing"): read_treesat(treesat(tmp_path, bands=9), "valid")[0]
    with pytest.raises(InputError, match="has no sen-1-des-data; it is not of the TreeSatAI"): read_treesat(treesat(tmp_path, leave=("sen-1-des-data",)), "valid")[0]
    with pytest.raises(InputError, match="unknown genus Ginkgo"): read_treesat(treesat(tmp_path, shares=[("Ginkgo", 1.)]), "valid")[0]
    with pytest.raises(InputError, match="no genus covers"): read_treesat(treesat(tmp_path, shares=[]), "valid")[0]
    cut_short(treesat(tmp_path) / "sentinel/Abies_alba_1_1_X.h5")
    with pytest.raises(InputError, match="WEFL_NLF.h5|X.h5 cannot be read, it is cut short"): read_treesat(tmp_path, "valid")[0]


def test_the_real_firs():
    if (real := find_data("treesat")) is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    file = next(real.glob("*.h5"))
    s = read_treesat_file(file)
    assert s.shape == (6, 6) and s.n_times == 12 and str(s.times[0]) == "2020-01-01" and absent_bands(s, "sentinel2_l2a") == ["B01", "B09"]
    assert -25 < np.median(s.arrays["sentinel1"]) < -5
    assert s.arrays["sentinel2_l2a"][:, :, 5:8, 0][~s.mask("sentinel2_l2a")[:, :, 5:8, 0]].max() < 1000, "no cloud of the summer is left, though some are filed as snow"
    nir, red = (s.arrays["sentinel2_l2a"][:, :, 6, S2.index(b)].mean() for b in ("B08", "B04"))
    assert nir > 3 * red, "firs in July"
    assert read_treesat_file(file, ("sentinel2_l2a",), months=False).n_times == 146


# a folder of labelled GeoTIFFs

def windows(folder, kinds="written", names="ab", side=8):
    world = World(seed=0, clouds=0., missing_time=0, missing_modality=0)
    samples = [world.window(716160 + 1600 * i, -7936, side, 2020, 3, ("sentinel2_l2a", "sentinel1")) for i in range(len(names))]
    folder.mkdir(parents=True, exist_ok=True)
    for n, s in zip(names, samples):
        if kinds == "written": write_geotiffs(s, folder / n)
        else:
            for k in s.modalities:
                flat = np.moveaxis(s.arrays[k], (2, 3), (0, 1)).reshape(-1, side, side)
                tif(folder / k / f"{n}.tif", flat, [f"{b} {t}" for t in s.times for b in modality(k).bands], s.crs, s.transform)
    return samples


@pytest.mark.parametrize("kinds", ("written", "files"))
def test_labelled_images_come_back(tmp_path, kinds):
    samples = windows(tmp_path, kinds)
    (tmp_path / "labels.csv").write_text("name,split,label\na,train,1\nb,validation,2\n")
    e = read_labelled(tmp_path, "val", sensors=("sentinel2_l2a", "sentinel1"))[0]
    assert e.target == 2 and e.sample.name == "b" and np.array_equal(e.sample.times, samples[1].times) and e.sample.crs == samples[1].crs
    for k in ("sentinel2_l2a", "sentinel1"): assert np.allclose(e.sample.arrays[k], np.where(samples[1].mask(k), 0, samples[1].arrays[k])) or e.sample.mask(k).any()
    assert read_labelled(tmp_path, "train", sensors=("sentinel1",))[0].sample.modalities == ("sentinel1",)


@pytest.mark.parametrize("kind,text,names,want", [("classification", "tea", ["maize", "Tea"], 1), ("classification", "1", [], 1), ("regression", "12.5", [], 12.5),
                                                  ("multilabel", "b; a", ["a", "b", "c"], [True, True, False])])
def test_labels_of_every_kind(tmp_path, kind, text, names, want):
    windows(tmp_path, names="a")
    (tmp_path / "labels.csv").write_text(f"name,split,label\na,train,{text}\n")
    got = read_labelled(tmp_path, "train", kind, names=names)[0].target
    assert (got.tolist() if isinstance(got, np.ndarray) else got) == want


def test_label_rasters(tmp_path):
    s = windows(tmp_path, names="a")[0]
    (tmp_path / "labels.csv").write_text("name,split\na,train\n")
    v = np.arange(64, dtype=np.uint8).reshape(8, 8) % 5; v[0, 0] = 255
    tif(tmp_path / "labels/a.tif", v, crs=s.crs, transform=s.transform)
    e = read_labelled(tmp_path, "train", "segmentation")[0]
    assert e.target[0, 0] == -1 and np.array_equal(e.target.ravel()[1:], v.ravel()[1:])
    t = read_task("Solar-S2-ft", tmp_path, "train")
    with pytest.raises(InputError, match="class 4, but the task has 2 classes"): _ = t[0]
    tif(tmp_path / "labels/a.tif", v[:4], crs=s.crs, transform=s.transform)
    with pytest.raises(InputError, match="4 x 8 px, its image 8 x 8"): read_labelled(tmp_path, "train", "segmentation")[0]


def test_the_ecosystem_atlas_has_its_own_no_data_class(tmp_path):
    s = windows(tmp_path, names="a")[0]
    (tmp_path / "labels.csv").write_text("name,split\na,train\n")
    tif(tmp_path / "labels/a.tif", np.full((8, 8), 54, np.uint8), crs=s.crs, transform=s.transform)
    assert (read_task("GEA-S2-ft", tmp_path, "train")[0].target == -1).all()


def test_objects_are_centres(tmp_path):
    s = windows(tmp_path, names="a")[0]
    (tmp_path / "labels.csv").write_text("name,split\na,train\n")
    v = np.zeros((8, 8), np.uint8); v[2, 3] = 2
    tif(tmp_path / "labels/a.tif", v, crs=s.crs, transform=s.transform)
    e = read_task("MarInfra-S1S2-ft", tmp_path, "train")[0]
    assert e.target[2, 3] == 2 and e.target.sum() == 2 and e.sample.labels["target"].classes == {0: "no object", 1: "platform", 2: "turbine"}


def test_labelled_faults(tmp_path):
    with pytest.raises(InputError, match="labelled GeoTIFFs: .* holds no labels.csv"): read_labelled(tmp_path, "train")
    windows(tmp_path, "files", "a")
    (tmp_path / "labels.csv").write_text("name,split\na,train\n")
    with pytest.raises(InputError, match="labels.csv has no column label"): read_labelled(tmp_path, "train")
    (tmp_path / "labels.csv").write_text("name,split,label\na,train,x\nc,train,1\n")
    with pytest.raises(InputError, match="no example of split 'test'; it has train"): read_labelled(tmp_path, "test")
    with pytest.raises(InputError, match="'x' is neither a number nor one of"): read_labelled(tmp_path, "train")[0]
    with pytest.raises(InputError, match="'x' is no number"): read_labelled(tmp_path, "train", "regression")[0]
    with pytest.raises(InputError, match="need the names of all classes"): read_labelled(tmp_path, "train", "multilabel")[0]
    with pytest.raises(InputError, match="no sentinel2_l2a/c.tif"): read_labelled(tmp_path, "train")[1]
    with pytest.raises(InputError, match="no landsat/a.tif"): read_labelled(tmp_path, "train", sensors=("landsat",))[0]
    two = np.ones((3, 8, 8), np.float32)
    tif(tmp_path / "sentinel1/a.tif", two, ["vv 2020-01-01", "vh 2020-01-01", "vv 2020-02-01"])
    with pytest.raises(InputError, match="band vh is not there at every date"): read_labelled(tmp_path, "train", sensors=("sentinel1",))[0]
    tif(tmp_path / "sentinel1/a.tif", two)
    with pytest.raises(InputError, match="its bands have no names"): read_labelled(tmp_path, "train", sensors=("sentinel1",))[0]
    cut_short(tmp_path / "sentinel2_l2a/a.tif")
    with pytest.raises(InputError, match="a.tif cannot be read"): read_labelled(tmp_path, "train")[0]


def test_a_single_date_comes_from_the_tag_or_the_table(tmp_path):
    v = np.ones((2, 8, 8), np.float32) * -10
    tif(tmp_path / "sentinel1/a.tif", v, ["vv", "vh"], datetime="2021-03-04T10:00:00")
    for name in "bc": tif(tmp_path / f"sentinel1/{name}.tif", v, ["VV", "VH"])
    (tmp_path / "labels.csv").write_text("name,split,label,date\na,train,1,\nb,train,1,2022-05-06\nc,train,1,\n")
    got = [e.sample for e in read_labelled(tmp_path, "train", sensors=("sentinel1",))]
    assert [str(s.times[0]) for s in got] == ["2021-03-04", "2022-05-06", "2020-06-01"] and [s.attrs["date_known"] for s in got] == [True, True, False]


# all together

def test_examples_are_read_when_they_are_asked_for(tmp_path):
    folder = pastis(tmp_path)
    for f in (folder / "DATA_S2").iterdir(): f.unlink()
    examples = read_task("PASTIS-S2", folder, "train", tiles=False)
    assert isinstance(examples, Examples) and len(examples) == 2
    with pytest.raises(InputError, match="S2_10.npy is not there"): _ = examples[0]


def test_tiles_as_the_protocol_cuts_them():
    target = np.full((8, 12), -1); target[5, 9] = 1; target[0, 0] = 0
    v = np.zeros((8, 12, 1, 2), np.float32)
    s = Sample({"sentinel1": v}, np.array(["2020-01-01"]), name="x", crs="EPSG:32636", transform=(10, 0, 0, 0, -10, 0))
    whole = [Example(s, target)]
    assert len(list(Tiles(whole, 4))) == 6 and [t.sample.name for t in Tiles(whole, 4, "labelled")] == ["x_0_0", "x_4_8"]
    t = next(iter(Tiles(whole, 4, "water")))
    assert t.sample.name == "x_4_8" and t.target[1, 1] == 1 and t.sample.transform == (10, 0, 80, 0, -10, -40)
    v[5, 9, 0, 1] = np.nan
    assert not list(Tiles(whole, 4, "water"))
    v[..., 1] = np.nan
    assert len(list(Tiles(whole, 4, "water"))) == 1, "a band that is not there at all is no gap"
    with pytest.raises(InputError, match="cannot be cut into tiles of 16"): list(Tiles(whole, 16))
    with pytest.raises(InputError, match="keep='some'"): Tiles(whole, 4, "some")


@pytest.mark.parametrize("t", tasks(), ids=lambda t: t.name)
def test_every_task_has_a_reader_that_names_a_wrong_folder(tmp_path, t):
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(InputError, match=r"holds no .*there: holiday.jpg"): read_task(t.name, tmp_path, "train")


def test_the_folder_above_will_do(tmp_path):
    geobench(tmp_path / "classification_v1.0/m-eurosat", numbered(), label=2)
    for folder in (tmp_path, tmp_path / "classification_v1.0", tmp_path / "classification_v1.0/m-eurosat"): assert read_task("m-eurosat", folder, "train")[0].target == 2
    geobench(tmp_path / "segmentation_v1.0/m-SA-crop-type", numbered(), raster=np.full((4, 4), 9, np.int16))
    e = read_task(task("m-SAcrop-ft"), tmp_path, "train")[0]
    assert e.sample.labels["target"].classes[9] == "rooibos"


def test_a_class_the_task_does_not_have(tmp_path):
    geobench(tmp_path / "m-eurosat", numbered(), label=10)
    with pytest.raises(InputError, match="class 10, but the task has 10 classes"): _ = read_task("m-eurosat", tmp_path, "train")[0]
    geobench(tmp_path / "m-bigearthnet", numbered(), label=np.ones(19, int))
    with pytest.raises(InputError, match="19 labels, 43 expected"): _ = read_task("m-bigearthnet", tmp_path, "train")[0]


def test_samples_go_into_the_model(tmp_path):
    "Absent bands are filled by the loader, as everywhere."
    geobench(tmp_path / "m-so2sat", {n: np.full((8, 8), .1, np.float32) for n in [*NAMES[1:9], *NAMES[11:]]}, label=3)
    pastis(tmp_path / "PASTIS-R")
    for name in ("m-so2sat", "PASTIS-S2"):
        s = read_task(name, tmp_path, "train", tiles=False)[0].sample
        batch = collate([s], 4)
        assert np.isfinite(batch.values["sentinel2_l2a"].numpy()).all() and not batch.missing["sentinel2_l2a"].any()


def test_the_input_check_can_be_asked_for(tmp_path):
    geobench(tmp_path / "m-bigearthnet", {n: np.full((8, 8), .1, np.float32) for n in NAMES}, label=np.ones(43, int))
    assert read_task("m-bigearthnet", tmp_path, "train")[0].target.all()
    with pytest.raises(InputError, match="reflectance|missing band|never darker|digital"): _ = read_task("m-bigearthnet", tmp_path, "train", check="raise")[0]
