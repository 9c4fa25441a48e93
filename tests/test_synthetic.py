"""The simulated Earth: repeatable to the last bit, seamless, and of one mind in all its layers."""
import multiprocessing
import pickle

import numpy as np
import pytest

from olmoearth.landcover import COVERS, CROPS, ID
from olmoearth.modalities import SENSORS, modality
from olmoearth.samples import InputError, crop, lonlat, same
from olmoearth.synthetic import CELL, GRANULE, HOME, WORLD_MODALITIES, Tiles, World, gaps
from olmoearth.terrain import EASTING, NORTHING, latitude

CLEAR = World(seed=0, clouds=0, missing_time=0, missing_modality=0)
S2, RED, NIR, GREEN = (modality("sentinel2_l2a").index(b)[0] for b in ("B02", "B04", "B08", "B03"))


@pytest.fixture(scope="module")
def north():
    "Temperate farmland of the northern hemisphere, with a river and a village."
    return CLEAR.window(-128, 0, 384)


@pytest.fixture(scope="module")
def south():
    "Temperate farmland of the southern hemisphere."
    return CLEAR.window(956_416, -11_648, 256, modalities=["sentinel2_l2a", "sentinel1", "worldcover"])


def ndvi(sample, where):
    x = sample.arrays["sentinel2_l2a"][where].astype(float)   # (P, T, C)
    return ((x[..., NIR] - x[..., RED]) / (x[..., NIR] + x[..., RED])).mean(0)


def decibel(sample, where, band):
    return 10 * np.log10((10 ** (sample.arrays["sentinel1"][where][..., band] / 10)).mean(0))


def test_same_window_twice_is_bit_identical():
    world = World(seed=5)
    assert same(world.window(640, -1280), world.window(640, -1280))


def test_seeds_and_years_differ():
    one = CLEAR.window(0, 0, 64, modalities=["sentinel2_l2a", "srtm"])
    seed = World(1, 0, 0, 0).window(0, 0, 64, modalities=["sentinel2_l2a", "srtm"])
    year = CLEAR.window(0, 0, 64, 2021, modalities=["sentinel2_l2a", "srtm"])
    assert (one.arrays["srtm"] != seed.arrays["srtm"]).mean() > .5
    assert (one.arrays["srtm"] == year.arrays["srtm"]).all()                                 # hills stay
    assert (one.arrays["sentinel2_l2a"] != year.arrays["sentinel2_l2a"]).mean() > .5         # crops and weather change


