"Photos from the ground: seeds, texture by crop, who has one, a model without photos reads none, faults."
from dataclasses import replace

import numpy as np
import pytest
import torch

from olmoearth.landcover import CROPS
from olmoearth.loading import collate
from olmoearth.photos import (FINE, LOOKS, PHOTO, PX, SPOT, Parcels, Photographed, Plot, add_photo, exchange_photos, lay_beside, leaf_noise, photo_of,
                              photo_statistics, plots_of, views_of)
from olmoearth.samples import InputError, Sample
from olmoearth.settings import rng
from olmoearth.synthetic import World
from olmoearth.tokens import Layout, token_missing
from olmoearth.weather import start_with

WORLD = World(clouds=0.2, missing_time=0, missing_modality=0)
SOIL = (.10, .08, .06)


def shot(crop, k=0, age=.65, green=.9, dry=.03, flood=0., snow=0., soil=SOIL):
    return photo_of(Plot(crop, age, green, dry, flood, snow, soil), rng(0, "test", crop, k))


@pytest.fixture(scope="module")
def window(): return add_photo(Parcels(WORLD, 8, months=9, sensors=("sentinel2_l2a",))[0])


@pytest.mark.parametrize("crop", CROPS)
def test_a_photo_follows_its_seed_and_is_a_picture(crop):
    a = shot(crop)
    assert a.shape == (PX, PX, 3) and a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1 and a.std() > .03
    assert np.array_equal(a, shot(crop)) and not np.array_equal(a, shot(crop, 1))
    assert set(LOOKS) == set(CROPS)


@pytest.mark.parametrize("one, other", [("maize", "sorghum"), ("winter wheat", "spring barley"), ("sunflower", "potato")])
def test_two_crops_differ_more_than_two_photos_of_one(one, other):
    x = np.stack([[photo_statistics(shot(c, k)) for k in range(24)] for c in (one, other)])[..., 10:]      # (2, 24, 26) textures, without colours
    x = x / x.std(1).mean(0)
    half = x.reshape(2, 2, 12, -1).mean(2)                                                                 # (2, 2 halves, 26)
    between, within = np.linalg.norm(half[0, 0] - half[1, 0]), max(np.linalg.norm(h[0] - h[1]) for h in half)
    assert between > 1.5 * within


def test_texture_does_not_turn_with_the_rows():
    a = shot("maize")
    assert photo_statistics(np.rot90(a)) == pytest.approx(photo_statistics(a), rel=1e-6, abs=1e-9)
    assert photo_statistics(a)[10:] == pytest.approx(photo_statistics(.8 * a)[10:], rel=1e-3, abs=1e-6)    # nor fade with exposure


def test_leaves_have_length_and_width():
    reach = lambda v, k: np.corrcoef(v[:, :-k].ravel(), v[:, k:].ravel())[0, 1]
    long, short = (leaf_noise(rng(0, "leaf"), n, 2) for n in (12, 2))
    assert reach(long, 5) > reach(short, 5) + .1 and long.mean() > .5                                     # the highest of four


def test_what_stands_there_is_seen():
    green = lambda x: float((2 * x[..., 1] - x[..., 0] - x[..., 2]).mean())
    assert green(shot("soy", green=.95)) > green(shot("soy", green=.4)) > green(shot("soy", green=.05, dry=.8))
    white = shot("soy", green=.1, dry=0, snow=.9)
    assert white.std() < shot("soy", green=.4).std() + .1 and abs(white.mean((0, 1)) - white.mean()).max() < .12
    yellow = lambda age: (lambda x: ((x[..., 0] > x[..., 2] + .35) & (x[..., 1] > .4)).mean())(shot("sunflower", age=age))
    assert yellow(.6) > .02 + yellow(.2)                                                                  # heads come late
    assert not np.array_equal(shot("rice", green=.1, flood=.9), shot("rice", green=.1))


def test_plots_agree_with_the_window(window):
    plots = plots_of(window)
    assert [p.crop for p in plots] == [window.attrs["parcel"]] * 9 == ["winter wheat"] * 9
    label = window.labels["crop"]
    assert label.classes[int(label.values[SPOT])] == "winter wheat"
    assert all(0 <= p.green + p.dry <= 1 and 0 <= p.age <= 1 + 1e-6 for p in plots)
    part = window.at_times([3, 4])
    assert plots_of(part) == plots[3:5]                                                                   # a month is a month, wherever the list begins
    red, near = (window.arrays["sentinel2_l2a"][(*SPOT, slice(None), band)].astype(float) for band in (2, 3))
    clear = red < 2500
    assert np.corrcoef(((near - red) / (near + red))[clear], np.array([p.green for p in plots])[clear])[0, 1] > .7


def test_who_has_a_photo(window):
    name, plain = PHOTO.name, window.select(["sentinel2_l2a"])
    assert not window.mask(name).any() and np.array_equal(add_photo(plain).arrays[name], window.arrays[name])
    assert add_photo(window, 0).mask(name).all() and not np.array_equal(add_photo(plain, 1, seed=1).arrays[name], window.arrays[name])
    moved = [replace(window, transform=(*window.transform[:2], window.transform[2] + 10. * k, *window.transform[3:])) for k in range(200)]
    some, more = ([not add_photo(s, share).mask(name).all() for s in moved] for share in (.25, .6))
    assert 30 < sum(some) < 70 and all(b for a, b in zip(some, more, strict=True) if a)
    ice = WORLD.window(-200_000, 5_000, 32, 2020, 2, ["sentinel2_l2a"])
    bare = Photographed([ice])[0]
    assert bare.mask(name).all() and bare.attrs["photo_date"] == ""
    date = np.datetime64(window.attrs["photo_date"])
    assert date in window.times and plots_of(window)[int(np.flatnonzero(window.times == date)[0])].green > .05


