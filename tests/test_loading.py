"Loading: what does not teach. Faults, properties, processes."
import functools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from olmoearth.cache import Cached, fingerprint
from olmoearth.checks import InputWarning
from olmoearth.loading import (Loader as _Loader, absent_bands, collate, count_tokens, crop_to_budget, dates_with_data, denormalise, fill_absent_bands,
                               normalise, pad_times, times_in_budget)
from olmoearth.modalities import MAPS, SENSORS, modality, registry
from olmoearth.samples import InputError, Sample
from olmoearth.settings import rng

Loader = functools.partial(_Loader, check="off")                # places of noise
NAMES = ("sentinel2_l2a", "sentinel1", "landsat", "worldcover", "srtm", "era5_10")


def place(seed=0, size=24, times=5, names=NAMES, gaps=False) -> Sample:
    "A place of noise in plausible units."
    draw = rng(seed, "place")
    arrays = {}
    for k in names:
        m = modality(k)
        mean, sd = np.array([m.stats[b][0] for b in m.bands]), np.array([m.stats[b][1] for b in m.bands])
        shape = {"space-time": (size, size, times), "space": (size, size, 1), "time": (times,)}[m.kind]
        v = mean + .3 * sd * draw.standard_normal((*shape, m.n_bands))
        arrays[k] = np.clip(v, *m.valid).astype(m.dtype)
    missing = {}
    if gaps:
        missing["sentinel2_l2a"] = np.zeros(arrays["sentinel2_l2a"].shape, bool)
        missing["sentinel2_l2a"][:, :, 0] = True
    return Sample(arrays, np.datetime64("2021-01-15") + 30 * np.arange(times), missing, name=f"place {seed}")


class Places:
    def __init__(self, n, bad=(), **kw): self.n, self.bad, self.kw = n, bad, kw
    def __len__(self): return self.n
    def __getitem__(self, i): return None if i in self.bad else place(i, **self.kw)


def equal(a, b):
    return (a.patch_size == b.patch_size and a.values.keys() == b.values.keys() and torch.equal(a.days, b.days) and torch.equal(a.month, b.month)
            and all(torch.equal(a.values[k], b.values[k]) and torch.equal(a.missing[k], b.missing[k]) for k in a.values))


@pytest.mark.parametrize("name", list(registry()))
def test_scaling_goes_back(name):
    m = modality(name)
    lo, hi = m.scale
    x = lo + (hi - lo) * rng(0, name).uniform(-.5, 1.5, (7, m.n_bands))
    y = normalise(name, x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, (x - lo) / (hi - lo), atol=2e-6)
    np.testing.assert_allclose(denormalise(name, y), x, rtol=1e-4, atol=1e-4 * float((hi - lo).max()))


def test_integers_do_not_wrap_around():
    x = np.zeros((1, 12), "uint16")                                                     # below the lower limit of no band, but close to it
    assert (normalise("sentinel2_l2a", x) < .5).all()


@pytest.mark.parametrize("preset", ["v1", "single"])
@pytest.mark.parametrize("side", range(1, 13))
def test_budget_is_used_and_kept(preset, side):
    names = SENSORS + MAPS
    t, (static, each) = times_in_budget(names, side, preset=preset), count_tokens(names, side, preset)
    assert t >= 1 and static + t * each <= 2250 < static + (t + 1) * each


def test_crop_keeps_times_that_hold_data():
    s = place(times=12)
    gone = {k: np.ones(s.arrays[k].shape, bool) for k in ("sentinel2_l2a", "sentinel1", "landsat")}
    for v in gone.values(): v[:, :, 4:9] = False
    s = replace(s.select(["sentinel2_l2a", "sentinel1", "landsat", "worldcover"]), missing=gone)
    assert dates_with_data(s).nonzero()[0].tolist() == [4, 5, 6, 7, 8]
    starts = {crop_to_budget(s, 4, 2, rng(i), n_times=3).attrs["crop"]["first_date"] for i in range(40)}
    assert starts == {4, 5, 6}
    assert crop_to_budget(s, 4, 2, rng(0), n_times=7).attrs["crop"]["first_date"] == 2                   # the last seven that end with data


def test_crop_moves_the_grid_and_says_so():
    s = replace(place(), crs="EPSG:32632", transform=(10, 0, 600000, 0, -10, 5300000))
    part = crop_to_budget(s, 2, 3, rng(5))
    c = part.attrs["crop"]
    assert part.transform[2] == 600000 + 10 * c["col"] and part.transform[5] == 5300000 - 10 * c["row"]
    assert (c["of"], c["size"]) == ([24, 24, 5], 6)


