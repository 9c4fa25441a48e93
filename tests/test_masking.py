"""Mask strategies: exact shares, sharing, missing data, faults."""
from functools import partial

import pytest
import torch

from olmoearth.masking import (at_least_one, cross_modality, fixed, get_strategy, mask_views, random_mask, random_space_mask, random_time_with_decode,
                               space_mask, space_time_mask, split_ranks, strategies, strategy, time_mask)
from olmoearth.modalities import MAPS
from olmoearth.panels import count_roles, leakage, role_table
from olmoearth.samples import InputError
from olmoearth.settings import torch_generator
from olmoearth.tokens import Layout, Role

LAYOUT = Layout.of(sentinel2_l2a=(3, 3, 4), sentinel1=(3, 3, 4), landsat=(3, 3, 4), worldcover=(3, 3, 1), srtm=(3, 3, 1), era5_10=(1, 1, 4))
BUILT_IN = {"random": random_mask, "space": space_mask, "time": time_mask, "cross": cross_modality, "cross space": partial(cross_modality, base="space"),
            "cross time": partial(cross_modality, base="time"), "paper": partial(cross_modality, unselected="target"),
            "sensors": partial(cross_modality, unit="sensor"), "space time": space_time_mask, "random space": random_space_mask,
            "v1.1": random_time_with_decode, "no radar": partial(fixed, hidden=("sentinel1",))}


