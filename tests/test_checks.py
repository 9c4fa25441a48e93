"The input check on real scenes: quiet on good ones, and right about what is wrong with spoilt ones."
import warnings
from dataclasses import replace

import numpy as np
import pytest

from olmoearth.checks import InputWarning, check_sample, find_problems, remove_offset
from olmoearth.modalities import modality
from olmoearth.samples import InputError, Sample
from olmoearth.settings import find_data

ORDER = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()
SCENES = ["38D_378R_2_3", "433D_629L_3_1", "609U_541L_3_0", "637U_59R_1_3"]


@pytest.fixture(params=SCENES)
def scene(request) -> Sample:
    folder = find_data("terramesh")
    if folder is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    import rasterio
    with rasterio.open(folder / request.param / "S2L2A.tif") as f: s2, crs, transform = f.read(), str(f.crs), tuple(f.transform)[:6]
    with rasterio.open(folder / request.param / "S1RTC.tif") as f: s1 = f.read()
    s2 = s2.transpose(1, 2, 0)[:, :, None][..., [ORDER.index(b) for b in modality("sentinel2_l2a").bands]]
    return Sample({"sentinel2_l2a": s2, "sentinel1": s1.transpose(1, 2, 0)[:, :, None]}, ["2020-01-01"], crs=crs, transform=transform, name=request.param)


def kinds(sample: Sample) -> list[str]: return [f.kind for f in find_problems(sample)]


def test_good_scenes_are_quiet_and_the_offset_is_seen(scene):
    assert kinds(scene) == (["offset"] if scene.name == "433D_629L_3_1" else [])   # the scene from Chile carries +1000
    fixed = replace(scene, arrays={**scene.arrays, "sentinel2_l2a": remove_offset(scene.arrays["sentinel2_l2a"])}, attrs={"sentinel2_offset": 0})
    if scene.name == "433D_629L_3_1": assert kinds(fixed) == []


def test_alphabetical_bands_are_seen(scene):
    s2 = scene.arrays["sentinel2_l2a"]
    spoilt = s2[..., [modality("sentinel2_l2a").bands.index(b) for b in ORDER]]
    found = [f for f in find_problems(replace(scene, arrays={"sentinel2_l2a": spoilt}, attrs={"sentinel2_offset": 0})) if f.kind == "band order"]
    assert len(found) == 1 and "sorted by name" in found[0].message


@pytest.mark.parametrize("name, spoil, kind", [
    ("sentinel2_l2a", lambda v: v / 10000, "reflectance"),
    ("sentinel2_l2a", lambda v: np.clip(v // 40, 0, 255).astype("uint8"), "bytes"),
    ("sentinel2_l2a", lambda v: v * 10000.0, "scaled twice"),
    ("sentinel1", lambda v: 10 ** (v / 10), "linear"),
    ("sentinel1", lambda v: v * 100, "scaled"),
    ("sentinel1", lambda v: v[..., ::-1], "band order"),
    ("sentinel1", lambda v: np.where(np.arange(v.size).reshape(v.shape) % 50 == 0, -32768, v), "nodata"),
    ("sentinel1", lambda v: np.where(np.arange(v.size).reshape(v.shape) % 50 == 0, np.nan, v), "nan"),
])
def test_units_and_nodata_on_real_values(scene, name, spoil, kind):
    spoilt = replace(scene, arrays={**scene.arrays, name: spoil(scene.arrays[name])}, attrs={"sentinel2_offset": 0})
    assert kind in kinds(spoilt)


def test_one_bad_pixel_value_is_never_averaged_away():
    s1 = np.full((64, 64, 1, 2), -10.0, "float32"); s1[3, 4, 0, 1] = -9999
    assert kinds(Sample({"sentinel1": s1 - [0, 6]}, ["2020-01-01"])) != []


def test_modes():
    s1 = np.full((8, 8, 1, 2), 0.1, "float32")
    bad = Sample({"sentinel1": s1}, ["2020-01-01"], name="place 7")
    with pytest.raises(InputError, match="place 7: sentinel1: no negative values"): check_sample(bad, "raise")
    with pytest.warns(InputWarning, match="log10"): check_sample(bad, "warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_sample(bad, "off") == []
    with pytest.raises(ValueError, match="'raise', 'warn' or 'off'"): check_sample(bad, "never")


def test_a_masked_gap_is_no_finding():
    s1 = np.full((8, 8, 1, 2), -10.0, "float32") - np.array([0, 6], "float32")
    s1[0] = -9999
    gap = np.zeros(s1.shape, bool); gap[0] = True
    assert kinds(Sample({"sentinel1": s1}, ["2020-01-01"], {"sentinel1": gap})) == []
