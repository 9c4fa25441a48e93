"""The official training files and GeoTIFF tree: layout, exact return, damage, conversion."""
import csv
import json
import shutil
import warnings

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
pytest.importorskip("hdf5plugin")

from olmoearth.modalities import modality, registry
from olmoearth.official import MASKS, MISSING, CorruptFile, H5Folder, hold_missing, read_h5, write_h5, write_h5_folder
from olmoearth.samples import InputError, Label, Sample, same
from olmoearth.settings import rng
from olmoearth.synthetic import World
from olmoearth.tree import OfficialTree, Tile, convert_tree, tile_files, tile_transform, to_side, write_tile

ZSTD = "32015"    # registered number of the filter


def sample(seed=0, size=8, months=4, gaps=True):
    g = rng(seed, "test official")
    arrays = {"sentinel2_l2a": g.integers(1, 9000, (size, size, months, 12)).astype(np.uint16), "sentinel1": g.normal(-15, 4, (size, size, months, 2)).astype(np.float32),
              "worldcover": g.choice([10, 40, 80], (size, size, 1, 1)).astype(np.uint8), "era5_10": g.normal(280, 5, (months, 6)).astype(np.float32)}
    missing = {}
    if gaps:
        gone = np.zeros(arrays["sentinel2_l2a"].shape, bool)
        gone[:, :, 1] = gone[:3, :2, 2, 4:7] = True
        arrays["sentinel2_l2a"][gone] = 0
        missing["sentinel2_l2a"] = gone
    times = (np.datetime64("2020-11") + np.arange(months)).astype("datetime64[D]") + 14
    return Sample(arrays, times, missing, "EPSG:32632", (10, 0, 500_000, 0, -10, 5_000_000), {"crop": Label(g.integers(-1, 3, (size, size)), {0: "no", 1: "yes"}, (-1,))},
                  f"place {seed}", {"source": "simulated"})


# layout: what the released reader relies on (seen in olmoearth-pretrain 0.1.2)

def test_layout_of_one_file(tmp_path):
    s = sample()
    write_h5(s, tmp_path / "sample_0.h5")
    with h5py.File(tmp_path / "sample_0.h5") as f:
        assert f["timestamps"][()].tolist() == [[15, 10, 2020], [15, 11, 2020], [15, 0, 2021], [15, 1, 2021]] and f["timestamps"].dtype == np.int32
        assert f["latlon"].shape == (2,) and f["latlon"].dtype == np.float32 and abs(f["latlon"][0] - 45.15) < 0.1 and abs(f["latlon"][1] - 9.0) < 0.1
        assert f["sentinel2_l2a"].shape == (8, 8, 3, 12) and f["sentinel1"].shape == (8, 8, 4, 2)          # a date without data is not stored
        assert f["worldcover"].shape == (8, 8, 1, 1) and f["era5_10"].shape == (4, 6)
        assert set(f[MASKS]) == {"sentinel2_l2a", "sentinel1"}                                             # sensors on the ground only
        assert f[MASKS]["sentinel2_l2a"].dtype == bool and f[MASKS]["sentinel2_l2a"][()].tolist() == [True, False, True, True]
        assert f["sentinel2_l2a"].dtype == np.int32 and (f["sentinel2_l2a"][:3, :2, 1, 4:7] == MISSING).all()
        assert (f["sentinel2_l2a"][()] == MISSING).sum() == 3 * 2 * 3
        for k in ("sentinel2_l2a", "sentinel1", "worldcover", "era5_10", "latlon", "timestamps"):
            assert ZSTD in f[k]._filters and f[k].chunks == f[k].shape


def test_types_are_kept_where_they_can_be(tmp_path):
    write_h5(sample(gaps=False), tmp_path / "sample_0.h5")
    with h5py.File(tmp_path / "sample_0.h5") as f: assert f["sentinel2_l2a"].dtype == np.uint16 and f["worldcover"].dtype == np.uint8