def some_missing(B=64, seed=0):
    "Absent sensors, absent dates, absent tokens; Sentinel-2 on the first two dates always has data."
    g = torch_generator(seed, "missing")
    missing = torch.rand(B, len(LAYOUT), generator=g) < 0.1
    missing |= (torch.rand(B, 6, generator=g) < 0.3)[:, LAYOUT.modality_id]
    missing |= torch.where(LAYOUT.time >= 0, (torch.rand(B, 4, generator=g) < 0.3)[:, LAYOUT.time], False)
    missing[:, LAYOUT.where("sentinel2_l2a") & (LAYOUT.time < 2) & (LAYOUT.time >= 0)] = False
    return missing


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_strategy_keeps_its_promises(name):
    mask, missing = BUILT_IN[name], some_missing()
    role = mask(LAYOUT, missing, torch_generator(0))
    assert role.dtype == torch.int8 and role.shape == missing.shape
    assert torch.equal(role == Role.MISSING, missing)
    assert not (role[:, LAYOUT.where(*MAPS)] == Role.ENCODE).any()
    assert (role == Role.ENCODE).any(1).all() and (role == Role.DECODE).any(1).all()
    assert torch.equal(role, mask(LAYOUT, missing, torch_generator(0)))
    assert not torch.equal(role, mask(LAYOUT, missing, torch_generator(1)))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_global_generator_is_left_alone(name):
    before = torch.get_rng_state()
    BUILT_IN[name](LAYOUT, some_missing(), torch_generator(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("encode, decode", [(0.5, 0.5), (0.25, 0.75), (0.1, 0.2)])
def test_random_shares_are_exact(encode, decode):
    role = random_mask(LAYOUT, torch.zeros(8, len(LAYOUT), dtype=torch.bool), torch_generator(0), encode, decode, only_decode=())
    for name in LAYOUT.names:
        own = role[:, LAYOUT.where(name)]
        n = own.shape[1]
        assert ((own == Role.ENCODE).sum(1) == int(n * encode)).all() and ((own == Role.DECODE).sum(1) == int(n * decode)).all()


def test_random_masks_are_uniform():
    role = random_mask(LAYOUT, torch.zeros(4000, len(LAYOUT), dtype=torch.bool), torch_generator(0))
    share = (role[:, LAYOUT.where("sentinel2_l2a")] == Role.ENCODE).float().mean(0)      # (108,) each token's share of visible draws
    assert (share - 0.5).abs().max() < 5 * 0.5 / 4000 ** 0.5


def test_space_is_shared_by_all_that_stand_there():
    role = space_mask(LAYOUT, torch.zeros(16, len(LAYOUT), dtype=torch.bool), torch_generator(0), only_decode=())
    for place in range(9): assert all(len(r.unique()) == 1 for r in role[:, LAYOUT.place == place])
    assert ((role[:, LAYOUT.place >= 0] == Role.ENCODE).sum(1) == 4 * (6 * 4 + 2)).all()  # 4 of 9 places, 6 bandsets at 4 dates and 2 maps


def test_time_is_shared_and_skips_empty_dates():
    missing = torch.zeros(16, len(LAYOUT), dtype=torch.bool)
    missing[:, LAYOUT.time == 2] = True
    role = time_mask(LAYOUT, missing, torch_generator(0))
    for t in (0, 1, 3): assert all(len(r.unique()) == 1 for r in role[:, LAYOUT.time == t])
    dates = torch.stack([role[:, LAYOUT.time == t][:, 0] for t in (0, 1, 3)], 1)
    assert ((dates == Role.ENCODE).sum(1) == 1).all() and ((dates == Role.DECODE).sum(1) == 1).all()      # half of three dates, rounded down


def test_cross_modality_follows_the_released_rules():
    """Per slice: tokens of a bandset outside the encode set are never visible; inside it, hidden tokens are decoded all or not at all."""
    missing = torch.zeros(2000, len(LAYOUT), dtype=torch.bool)
    base = random_mask(LAYOUT, missing, torch_generator(0))
    for unselected in ("decode", "target"):
        role = cross_modality(LAYOUT, missing, torch_generator(1), base=lambda *_: base, unselected=unselected)
        seen = torch.zeros(2000, len(LAYOUT.slices)).index_add(1, LAYOUT.slice_id, (role == Role.ENCODE).float()) > 0
        asked = torch.zeros(2000, len(LAYOUT.slices)).index_add(1, LAYOUT.slice_id, (role == Role.DECODE).float()) > 0
        assert torch.equal(role == Role.ENCODE, (base == Role.ENCODE) & seen[:, LAYOUT.slice_id])
        assert torch.equal(role == Role.DECODE, (base == Role.DECODE) & asked[:, LAYOUT.slice_id])
        assert not seen[:, 6:8].any() and set(seen.sum(1).tolist()) == set(range(2, 8))   # slices 6 and 7 are the maps
        if unselected == "decode": assert (asked | seen).all()                  # what is not encoded is always asked
        else: assert not (asked | seen).all()
    both = (asked & seen).any(1).float().mean()
    assert both > 0.5                                                           # the two sets may overlap


def test_cross_modality_counts_in_expectation():
    """Encode sets are uniform in size from 2 to n, so a bandset is in it with probability (2 + n) / 2n; here n = 7."""
    role = cross_modality(LAYOUT, torch.zeros(20000, len(LAYOUT), dtype=torch.bool), torch_generator(0))
    rows = {r["modality"]: r for r in count_roles(role, LAYOUT)}
    assert abs(rows["sentinel1"]["encoded"] / 18 - 9 / 14) < 0.015
    assert rows["worldcover"] == {"modality": "worldcover", "tokens": 9, "encoded": 0.0, "decoded": 4.0, "unused": 5.0, "missing": 0.0}


def test_two_bandsets_are_split():
    layout = Layout.of(sentinel1=(2, 2, 2), worldcover=(2, 2, 1))
    role = cross_modality(layout, torch.zeros(50, len(layout), dtype=torch.bool), torch_generator(0))
    assert ((role[:, :8] == Role.ENCODE).sum(1) == 4).all() and not (role[:, :8] == Role.DECODE).any()     # the sensor is only seen
    assert ((role[:, 8:] == Role.DECODE).sum(1) == 2).all()                                                # the map is only asked


def test_one_sensor_alone_still_makes_a_task():
    layout = Layout.of(sentinel1=(2, 2, 2))
    role = cross_modality(layout, torch.zeros(50, len(layout), dtype=torch.bool), torch_generator(0))
    assert ((role == Role.ENCODE).sum(1) == 4).all() and ((role == Role.DECODE).sum(1) == 4).all()


def test_fallback_touches_only_samples_that_need_it():
    layout = Layout.of(sentinel1=(2, 2, 2), srtm=(2, 2, 1))
    role = torch.full((3, 12), Role.TARGET, dtype=torch.int8)
    role[0, 0], role[0, 1], role[1, 0] = Role.ENCODE, Role.DECODE, Role.ENCODE
    role[2, 1:8] = Role.MISSING                                              # one sensor token and a map
    out = at_least_one(role, layout, torch_generator(0))
    assert torch.equal(out[0], role[0])
    assert (out[1, :8] == Role.ENCODE).sum() == (out[1, :8] == Role.DECODE).sum() == 4
    assert out[2].tolist() == [Role.ENCODE] + [Role.MISSING] * 7 + [Role.DECODE] * 4


def test_impossible_samples_are_named():
    missing = torch.zeros(3, 12, dtype=torch.bool)
    missing[1, :8] = True
    layout = Layout.of(sentinel1=(2, 2, 2), srtm=(2, 2, 1))
    with pytest.raises(InputError, match=r"sample 1 has nothing to encode: tokens with data are \{'sentinel1': 0, 'srtm': 4\}"):
        cross_modality(layout, missing, torch_generator(0))


def test_split_ranks_takes_numbers_per_sample():
    role = split_ranks(torch.rand(2, 6, generator=torch_generator(0)), torch.tensor([[1], [2]]), torch.tensor([[3], [4]]))
    assert (role == Role.ENCODE).sum(1).tolist() == [1, 2] and (role == Role.DECODE).sum(1).tolist() == [3, 4]


def test_register_and_options():
    @strategy("hide the corner")
    def corner(layout, missing, generator, size=1):
        role = torch.where((layout.row < size) & (layout.col < size), Role.DECODE, Role.ENCODE).to(torch.int8).expand(len(missing), -1)
        return at_least_one(role.masked_fill(missing, Role.MISSING), layout, generator, only_decode=())
    layout = Layout.of(sentinel1=(3, 3, 1))
    role = get_strategy("hide the corner", size=2)(layout, torch.zeros(1, 9, dtype=torch.bool), torch_generator(0))
    assert (role == Role.DECODE).sum() == 4 and "hide the corner" in strategies()
    assert get_strategy(corner, size=3) is not None
    with pytest.raises(InputError, match="no option sise; it has size"): get_strategy("hide the corner", sise=2)
    with pytest.raises(InputError, match="unselected = 'drop'"): cross_modality(layout, torch.zeros(1, 9, dtype=torch.bool), torch_generator(0), unselected="drop")
    assert role_table(role, layout).splitlines()[1].split() == ["sentinel1", "9.0", "5.0", "4.0", "0.0", "0.0"]


def test_v1_1_divides_bandsets_and_dates():
    missing = some_missing(2000)
    role = random_time_with_decode(LAYOUT, missing, torch_generator(3))
    maps = LAYOUT.where(*MAPS)
    assert ((role == Role.DECODE) | missing)[:, maps].all()                                       # maps are guessed whole
    seen, asked = (torch.stack([(role[:, s.start:s.stop] == r).any(1) for s in LAYOUT.slices], 1)[:, [s.modality not in MAPS for s in LAYOUT.slices]]
                   for r in (Role.ENCODE, Role.DECODE))
    both = (seen & asked).any(1)
    alone = torch.stack([~missing[:, s.start:s.stop].all(1) for s in LAYOUT.slices if s.modality not in MAPS], 1).sum(1) == 1
    few = (~missing[:, ~maps]).sum(1) < 12                                                        # where next to nothing is left, a redraw may mix
    assert not (both & ~alone & ~few).any()
    grid = LAYOUT.place >= 0
    days = [torch.stack([((role == r) & grid & (LAYOUT.time == t)).any(1) for t in range(4)], 1) for r in (Role.ENCODE, Role.DECODE)]
    apart = ~(days[0] & days[1]).any(1)
    assert 0.3 < apart.float().mean() < 0.7                                                       # the coin between tokens and dates


def test_v1_1_with_one_ratio_only_uses_that_kind():
    none = torch.zeros(300, len(LAYOUT), dtype=torch.bool)
    role = random_time_with_decode(LAYOUT, none, torch_generator(0), random_ratio=1.0)
    for s in LAYOUT.slices[:6]:
        n = s.stop - s.start
        assert set((role[:, s.start:s.stop] == Role.ENCODE).sum(1).tolist()) == {0, n // 2}       # half of the tokens of a bandset that is seen
    role = random_time_with_decode(LAYOUT, none, torch_generator(0), random_ratio=0.0)
    for s in LAYOUT.slices[:6]:
        by_date = role[:, s.start:s.stop].unflatten(1, (9, 4))
        assert (by_date == by_date[:, :1]).all()                                                  # whole dates


def test_sensors_go_as_a_whole():
    role = cross_modality(LAYOUT, torch.zeros(500, len(LAYOUT), dtype=torch.bool), torch_generator(0), unit="sensor", min_encode=1)
    for name in ("sentinel2_l2a", "landsat"):
        seen = torch.stack([(role[:, s.start:s.stop] == Role.ENCODE).any(1) for s in LAYOUT.slices if s.modality == name], 1)
        assert (seen.all(1) | ~seen.any(1)).all() and 0.2 < seen.all(1).float().mean() < 0.9
    with pytest.raises(InputError, match="unit = 'band'"): cross_modality(LAYOUT, torch.zeros(1, len(LAYOUT), dtype=torch.bool), torch_generator(0), unit="band")


def test_views_are_different_masks_of_the_same_samples():
    missing = some_missing(8)
    roles = mask_views(random_mask, LAYOUT, missing, torch_generator(0), 3)
    assert roles.shape == (3, *missing.shape) and all(torch.equal(r == Role.MISSING, missing) for r in roles) and not torch.equal(roles[0], roles[1])


def test_leakage_by_hand():
    layout = Layout.of(sentinel2_l2a=(1, 2, 2))                                                   # three bandsets, two places, two dates
    role = torch.full((1, 12), int(Role.TARGET), dtype=torch.int8)
    role[0, 0] = Role.DECODE                                                                      # bandset 0, place 0, date 0
    assert leakage(role, layout) == {"other date": 0, "other bandset": 0, "either": 0}
    role[0, 4] = Role.ENCODE                                                                      # bandset 1, the same place and date
    assert leakage(role, layout) == {"other date": 0, "other bandset": 1, "either": 1}
    role[0, 4], role[0, 1] = Role.TARGET, Role.ENCODE                                             # bandset 0, the same place, the other date
    assert leakage(role, layout) == {"other date": 1, "other bandset": 0, "either": 1}
    role[0, 1], role[0, 2] = Role.TARGET, Role.ENCODE                                             # another place
    assert leakage(role, layout) == {"other date": 0, "other bandset": 0, "either": 0}
