"Samples and modalities: exact round trips, windows of every kind of modality, faults."
import warnings

import numpy as np
import pytest

from olmoearth.modalities import BandSet, Modality, UnknownName, bandsets, modality, register, registry
from olmoearth.samples import InputError, Label, Sample, crop, dates_from_numbers, day_index, from_xarray, month_index, same, to_xarray
from olmoearth.settings import rng


def everything(seed: int, height: int = 12, width: int = 8, t: int = 3) -> Sample:
    "A sample with every registered kind of modality, odd types, NaN, masks of some."
    draw = rng(seed, "everything")
    arrays, missing = {}, {}
    for name, m in registry().items():
        ground = (height * m.factor, width * m.factor)
        shape = {"space-time": (*ground, t), "space": (*ground, 1), "time": (t,), "image": (16, 24, 1), "point": ()}[m.kind] + (m.n_bands,)
        values = draw.uniform(m.valid[0], min(m.valid[1], 30000), shape).astype(draw.choice([m.dtype, "float32", "float64"]))
        if values.dtype.kind == "f": values.flat[0] = np.nan
        arrays[name] = values
        if draw.random() < .5: missing[name] = draw.random(shape) < .3
    label = Label(draw.integers(0, 4, (height, width)).astype("int16"), {0: "none", 1: "maize field", 3: "Wald"}, (0, 255))
    times = np.array(["2021-01-31", "2021-02-01", "2021-12-31"], "datetime64[D]")[:t]
    return Sample(arrays, times, missing, "EPSG:32736", (10.0, 0, 617301.8198784497, 0, -10.0, 9625098.22745184), {"crop": label, "other": label}, "Ünï",
                  {"source": "test", "nested": {"a": [1, 2.5, None]}})


@pytest.mark.parametrize("seed", range(5))
def test_xarray_round_trip_is_exact(seed, tmp_path):
    sample = everything(seed)
    assert same(from_xarray(to_xarray(sample)), sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        to_xarray(sample).to_zarr(tmp_path / "s.zarr")
        import xarray as xr
        assert same(from_xarray(xr.open_zarr(tmp_path / "s.zarr").load()), sample)


@pytest.mark.parametrize("change", [
    lambda s: s.arrays["srtm"].__setitem__((0, 0, 0, 0), s.arrays["srtm"][0, 0, 0, 0] + 1),
    lambda s: s.arrays.__setitem__("srtm", s.arrays["srtm"].astype("float64" if s.arrays["srtm"].dtype != "float64" else "float32")),
    lambda s: s.missing.__setitem__("srtm", np.zeros(s.arrays["srtm"].shape, bool) if "srtm" not in s.missing else ~s.missing["srtm"]),
    lambda s: s.attrs.__setitem__("source", "elsewhere"),
    lambda s: s.labels.pop("crop"),
    lambda s: setattr(s, "transform", (10, 0, 0, 0, -10, 0)),
])
def test_same_sees_every_difference(change):
    a, b = everything(0), everything(0)
    assert same(a, b)
    change(b)
    assert not same(a, b)


def test_a_sample_without_georeference_or_with_rotation_survives():
    bare = Sample({"sentinel1": np.zeros((4, 4, 1, 2), "float32")}, ["2020-01-01"])
    turned = Sample({"sentinel1": np.zeros((4, 4, 1, 2), "float32")}, ["2020-01-01"], crs="EPSG:32632", transform=(7, 7, 0, 7, -7, 0))
    assert same(from_xarray(to_xarray(bare)), bare) and same(from_xarray(to_xarray(turned)), turned)


def test_the_dataset_carries_a_usable_georeference():
    ds = to_xarray(everything(0))
    assert ds.rio.crs.to_epsg() == 32736
    assert ds.rio.bounds() == pytest.approx((617301.8198784497, 9625098.22745184 - 120, 617301.8198784497 + 80, 9625098.22745184))


def test_crop_cuts_all_ground_modalities_alike():
    sample = everything(1)
    part = crop(sample, 3, 2, 4, 5)
    assert part.arrays["naip_10"].shape == (16, 20, 1, 4) and part.arrays["gse"].shape == (4, 5, 1, 64)
    assert (part.arrays["naip_10"] == sample.arrays["naip_10"][12:28, 8:28]).all() or np.isnan(sample.arrays["naip_10"]).any()
    assert part.arrays["era5_10"].tobytes() == sample.arrays["era5_10"].tobytes() and part.labels["crop"].values.shape == (4, 5)
    assert part.transform[2] == sample.transform[2] + 20 and part.transform[5] == sample.transform[5] - 30
    assert same(crop(crop(sample, 1, 1, 8, 6), 2, 1, 4, 5), part)
    for window in ((-1, 0, 4), (0, 0, 13), (10, 0, 4), (0, 0, 0)):
        with pytest.raises(InputError, match="leaves the sample of 12 x 8"): crop(sample, *window)


def test_dates_of_leap_years_and_both_bases():
    for base in (0, 1):
        got = dates_from_numbers([29, 31], [1 + base, 11 + base], [2020, 2020], month_base=base)
        assert [str(d) for d in got] == ["2020-02-29", "2020-12-31"]
    assert month_index(np.array(["1999-12-31", "2000-01-01"], "datetime64[D]")).tolist() == [11, 0]
    assert day_index(np.array(["1999-12-31", "2000-01-01"], "datetime64[D]")).tolist() == [-1, 0]
    with pytest.raises(InputError, match="month_base=0"): dates_from_numbers([1], [0], [2020], month_base=1)
    with pytest.raises(InputError, match="do not exist"): dates_from_numbers([29], [1], [2021], month_base=0)
    with pytest.raises(InputError, match="use 0"): dates_from_numbers([1], [1], [2021], month_base=2)


def test_registry_faults():
    with pytest.raises(UnknownName, match="known: sentinel2_l2a"): modality("sentinel2")
    with pytest.raises(ValueError, match="stands twice"): register(Modality("twice", "x", "space", (BandSet(("a", "a"), 10),), "1", (0, 1)))
    with pytest.raises(ValueError, match="is empty"): register(Modality("empty", "x", "space", (BandSet(("a",), 10),), "1", (1, 1)))
    with pytest.raises(ValueError, match="unknown bands"): register(Modality("stats", "x", "space", (BandSet(("a",), 10),), "1", (0, 1), stats={"b": (0, 1)}))
    with pytest.raises(ValueError, match="same bands"):
        register(Modality("single", "x", "space", (BandSet(("a",), 10), BandSet(("b",), 20)), "1", (0, 1), single=(BandSet(("b", "a"), 10),)))
    with pytest.raises(UnknownName, match="v1, single"): bandsets("landsat", "v2")
    assert register(modality("landsat")) is modality("landsat")   # the same once more is no fault


def test_band_order_and_statistics_are_those_of_the_release():
    assert modality("sentinel2_l2a").bands == tuple("B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09".split())
    assert modality("landsat").bands == tuple("B8 B1 B2 B3 B4 B5 B6 B7 B9 B10 B11".split())
    assert len(modality("openstreetmap_raster").bands) == 30 and len(modality("worldcereal").bands) == 8
    lo, hi = modality("sentinel1").scale
    assert lo[0] == pytest.approx(-11.648990747328444 - 2 * 10.840350299936597) and hi[1] == pytest.approx(-17.745436133270044 + 2 * 10.216274681392647)
    lo, hi = modality("openstreetmap_raster").scale
    assert (lo == 0).all() and (hi == 1).all()
