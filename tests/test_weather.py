"Weather: days against months, soil, what depends on it, tokens without all their bands, a model without weather reads none."
from dataclasses import replace

import numpy as np
import pytest
import torch

from olmoearth.landcover import ground
from olmoearth.loading import collate
from olmoearth.modalities import modality
from olmoearth.samples import InputError, Sample
from olmoearth.synthetic import CELL, World, era5, on_plane
from olmoearth.tokens import Layout, token_missing
from olmoearth.weather import NAMES, READS, Days, Season, add_weather, daily, of_month, place_of, season_of, soil_water, start_with, weather_statistics

WORLD = World(clouds=0.2, missing_time=0, missing_modality=0)
PLACES = [(0, 0, 2019), (-200_000, 5_000, 2020), (400_000, -3_000, 2023)]


def year(air=20.0, rain=2.0, days=365) -> Days:
    return Days(np.arange(np.datetime64("2021-01-01"), np.datetime64("2021-01-01") + days), np.full(days, air), np.full(days, rain))


@pytest.fixture(scope="module")
def window():
    return WORLD.window(0, 0, 32, 2019, 3, ["sentinel2_l2a"])


@pytest.mark.parametrize("row, col, when", PLACES)
def test_days_have_the_means_of_their_months(row, col, when):
    days, months = daily(0, row, col, when), era5(0, row, col, when, 12)
    assert len(days.dates) == (366 if when % 4 == 0 else 365) and (days.rain >= 0).all()
    own = days.dates.astype("datetime64[M]").astype(int) % 12
    at = modality("era5_10").index(READS)
    for m in range(12):
        assert days.air[own == m].mean() + 273.15 == pytest.approx(months[m, at[0]], abs=2e-3)
        assert days.rain[own == m].mean() / 1000 == pytest.approx(months[m, at[1]], abs=1e-8)


def test_weather_follows_seed_cell_and_year_alone():
    a = daily(0, 0, 0, 2019)
    assert np.array_equal(a.rain, daily(0, CELL - 1, CELL - 1, 2019).rain)              # one cell
    for other in (daily(1, 0, 0, 2019), daily(0, 0, 0, 2021), daily(0, 40 * CELL, 0, 2019)): assert not np.allclose(a.air, other.air)


def test_spells_are_longer_than_chance():
    wet = np.concatenate([daily(0, row, col, when).rain > 0 for row, col, when in PLACES])
    share = wet.mean()
    assert (wet[1:] & wet[:-1]).mean() / share > 1.3 * share


def test_the_bucket():
    assert soil_water(year(rain=0.0))[-1] < .02 and soil_water(year(rain=30.0))[-1] > .9
    assert (soil_water(year(air=30.0)) <= soil_water(year(air=10.0))).all()
    storm = year(rain=0.0)
    storm.rain[::30] = 150.0
    assert soil_water(storm).mean() < soil_water(year(rain=150 / 30)).mean()             # what runs off is lost
    for days in (year(rain=200.0), year(air=-20.0), year(air=50.0, rain=0.0)): assert ((soil_water(days) >= 0) & (soil_water(days) <= 1)).all()


def test_yield_falls_with_drought_and_fire_rises():
    where = WORLD.tiles(60, size=32, seed=5, latitudes=(40, 55))
    blocks = (ground(0, on_plane(row, col, 32, 32), when) for row, col, when in map(where.place, range(60)))
    g = next(g for g in blocks if season_of(g, year()).crops > .3)
    good, dry, hot = (season_of(g, d) for d in (year(18, 4), year(18, 0), year(32, 0)))
    assert good.expected > 2 * dry.expected and good.probability < dry.probability < hot.probability
    assert good == season_of(g, year(18, 4)) and good.harvest != good.expected
    none = season_of(replace(g, cover=np.zeros_like(g.cover)), year())
    assert none.crops == 0 and np.isnan(none.harvest) and set(none._fields) == set(Season._fields)


def test_rows_of_a_month():
    days = daily(0, 0, 0, 2019)
    month, bands = of_month(days, np.array([0, 1]), "monthly"), of_month(days, np.array([0, 1]), "daily")
    assert np.isnan(month).sum() == 2 * 4 and bands.shape == (2, 60) and np.isnan(bands).sum(1).tolist() == [0, 4]     # February 2019 lacks two days twice
    assert bands[0, :30] == pytest.approx(days.air[:30] + 273.15, rel=1e-6) and bands[0, 30:] == pytest.approx(days.rain[:30] / 1000, rel=1e-5)


@pytest.mark.parametrize("step", ["monthly", "daily"])
def test_weather_is_read_although_bands_are_missing(step, window):
    s = add_weather(window, step)
    (name,) = NAMES[step]
    batch = collate([s], 8, "single")
    layout = Layout.from_batch(batch, "single")
    assert not token_missing(batch, layout)[0, layout.where(name)].any() and batch.missing[name].any()
    gone = replace(s, missing={**s.missing, name: np.ones_like(s.missing[name])})
    assert token_missing(collate([gone], 8, "single"), layout)[0, layout.where(name)].all()


def test_masks_divide_weather_and_the_arm_without_reads_none(window):
    s = [add_weather(window, "monthly")] * 4
    plain, told = (start_with(s, inputs, steps=2) for inputs in (("sentinel2_l2a",), ("sentinel2_l2a", "era5_10")))
    assert set(plain.loader.batch(0).values) == {"sentinel2_l2a"} and set(told.loader.batch(0).values) == {"sentinel2_l2a", "era5_10"}
    for a, b in ((plain, False), (told, True)): assert any("era5_10" in k for k in a.model.state_dict()) is b
    only = start_with(s, ("sentinel2_l2a",), ("era5_10",), steps=3)
    only.fit()
    roles = only.last.roles[..., only.last.layout.where("era5_10")]
    assert not (roles == 0).any() and (roles == 2).any()                                 # predicted, never read
    cold = replace(s[0], arrays={**s[0].arrays, "era5_10": s[0].arrays["era5_10"] - np.float32([30, 0, 0, 0, 0, 0])})
    for t, reads in ((only, False), (told, True)):
        names = list(t.model.config.inputs)
        with torch.inference_mode(): a, b = (t.model.eval().embed(collate([v.select(names)], 8, "single")) for v in (s[0], cold))
        assert bool((a != b).any()) is reads


def test_faults(window):
    with pytest.raises(InputError, match="weather='hourly'; use one of none, monthly, daily"): add_weather(window, "hourly")
    with pytest.raises(InputError, match="not of the simulated Earth"): place_of(Sample({}, np.array(["2020-01-01"])))
    with pytest.raises(InputError, match="stands twice"): start_with([window] * 4, ("sentinel2_l2a",), ("sentinel2_l2a",))
    assert len(weather_statistics(window)) == 0