@pytest.mark.parametrize("row, col", [(-70, -70), (50, 100), (GRANULE - 60, 2 * GRANULE - 100)])
def test_window_equals_union_of_neighbours(row, col):
    "A window over tile (and granule) borders is what its four quarters are, in every layer and mask."
    world, half = World(seed=2, clouds=.3, missing_time=.4, missing_modality=0), 60
    whole = world.window(row, col, 2 * half, 2021)
    for i in (0, half):
        for j in (0, half):
            part, cut = world.window(row + i, col + j, half, 2021), crop(whole, i, j, half)
            assert part.transform == cut.transform and part.crs == cut.crs
            for name in WORLD_MODALITIES:
                if name == "era5_10" and (row // CELL, col // CELL) != ((row + i) // CELL, (col + j) // CELL): continue
                assert part.arrays[name].tobytes() == cut.arrays[name].tobytes(), name
            for name in SENSORS: assert (part.mask(name) == cut.mask(name)).all(), name
            for name in part.labels: assert (part.labels[name].values == cut.labels[name].values).all()


def test_no_visible_seam():
    "Steps across tile borders are no larger than steps inside tiles, in images and elevation."
    x = CLEAR.window(0, 0, 512, modalities=["sentinel2_l2a", "sentinel1", "landsat", "srtm"])
    border = np.arange(127, 511, 128)
    for name, array in x.arrays.items():
        for axis in (0, 1):
            step = np.abs(np.diff(array.astype(float), axis=axis)).mean((1 - axis, 2, 3))    # (511,)
            odd = np.arange(1, 511, 2) if name != "landsat" else np.arange(3, 511, 4)        # 20 m and 40 m blocks: compare like with like
            odd = np.arange(3, 511, 4) if name == "sentinel2_l2a" else odd
            inside = step[np.setdiff1d(odd, border)]
            assert step[border].mean() < inside.mean() + 3 * inside.std(), (name, axis)


def test_roads_rivers_and_parcels_cross_borders():
    "What touches a border on one side usually goes on, as the same class, on the other."
    cover = CLEAR.window(0, 0, 512, modalities=["cdl"]).arrays["cdl"][..., 0, 0]
    same_across = np.mean([(cover[:, k] == cover[:, k + 1]).mean() for k in (127, 255, 383)])
    same_inside = np.mean([(cover[:, k] == cover[:, k + 1]).mean() for k in range(40, 110)])
    assert same_across > same_inside - .05


def test_maize_is_maize_in_every_layer(north):
    field = north.arrays["cdl"][..., 0, 0] == 1
    assert field.sum() > 300
    assert (north.labels["crop"].values[field] == 1).all() and (north.arrays["worldcover"][field] == 40).all()
    layers = modality("worldcereal").bands
    cereal = north.arrays["worldcereal"][:, :, 0]
    assert (cereal[field][:, layers.index("tc-maize-main-maize-classification")] == 100).all()
    assert (cereal[~field][:, layers.index("tc-maize-main-maize-classification")] == 0).all()
    green, vh = ndvi(north, field), decibel(north, field, 1)
    assert green[7] > green[1] + .3 and vh[7] > vh[1] + 3


def test_seasons_flip_in_the_south(north, south):
    code = COVERS[ID["maize"]].cdl
    for sample, summer, winter in ((north, 7, 1), (south, 1, 7)):
        field = sample.labels["crop"].values == code
        assert field.sum() > 200
        green = ndvi(sample, field)
        assert green[summer] > green[winter] + .2
    assert lonlat(north)[1] > 45 and lonlat(south)[1] < -30


def test_water_is_dark_in_infrared_and_radar(north):
    water = north.arrays["worldcover"][..., 0, 0] == 80
    assert 300 < water.sum() < water.size / 2
    assert np.median(north.arrays["sentinel2_l2a"][water][:, 6, NIR]) < .5 * np.median(north.arrays["sentinel2_l2a"][~water][:, 6, NIR])
    assert decibel(north, water, 0)[6] < decibel(north, ~water, 0)[6] - 4


def test_trees_and_only_trees_have_a_height(north):
    tall = north.arrays["wri_canopy_height_map"][..., 0, 0] > 0
    assert (tall == (north.arrays["worldcover"][..., 0, 0] == 10)).all() and tall.any()


def test_buildings_rivers_and_roads_of_openstreetmap_agree(north):
    layer = lambda n: north.arrays["openstreetmap_raster"][:, :, 0, modality("openstreetmap_raster").bands.index(n)]
    cover = north.arrays["worldcover"][..., 0, 0]
    assert (layer("building") > 0).sum() > 100 and (cover[layer("building") > 0] == 50).all()
    assert (np.isin(cover[layer("river") > .9], (50, 80))).all()                              # water, or a bridge over it
    assert (cover[layer("highway") > .9] == 50).all()
    assert decibel(north, layer("building") > 0, 0)[6] > decibel(north, cover == 40, 0)[6] + 2


def test_snow_is_bright_and_cold():
    sample = CLEAR.window(-59_392, -8_704, modalities=["sentinel2_l2a", "landsat", "era5_10"])
    x = sample.arrays["sentinel2_l2a"]
    assert np.median(x[:, :, 0, S2]) > 4000 > 1500 > np.median(x[:, :, 6, S2])
    swir = modality("sentinel2_l2a").index("B11")[0]
    assert np.median(x[:, :, 0, swir]) < 2000                                                # snow is black in the shortwave infrared
    assert sample.arrays["era5_10"][0, 0] < 273.15 < sample.arrays["era5_10"][6, 0]
    thermal = modality("landsat").index("B10")[0]
    assert sample.arrays["landsat"][:, :, 0, thermal].mean() < sample.arrays["landsat"][:, :, 6, thermal].mean()


def test_snow_melts_in_the_tropics():
    x = CLEAR.window(606_144, -3_904, 64, modalities=["sentinel2_l2a"]).arrays["sentinel2_l2a"]
    assert np.median(x[..., S2]) < 2000


def test_values_are_in_their_valid_ranges_and_types(north):
    for name in WORLD_MODALITIES:
        m, v = modality(name), north.arrays[name]
        assert v.dtype == m.dtype and m.valid[0] <= v.min() and v.max() <= m.valid[1], name
        assert v.shape[-1] == m.n_bands


def test_irrigated_and_second_season_layers_are_subsets():
    x = CLEAR.window(466_752, -19_008, 256, modalities=["worldcereal"]).arrays["worldcereal"][:, :, 0] > 0
    at = {b[3:-15]: k for k, b in enumerate(modality("worldcereal").bands)}
    for small, large in (("maize-main-irrigation", "maize-main-maize"), ("maize-second-maize", "maize-main-maize"),
                         ("maize-second-irrigation", "maize-second-maize"), ("maize-main-maize", "annual-temporarycrops")):
        assert not (x[..., at[small]] & ~x[..., at[large]]).any(), small
    assert x[..., at["annual-temporarycrops"]].any()


def test_missing_rates_are_as_asked():
    rates = [gaps(9, i, 3, 2020, 12, .25, .15) for i in range(400)]
    assert abs(np.mean([r[0].mean() for r in rates]) - .25) < .03
    assert abs(np.mean([len(r[1]) for r in rates]) / len(WORLD_MODALITIES) - .15) < .03
    assert not any(r[1] >= set(SENSORS) for r in rates)                                       # never blind
    assert not any(r[0].all(0).any() for r in rates)


def test_missing_dates_are_masked_and_zero():
    sample = World(seed=3, missing_time=.5, missing_modality=0).window(0, 0, 64, modalities=SENSORS)
    for name in SENSORS:
        mask, lost = sample.mask(name), sample.mask(name).all((0, 1, 3))
        assert (mask == lost[None, None, :, None]).all() and 0 < lost.sum() < 12              # whole dates
        assert (sample.arrays[name][mask] == 0).all()
    assert CLEAR.window(0, 0, 8).missing == {}


def test_missing_modalities_are_absent():
    names = [World(seed=3, missing_modality=.5).window(k * GRANULE, 0, 4, months=1).modalities for k in range(12)]
    assert len({len(n) for n in names}) > 1 and all(set(n) & set(SENSORS) for n in names)
    assert World(0, missing_modality=1).window(0, 0, 4, months=1).modalities == ("sentinel2_l2a",)


def test_cloud_rate():
    bright = lambda rate: np.mean([World(0, rate, 0, 0).window(606_144 + 3000 * k, -3_904, 32, modalities=["sentinel2_l2a"]).arrays["sentinel2_l2a"][..., S2] > 2600
                                   for k in range(6)])
    assert bright(0) < .02 < bright(.3) < .55 and bright(.3) > .12


def test_georeference_agrees_with_latitude():
    for row in (0, 300_000, 900_000):
        sample = CLEAR.window(row, -HOME[1], 2, months=1, modalities=["srtm"])
        assert abs(lonlat(sample)[1] - float(latitude(row + HOME[0]))) < .01 and abs(lonlat(sample)[0] - 3) < .01
    assert CLEAR.window(7, 9, 2, months=1, modalities=["srtm"]).transform == (
        10, 0, EASTING + 10 * (9 + HOME[1]), 0, -10, NORTHING - 10 * (7 + HOME[0]))


def test_world_has_no_end():
    "Far beyond the pole, and far east, windows still render."
    sample = CLEAR.window(-9_000_000, 50_000_000, 16, months=2)
    assert all(np.isfinite(v.astype(float)).all() for v in sample.arrays.values())


def test_small_and_odd_windows():
    assert CLEAR.window(-1, -1, 1, months=1).shape == (1, 1)
    assert CLEAR.window(-1, -1, 3, months=5).arrays["landsat"].shape == (3, 3, 5, 11)


@pytest.mark.parametrize("call, fix", [
    (dict(row=0, col=0, size=0), "size=128"), (dict(row=0, col=0, months=0), "months=12"), (dict(row=0, col=0, months=13), "months=12"),
    (dict(row=.5, col=0), "int"), (dict(row=0, col=0, modalities=["naip_10"]), "sentinel2_l2a"), (dict(row=0, col=0, year=0), "year=2020")])
def test_bad_windows_name_the_fix(call, fix):
    with pytest.raises(InputError, match=fix): World().window(**call)


@pytest.mark.parametrize("bad", [dict(clouds=-.1), dict(missing_time=1.5), dict(missing_modality=30)])
def test_bad_rates(bad):
    with pytest.raises(InputError, match="0 to 1"): World(**bad)


def test_tiles_cover_the_climates():
    tiles = World(seed=0).tiles(300, seed=1)
    lat = np.array([float(latitude(tiles.place(i)[0] + HOME[0])) for i in range(60)])
    assert (np.abs(lat) < 20).any() and (lat > 50).any() and (lat < -30).any()
    assert all(r % 128 == c % 128 == 0 for r, c, _ in map(tiles.place, range(20)))
    assert tiles.place(-1) == tiles.place(299)
    with pytest.raises(IndexError): tiles[300]
    with pytest.raises(InputError, match="tiles"): World().tiles(0)


def _digest(tiles: Tiles) -> bytes:
    import hashlib
    return hashlib.sha256(b"".join(v.tobytes() for v in tiles[3].arrays.values())).digest()


def test_pickle_and_spawned_process_give_the_same_sample():
    tiles = World(seed=4).tiles(10, size=64, months=3)
    assert pickle.loads(pickle.dumps(tiles)) == tiles
    with multiprocessing.get_context("spawn").Pool(1) as pool: assert pool.apply(_digest, (tiles,)) == _digest(tiles)


def test_every_crop_is_grown_somewhere():
    tiles = CLEAR.tiles(90, seed=2, months=1, modalities=["cdl"])
    seen = set().union(*(np.unique(tiles[i].arrays["cdl"]) for i in range(90)))
    assert {COVERS[ID[c]].cdl for c in CROPS} <= seen