def test_crop_errors_name_what_fits():
    with pytest.raises(InputError, match="use side <= 6"): crop_to_budget(place(), 4, 7, rng(0))
    with pytest.raises(InputError, match="use n_times <= "): crop_to_budget(place(), 1, 10, rng(0), n_times=12)
    with pytest.raises(InputError, match="more than the budget of 3 tokens"): crop_to_budget(place(), 4, 2, rng(0), budget=3)


def test_absent_bands_only_when_gone_everywhere():
    s = place(gaps=True)
    assert absent_bands(s, "sentinel2_l2a") == []
    gone = s.mask("sentinel2_l2a").copy(); gone[..., 3] = True; gone[7, 3, 2, 3] = False
    assert absent_bands(replace(s, missing={"sentinel2_l2a": gone}), "sentinel2_l2a") == []
    assert absent_bands(replace(s, missing={"sentinel2_l2a": np.ones_like(gone)}), "sentinel2_l2a") == []  # the whole modality is missing instead
    gone[..., 3] = True
    assert absent_bands(replace(s, missing={"sentinel2_l2a": gone}), "sentinel2_l2a") == ["B08"]


def test_filled_band_keeps_gaps_of_its_source():
    s = place(gaps=True)
    gone = s.mask("sentinel2_l2a").copy(); gone[..., 3] = True                                          # B08: B8A is 23 nm away
    full = fill_absent_bands(replace(s, missing={"sentinel2_l2a": gone}))
    at = modality("sentinel2_l2a").index(["B08", "B8A"])
    v, m = full.arrays["sentinel2_l2a"][..., at], full.mask("sentinel2_l2a")[..., at]
    assert (v[..., 0] == v[..., 1]).all() and (m[..., 0] == m[..., 1]).all() and m[:, :, 0].all() and not m[:, :, 1:].any()
    assert s.mask("sentinel2_l2a").mean() == .2                                                         # the sample itself is untouched


def test_many_absent_bands_warn_once_named():
    s = place()
    gone = np.zeros(s.arrays["sentinel2_l2a"].shape, bool); gone[..., :3] = True
    with pytest.warns(InputWarning, match="sentinel2_l2a: 3 of 12 bands are absent"): fill_absent_bands(replace(s, missing={"sentinel2_l2a": gone}))
    gone[..., 1:3] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill_absent_bands(replace(s, missing={"sentinel2_l2a": gone}))


def test_nothing_hidden_leaks_into_a_batch():
    s = place(gaps=True)
    other = replace(s, arrays={**s.arrays, "sentinel2_l2a": s.arrays["sentinel2_l2a"].copy()})
    other.arrays["sentinel2_l2a"][:, :, 0] = 60000
    bad = place(); bad.arrays["sentinel1"][3, 3] = np.nan
    assert equal(collate([s], 4), collate([other], 4))
    b = collate([bad], 4)
    assert torch.isfinite(b.values["sentinel1"]).all() and b.missing["sentinel1"].sum() == 10


def test_padding_is_missing():
    b = collate([pad_times(place(times=2), 4), place(1, times=4)], 4)
    assert b.missing["sentinel1"][0, :, :, 2:].all() and b.missing["era5_10"][0, 0, 0, 2:].all() and not b.missing["worldcover"].any()
    assert (b.days.diff(dim=1) > 0).all()


def test_shapes_of_all_kinds():
    s = place()
    s = replace(s, arrays={**s.arrays, "latlon": np.array([47., 11.], "float32"), "naip_10": np.full((96, 96, 1, 4), 90, "uint8")})
    b = collate([s, s], 4)
    shapes = {k: tuple(v.shape) for k, v in b.values.items()}
    assert shapes["era5_10"] == (2, 1, 1, 5, 6) and shapes["latlon"] == (2, 1, 1, 1, 2) and shapes["naip_10"] == (2, 96, 96, 1, 4)
    assert shapes["sentinel1"] == (2, 24, 24, 5, 2) and shapes["srtm"] == (2, 24, 24, 1, 1)