@pytest.mark.parametrize("dtype,want", [("uint8", "int32"), ("int8", "int32"), ("int16", "int32"), ("uint16", "int32"), ("int32", "int32"), ("uint32", "int64"),
                                        ("int64", "int64"), ("bool", "int32"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_room_for_the_missing_number(dtype, want):
    v = np.array([1, 0]).astype(dtype)
    out = hold_missing(v, np.array([True, False]))
    assert out.dtype == want and out.tolist() == [MISSING, 0] and hold_missing(v, np.zeros(2, bool)).dtype == v.dtype


def test_layout_of_a_folder(tmp_path):
    home = write_h5_folder([sample(i) for i in range(3)], tmp_path, modalities=["sentinel2_l2a", "sentinel1", "landsat", "worldcover", "era5_10"])
    assert home.name == "3" and sorted(p.name for p in home.iterdir()) == [
        "compression_settings.json", "latlon_distribution.npy", "sample_0.h5", "sample_1.h5", "sample_2.h5", "sample_metadata.csv"]
    with open(home / "sample_metadata.csv") as f: rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["sample_index", "sentinel2_l2a", "sentinel1", "landsat", "worldcover", "era5_10"] and [r["sample_index"] for r in rows] == ["0", "1", "2"]
    assert rows[0]["landsat"] == "0" and rows[0]["sentinel1"] == "1"
    assert np.load(home / "latlon_distribution.npy").shape == (3, 2)
    assert json.loads((home / "compression_settings.json").read_text()) == {"compression": "zstd", "compression_opts": 3, "shuffle": None}


# exact return

@pytest.mark.parametrize("seed", range(6))
def test_any_gaps_come_back(tmp_path, seed):
    g, s = rng(seed, "gaps"), sample(seed, gaps=False)
    for k, v in s.arrays.items():
        gone = g.random(v.shape) < g.choice([0, 0.1, 0.9])
        if modality(k).kind == "space-time": gone[:, :, int(g.integers(s.n_times))] = True
        v[gone] = 0
        if gone.any(): s.missing[k] = gone
    write_h5(s, tmp_path / "s.h5")
    assert same(read_h5(tmp_path / "s.h5", check="off"), s)


def test_simulated_samples_of_every_modality_come_back(tmp_path):
    s = World(seed=3).window(0, 0, 32, months=6)
    write_h5(s, tmp_path / "s.h5")
    assert same(read_h5(tmp_path / "s.h5", check="raise"), s)


def test_a_file_of_others(tmp_path):
    "A plain file without masks, grid or facts, maps without a time axis, as older releases wrote."
    with h5py.File(tmp_path / "sample_7.h5", "w") as f:
        f["latlon"], f["timestamps"] = np.array([10, 20], np.float32), np.array([[1, 0, 2020], [31, 0, 2020]])
        f["sentinel1"], f["srtm"] = np.full((2, 2, 2, 2), -10.0), np.full((2, 2, 1), MISSING)
    s = read_h5(tmp_path / "sample_7.h5", check="off")
    assert [str(t) for t in s.times] == ["2020-01-01", "2020-01-31"] and s.attrs["latlon"] == [10, 20] and s.crs is None and s.attrs["sentinel2_offset"] == 0
    assert s.arrays["srtm"].shape == (2, 2, 1, 1) and s.missing["srtm"].all() and not s.arrays["srtm"].any() and "sentinel1" not in s.missing


def test_selected_modalities(tmp_path):
    write_h5(sample(), tmp_path / "s.h5")
    assert read_h5(tmp_path / "s.h5", ["sentinel1"], check="off").modalities == ("sentinel1",)
    assert read_h5(tmp_path / "s.h5", ["latlon", "sentinel1"], check="off").arrays["latlon"].shape == (2,)
    with pytest.raises(CorruptFile, match="none of landsat"): read_h5(tmp_path / "s.h5", ["landsat"], check="off")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="at most 12"): write_h5(sample(months=13), tmp_path / "a.h5")
    write_h5(sample(months=13), tmp_path / "a.h5", long=True)
    assert same(read_h5(tmp_path / "a.h5", check="off"), sample(months=13))
    s = sample()
    s.crs = None
    with pytest.raises(InputError, match="latlon="): write_h5(s, tmp_path / "b.h5")
    empty = Sample({"sentinel1": np.zeros((2, 2, 1, 2))}, s.times[:1], {"sentinel1": np.ones((2, 2, 1, 2), bool)})
    with pytest.raises(InputError, match="every value is missing"): write_h5(empty, tmp_path / "c.h5", (0, 0))


# damage

def put(f, k, v):
    if k in f: del f[k]
    f[k] = v


DAMAGE = {
    "no timestamps": lambda f: f.pop("timestamps"),
    "timestamps of two columns": lambda f: put(f, "timestamps", f["timestamps"][:, :2]),
    "timestamps of floats": lambda f: put(f, "timestamps", f["timestamps"][()].astype(float)),
    "no dates at all": lambda f: put(f, "timestamps", np.zeros((0, 3), int)),
    "month 12": lambda f: put(f, "timestamps", f["timestamps"][()] + [0, 1, 0]),
    "month -1": lambda f: put(f, "timestamps", f["timestamps"][()] - [0, 12, 0]),
    "31 February": lambda f: put(f, "timestamps", np.array([[15, 10, 2020], [15, 11, 2020], [15, 0, 2021], [31, 1, 2021]])),
    "disorder": lambda f: put(f, "timestamps", f["timestamps"][()][[1, 0, 2, 3]]),
    "one date twice": lambda f: put(f, "timestamps", f["timestamps"][()][[0, 0, 2, 3]]),
    "a date less": lambda f: put(f, "timestamps", f["timestamps"][:3]),
    "a band less": lambda f: put(f, "sentinel1", f["sentinel1"][..., :1]),
    "a band more": lambda f: put(f, "sentinel2_l2a", np.concatenate([f["sentinel2_l2a"][()]] * 2, -1)),
    "bands first": lambda f: put(f, "sentinel2_l2a", np.moveaxis(f["sentinel2_l2a"][()], -1, 0)),
    "an image less": lambda f: put(f, "sentinel2_l2a", f["sentinel2_l2a"][:, :, :2]),
    "an image more": lambda f: put(f, "sentinel2_l2a", np.concatenate([f["sentinel2_l2a"][()]] * 2, 2)),
    "mask of another length": lambda f: put(f[MASKS], "sentinel1", np.ones(5, bool)),
    "mask that counts wrong": lambda f: put(f[MASKS], "sentinel2_l2a", np.ones(4, bool)),
    "weather of another length": lambda f: put(f, "era5_10", f["era5_10"][:3]),
    "another grid": lambda f: put(f, "worldcover", f["worldcover"][:4]),
    "missing dimensions": lambda f: put(f, "sentinel1", f["sentinel1"][:, 0]),
    "an unknown data set": lambda f: put(f, "sentinel3", np.zeros(3)),
    "a group for an array": lambda f: (f.pop("sentinel1"), f.create_group("sentinel1")),
    "text for an array": lambda f: put(f, "worldcover", "forest"),
    "promised but absent": lambda f: f.pop("sentinel1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return write_h5_folder([sample(i) for i in range(4)], tmp_path_factory.mktemp("h5"))


def copy(folder, tmp_path): return shutil.copytree(folder, tmp_path / "4")


def told(data):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        out = list(data)
    return out, [str(x.message) for x in w]


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_never_read(folder, tmp_path, what):
    home = copy(folder, tmp_path)
    with h5py.File(home / "sample_2.h5", "r+") as f: DAMAGE[what](f)
    with pytest.raises(CorruptFile, match="sample_2.h5"): list(H5Folder(home, check="off"))
    with pytest.raises(CorruptFile, match="sample_2.h5"): H5Folder(home, check="off")[2]
    data = H5Folder(home, corrupt="skip", check="off")
    out, messages = told(data)
    assert [s.name for s in out] == ["place 0", "place 1", "place 3"] and all(same(s, sample(i)) for s, i in zip(out, (0, 1, 3)))
    assert len(messages) == 1 and "sample_2.h5" in messages[0] and list(data.skipped) == ["sample_2.h5"]
    assert list(H5Folder(home, check="off").scan()) == ["sample_2.h5"]


@pytest.mark.parametrize("how", ["cut", "empty", "noise", "gone", "folder"])
def test_files_that_do_not_open(folder, tmp_path, how):
    home = copy(folder, tmp_path)
    bad = home / "sample_1.h5"
    whole = bad.read_bytes()
    bad.unlink()
    if how == "folder": bad.mkdir()
    elif how != "gone": bad.write_bytes({"cut": whole[:len(whole) * 2 // 3], "empty": b"", "noise": rng(0, "noise").bytes(len(whole))}[how])
    with pytest.raises(CorruptFile, match="sample_1.h5"): list(H5Folder(home, check="off"))
    out, messages = told(H5Folder(home, corrupt="skip", check="off"))
    assert [s.name for s in out] == ["place 0", "place 2", "place 3"] and "sample_1.h5" in messages[0]


def test_flipped_bits_never_give_other_numbers(folder, tmp_path):
    raw, g, good, caught = (folder / "sample_0.h5").read_bytes(), rng(0, "bits"), sample(0), 0
    for _ in range(400):
        data = bytearray(raw)
        data[int(g.integers(len(data)))] ^= 1 << int(g.integers(8))
        (tmp_path / "sample_0.h5").write_bytes(data)
        try: s = read_h5(tmp_path / "sample_0.h5", check="off")
        except CorruptFile: caught += 1
        else: assert same(s, good)                                        # the bit lies where nothing is stored
    assert caught > 200


def test_values_that_fail_the_input_check_are_skipped_too(folder, tmp_path):
    home = copy(folder, tmp_path)
    with h5py.File(home / "sample_3.h5", "r+") as f: put(f, "sentinel1", np.abs(f["sentinel1"][()]))      # linear, not dB
    with pytest.raises(InputError, match="log10"): H5Folder(home, modalities=["sentinel1"], check="raise")[3]
    out, messages = told(H5Folder(home, corrupt="skip", modalities=["sentinel1"], check="raise"))
    assert len(out) == 3 and any("log10" in m for m in messages)


def test_index_passes_over_and_ends(folder, tmp_path):
    home = copy(folder, tmp_path)
    for i in (1, 2): (home / f"sample_{i}.h5").write_bytes(b"")
    data = H5Folder(home, corrupt="skip", check="off")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [data[i].name for i in range(4)] == ["place 0", "place 3", "place 3", "place 3"]
        for i in (0, 3): (home / f"sample_{i}.h5").write_bytes(b"")
        with pytest.raises(CorruptFile, match="every file"): H5Folder(home, corrupt="skip", check="off")[0]
    with pytest.raises(IndexError): data[4]


def test_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match="sample_<i>.h5"): H5Folder(tmp_path)
    with pytest.raises(InputError, match="'raise' or 'skip'"): H5Folder(tmp_path, corrupt="ignore")


def test_numbers_are_numbers(tmp_path):
    home = write_h5_folder([sample(i, size=2) for i in range(11)], tmp_path)
    assert [s.name for s in H5Folder(home, check="off")] == [f"place {i}" for i in range(11)]


def test_files_without_the_wanted_modality_are_no_part(tmp_path):
    both, radar = sample(0), sample(1)
    del radar.arrays["sentinel2_l2a"], radar.missing["sentinel2_l2a"]
    home = write_h5_folder([both, radar, sample(2)], tmp_path)
    assert [s.name for s in H5Folder(home, modalities=["sentinel2_l2a"], check="off")] == ["place 0", "place 2"]
    assert len(H5Folder(home, modalities=["sentinel1", "sentinel2_l2a"], check="off")) == 3


def test_folder_travels_to_workers(folder):
    import pickle
    data = pickle.loads(pickle.dumps(H5Folder(folder, check="off")))
    assert same(data[1], sample(1))


# the tree

def tile(col=248, seed=0, months=12):
    g = rng(seed, "test tile")
    coarse = lambda n, side: to_side(g.integers(1, 9000, (n, side, side)).astype(np.uint16), 256)
    optical = lambda *parts: np.stack([np.concatenate([coarse(n, side) for n, side in parts]) for _ in range(months)]).transpose(2, 3, 0, 1)
    arrays = {"sentinel2_l2a": optical((4, 256), (6, 128), (2, 64)), "landsat": optical((1, 256), (10, 128)),
              "openstreetmap_raster": (g.random((256, 256, 1, 30)) < 0.1).astype(np.float32), "era5_10": g.normal(280, 5, (months, 6)).astype(np.float32)}
    gone = np.zeros(arrays["landsat"].shape, bool)
    gone[:, :, [0, months // 2]] = True
    arrays["landsat"][gone] = 0
    times = np.datetime64("2018-06-08") + 30 * np.arange(months)
    return Sample(arrays, times, {"landsat": gone}, "EPSG:32610", tile_transform(Tile("EPSG:32610", col, -2176)), name=f"EPSG:32610_{col}_-2176")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for i, col in enumerate((248, 249)): write_tile(tile(col, i), root)
    return root


def test_tree_files_and_table(tree):
    import rasterio
    for name, sides in (("sentinel2_l2a", (256, 128, 64)), ("landsat", (256, 128)), ("openstreetmap_raster", (1024,)), ("era5_10", (1,))):
        for file, side in zip(tile_files(name, Tile("EPSG:32610", 248, -2176)), sides, strict=True):
            with rasterio.open(tree / file) as src: assert src.shape == (side, side) and src.bounds[:2] == (634880, 5568000) and src.bounds[2:] == (637440, 5570560)
    with open(tree / "10_landsat_monthly.csv") as f: rows = [r for r in csv.DictReader(f) if r["col"] == "248"]
    assert [int(r["image_idx"]) for r in rows] == list(range(10)) and rows[0]["start_time"] == "2018-07-08T00:00:00+00:00" and rows[0]["end_time"] == "2018-08-07T00:00:00+00:00"


def test_tree_comes_back(tree):
    data = OfficialTree(tree, check="off")
    assert len(data) == 2
    for i, want in enumerate((tile(248, 0), tile(249, 1))):
        got = data[i]
        assert (got.crs, got.transform, got.name) == (want.crs, want.transform, want.name) and np.array_equal(got.times, want.times)
        for k in want.arrays: assert np.array_equal(got.arrays[k], want.arrays[k]) and np.array_equal(got.mask(k), want.mask(k)), k


def test_conversion_keeps_every_pixel(tree, tmp_path):
    done = convert_tree(tree, tmp_path, size=64)
    assert done.folder.parent.parent.name == "h5py_data_w_missing_timesteps_zstd_3_64_x_16" and done.folder.parent.name == "era5_10_landsat_openstreetmap_raster_sentinel2_l2a"
    assert done.folder.name == "32" and done.notes == []
    data, want = H5Folder(done.folder, check="off"), tile(249, 1)
    for j in (0, 5, 15):
        got, (r, c) = data[16 + j], (j // 4 * 64, j % 4 * 64)
        for k in ("sentinel2_l2a", "landsat"): assert np.array_equal(got.arrays[k], want.arrays[k][r:r + 64, c:c + 64])
        assert np.array_equal(got.missing["landsat"], want.missing["landsat"][r:r + 64, c:c + 64]) and got.transform[2] == want.transform[2] + 10 * c
    with h5py.File(done.folder / "sample_0.h5") as f, h5py.File(done.folder / "sample_15.h5") as g:
        assert np.array_equal(f["latlon"][()], g["latlon"][()])                                             # the middle of the tile, as released


def test_conversion_rules(tmp_path):
    short, bare, zero = tile(1, 1, months=5), tile(2, 2), tile(3, 3)
    del bare.arrays["openstreetmap_raster"]
    zero.arrays["openstreetmap_raster"][:] = 0
    for t in (short, bare, zero): write_tile(t, tmp_path / "tree")
    done = convert_tree(tmp_path / "tree", tmp_path / "out", required=["openstreetmap_raster"])
    assert done.folder.name == "0" and "required_openstreetmap_raster" in done.folder.parent.name
    assert [n[1:] for n in done.notes] == [("tile", "at most 5 dates, 12 needed"), ("tile", "lacks openstreetmap_raster"),
                                           ("openstreetmap_raster", "all zero"), ("tile", "lacks openstreetmap_raster")]
    with pytest.raises(InputError, match="does not divide"): convert_tree(tmp_path / "tree", size=100)


def test_empty_optical_pixels_are_gaps(tmp_path):
    t = tile(7)
    t.arrays["sentinel2_l2a"][:4, :4, 3] = 0                                # blocks of 4 x 4: the coarsest band
    write_tile(t, tmp_path)
    got = OfficialTree(tmp_path, check="off")[0]
    assert got.missing["sentinel2_l2a"].sum() == 16 * 12 and got.missing["sentinel2_l2a"][:4, :4, 3].all()


def test_a_sample_that_is_no_tile(tmp_path):
    with pytest.raises(InputError, match="multiples of 2560"): write_tile(sample(), tmp_path)
    with pytest.raises(InputError, match="10_sentinel2_l2a_monthly.csv"): OfficialTree(tmp_path)


def test_a_stack_that_disagrees_with_its_table(tree, tmp_path):
    home = shutil.copytree(tree, tmp_path / "t")
    text = (home / "10_sentinel2_l2a_monthly.csv").read_text().splitlines()
    (home / "10_sentinel2_l2a_monthly.csv").write_text("\n".join(text[:6]) + "\n")
    with pytest.raises(InputError, match="its table lists 5 images"): OfficialTree(home, check="off")[0]


def test_every_modality_of_the_registry_has_files():
    for k in registry():
        if modality(k).on_grid: assert len(tile_files(k, Tile("EPSG:32610", 0, 0))) == len(modality(k).bandsets)