def test_exchanged_photos_are_those_of_others(window):
    flat = lambda k: ({**window.arrays, PHOTO.name: np.full((PX, PX, 1, 3), k / 10, np.float32)}, {PHOTO.name: np.full((PX, PX, 1, 3), k == 3)})
    named = [replace(window, arrays=arrays, missing=missing) for arrays, missing in map(flat, range(7))]
    of = lambda seed: [round(10 * float(s.arrays[PHOTO.name].max())) for s in exchange_photos(named, seed)]
    assert sorted(of(0)) == list(range(7)) and all(k != own for own, k in enumerate(of(0))) and of(0) != of(1)
    assert [bool(s.mask(PHOTO.name).all()) for s in exchange_photos(named)] == [k == 3 for k in of(0)]      # its gap goes with it
    with pytest.raises(InputError, match="1 windows have no photos to exchange; give two or more"): exchange_photos(named[:1])


def test_photo_tokens_are_missing_where_there_is_none(window):
    batch = collate([window, add_photo(window, 0)], 8, "single")
    layout = Layout.from_batch(batch, "single")
    gone = token_missing(batch, layout)[:, layout.where(PHOTO.name)]
    assert gone.shape[1] == (PX // 8) ** 2 and not gone[0].any() and gone[1].all()


def test_a_model_without_photos_reads_none(window):
    windows = [window, add_photo(window, 0)] * 2
    plain, told = (start_with(windows, inputs, steps=2) for inputs in (("sentinel2_l2a",), ("sentinel2_l2a", PHOTO.name)))
    assert set(plain.loader.batch(0).values) == {"sentinel2_l2a"} and set(told.loader.batch(0).values) == {"sentinel2_l2a", PHOTO.name}
    other = replace(window, arrays={**window.arrays, PHOTO.name: 1 - window.arrays[PHOTO.name]})
    for t, reads in ((plain, False), (told, True)):
        a, b = (views_of(t.model.eval(), [s]) for s in (window, other))
        assert bool((a.places != b.places).any()) is reads and bool(np.isfinite(a.photo).all()) is reads
    told.model.train()
    told.fit()
    assert not (told.last.roles[..., told.last.layout.where(PHOTO.name)] == 3).all()                       # masks divide photos


def test_a_hidden_photo_is_as_good_as_none(window):
    model = start_with([window] * 4, ("sentinel2_l2a", PHOTO.name), steps=1).model.eval()
    hidden = add_photo(replace(window, arrays={**window.arrays, PHOTO.name: 0 * window.arrays[PHOTO.name]}), 0)
    a, b = views_of(model, [add_photo(window, 0)]), views_of(model, [hidden])
    assert np.array_equal(a.places, b.places) and np.isnan(a.photo).all()
    with torch.inference_mode(): c = model.embed(collate([window.select(["sentinel2_l2a"])], 8, "single"))
    assert a.places == pytest.approx(c.numpy(), abs=1e-5)


def test_beside():
    x = lay_beside(np.eye(3), np.array([[2.], [np.nan], [4.]]))
    assert x[:, 3].tolist() == [2, 3, 4] and x[:, 4].tolist() == [1, 0, 1]
    assert np.array_equal(lay_beside(np.eye(2), np.full((2, 2), np.nan))[:, 2:], np.zeros((2, 3)))


def test_parcels_are_of_the_crop_they_say():
    world = Parcels(WORLD, 6, months=1, crops=("potato", "sorghum"), sensors=("sentinel2_l2a",))
    found = [world[i] for i in range(2)]
    for s, crop in zip(found, ("potato", "sorghum"), strict=True):
        label = s.labels["crop"]
        around = label.values[SPOT[0] - 2:SPOT[0] + 3, SPOT[1] - 2:SPOT[1] + 3]
        assert s.attrs["parcel"] == crop and label.classes[int(label.values[SPOT])] == crop and (around == label.values[SPOT]).mean() > .8
    assert found[0].transform == world[0].transform and set(FINE) < set(CROPS)


def test_faults(window):
    with pytest.raises(InputError, match="nobody knows what 'hops' looks like; use one of maize"): shot("hops")
    with pytest.raises(InputError, match="share=1.5 is no share; use a number from 0 to 1"): add_photo(window, 1.5)
    with pytest.raises(InputError, match="not of the simulated Earth"): add_photo(Sample({}, np.array(["2020-01-01"])))
    with pytest.raises(InputError, match="photos show crops"): plots_of(WORLD.window(-200_000, 5_000, 16, 2020, 1, ["sentinel2_l2a"]))
    with pytest.raises(InputError, match="no parcels of hops; use some of maize"): Parcels(WORLD, 2, crops=("hops",))
    with pytest.raises(InputError, match="no parcel of cotton within 80 places"): Parcels(WORLD, 1, crops=("cotton",), latitudes=(58, 59))[0]
    with pytest.raises(IndexError, match="window 3 of 2"): Parcels(WORLD, 2)[3]