def test_collate_errors():
    with pytest.raises(InputError, match="no samples"): collate([], 4)
    with pytest.raises(InputError, match="place 1 has 4 dates, the first has 5; use pad_times"): collate([place(), place(1, times=4)], 4)
    with pytest.raises(InputError, match="crop both with the same side"): collate([place(), place(1, size=16)], 4)
    with pytest.raises(InputError, match="not a multiple of the patch of 5"): collate([place()], 5)
    three = replace(place(), arrays={"sentinel1": np.zeros((24, 24, 5, 3), "float32")})
    with pytest.raises(InputError, match="sentinel1: place 0 has 3 bands, not 2"): collate([three], 4)


@pytest.mark.parametrize("workers", [1, 2])
def test_same_batches_from_any_number_of_workers(workers):
    one, many = (Loader(Places(7), 2, seed=3, sides=range(1, 5), workers=w) for w in (0, workers))
    assert all(equal(a, b) for a, b in zip(one.stream(5), many.stream(5), strict=True))


def test_resumes_in_the_middle_of_an_epoch():
    whole = list(Loader(Places(9), 2, seed=3, sides=range(1, 5)).stream(7))
    loader = Loader(Places(9), 2, seed=3, sides=range(1, 5))
    stream = loader.stream()
    for _ in range(3): next(stream)
    later = Loader(Places(9), 2, seed=3, sides=range(1, 5))
    later.load_state_dict(loader.state_dict())
    assert all(equal(a, b) for a, b in zip(whole[3:], later.stream(7), strict=True))


def test_epochs_shuffle_and_cover():
    loader = Loader(Places(10), 4, seed=1, drop_last=False)
    assert len(loader) == 3 and len(loader.plan(2).items) == 2
    epochs = [[i for n in range(3 * e, 3 * e + 3) for i in loader.plan(n).items] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert len(Loader(Places(10), 4, seed=1)) == 2
    still = Loader(Places(10), 4, shuffle=False)
    assert still.plan(0).items == (0, 1, 2, 3) and [b.n_times for b in still] and still.number == 2


def test_patch_sizes_and_sides_are_all_drawn():
    loader = Loader(Places(4), 2, seed=0, patch_sizes=(1, 4), sides=(1, 3, 6))
    drawn = {(p.patch_size, p.side) for p in map(loader.plan, range(200))}
    assert drawn == {(1, 1), (1, 3), (1, 6), (4, 1), (4, 3), (4, 6)}
    with pytest.raises(InputError, match="no side of"): Loader(Places(4), 2, patch_sizes=(8,), sides=(9,)).plan(0)


def test_unreadable_items_are_replaced_the_same_way():
    a, b = (Loader(Places(6, bad=(1, 4)), 3, seed=0, sides=(2,)) for _ in range(2))
    assert all(equal(x, y) and len(x) == 3 for x, y in zip(a.stream(4), b.stream(4), strict=True))
    with pytest.raises(InputError, match="no sample of the dataset can be read"): Loader(Places(3, bad=(0, 1, 2)), 2)


def test_loader_looks_before_it_trusts():
    class Reflectance(Places):
        def __getitem__(self, i):
            s = place(i)
            return replace(s, arrays={**s.arrays, "sentinel2_l2a": (s.arrays["sentinel2_l2a"] / 10000).astype("float32")})
    with pytest.raises(InputError, match="reflectance"): next(iter(_Loader(Reflectance(4), 2, check="raise")))
    assert len(next(iter(Loader(Reflectance(4), 2, check="off")))) == 2


def test_missing_modalities_are_asked_for_by_name():
    b = next(iter(Loader(Places(4), 2, seed=0, modalities=["sentinel1", "srtm", "landsat"], sides=(2,))))
    assert set(b.values) == {"sentinel1", "srtm", "landsat"}


def test_nothing_to_read_is_an_error():
    with pytest.raises(InputError, match="none of what is read"): next(iter(Loader(Places(4, names=("sentinel1",)), 2, modalities=["srtm"])))


def test_cache_returns_the_same_and_survives_two_writers(tmp_path):
    data = Places(3, gaps=True)
    a, b = Cached(data, tmp_path), Cached(data, tmp_path)
    for i in (0, 2, 0):
        x, y, z = data[i], a[i], b[i]
        for k in x.arrays:
            np.testing.assert_array_equal(x.arrays[k], y.arrays[k]); np.testing.assert_array_equal(x.mask(k), z.mask(k))
            assert y.arrays[k].dtype == x.arrays[k].dtype
    assert fingerprint(data) == fingerprint(Places(3, gaps=True)) != fingerprint(Places(3)) != fingerprint(Places(4))
    assert not [p for p in a.folder.iterdir() if "." in p.name]
    assert Cached(Places(3, bad=(1,)), tmp_path)[1] is None
