"""The front door: scenes, xarray, downloads, the example that is always there."""
import tarfile
import threading
import warnings
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pooch
import pytest
import rioxarray  # noqa: F401
import xarray as xr

from olmoearth.datasets import (
    EXAMPLES, DownloadError, H5Folder, OfficialTree, download, example_scene, fetch_subset, from_dataset, read_scene, unpack, write_geotiffs, write_h5, write_h5_folder,
    write_tile)
from olmoearth.modalities import modality
from olmoearth.samples import InputError, Sample, crop, same, to_xarray
from olmoearth.settings import find_data, rng
from olmoearth.tree import Tile, tile_transform

MB = 1 << 20


@pytest.fixture
def site(tmp_path):
    "A folder served on this machine: (folder, url, requests)."
    folder, asked = tmp_path / "site", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    monkeypatch.setenv("OLMOEARTH_OFFLINE", "0")
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path / "cache"))


def small(seed=0, size=4, months=2):
    g = rng(seed, "test datasets")
    return Sample({"sentinel2_l2a": g.integers(1, 9000, (size, size, months, 12)).astype(np.uint16), "sentinel1": g.normal(-15, 4, (size, size, months, 2)).astype(np.float32)},
                  (np.datetime64("2020-01") + np.arange(months)).astype("datetime64[D]"), {}, "EPSG:32632", (10, 0, 500_000, 0, -10, 5_000_000), name=f"place {seed}")


# downloads

def test_download_once(site, tmp_path):
    folder, url, asked = site
    (folder / "a.bin").write_bytes(b"x" * 1000)
    sha = pooch.file_hash(str(folder / "a.bin"))
    for _ in range(2): assert download(url + "a.bin", sha, tmp_path / "d").read_bytes() == b"x" * 1000
    assert asked.count("/a.bin") == 1


def test_a_changed_file_is_refused_and_not_kept(site, tmp_path):
    folder, url, _ = site
    (folder / "a.bin").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="SHA-256 differs"): download(url + "a.bin", "0" * 64, tmp_path / "d")
    assert not list((tmp_path / "d").iterdir())


def test_a_damaged_copy_in_the_cache_is_fetched_again(site, tmp_path):
    folder, url, asked = site
    (folder / "a.bin").write_bytes(b"x" * 1000)
    sha = pooch.file_hash(str(folder / "a.bin"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.bin").write_bytes(b"x" * 500)
    assert download(url + "a.bin", sha, tmp_path / "d").stat().st_size == 1000 and asked


@pytest.mark.parametrize("with_hash", [True, False])
def test_a_connection_that_breaks(tmp_path, with_hash):
    class Breaks(BaseHTTPRequestHandler):
        def log_message(self, *args): pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(2 * MB))
            self.end_headers()
            self.wfile.write(b"x" * MB)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Breaks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(DownloadError): download(f"http://127.0.0.1:{server.server_port}/a.bin", "0" * 64 if with_hash else None, tmp_path / "d", timeout=5)
    finally:
        server.shutdown()
        server.server_close()
    assert not [p for p in (tmp_path / "d").iterdir() if p.stat().st_size]


def test_nobody_answers(tmp_path):
    with pytest.raises(DownloadError, match="could not be fetched"): download("http://127.0.0.1:9/a.bin", None, tmp_path / "d", timeout=2)


def test_offline_asks_nobody(site, tmp_path, monkeypatch):
    folder, url, asked = site
    (folder / "a.bin").write_bytes(b"x")
    monkeypatch.setenv("OLMOEARTH_OFFLINE", "1")
    with pytest.raises(DownloadError, match="offline"): download(url + "a.bin", None, tmp_path / "d")
    assert asked == []


# the subset

def pack(folder, name, source, inside):
    with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar: tar.add(source, inside)
    return pooch.file_hash(str(folder / name))


@pytest.mark.parametrize("name", ["subset.tar", "subset.tar.gz"])
def test_subset_of_training_files(site, tmp_path, name):
    folder, url, asked = site
    sha = pack(folder, name, write_h5_folder([small(i) for i in range(3)], tmp_path / "h5"), "h5py_data_w_missing_timesteps_zstd_3_128_x_4/sentinel1_sentinel2_l2a/3")
    for _ in range(2):
        data = fetch_subset(url + name, sha, check="off")
        assert isinstance(data, H5Folder) and len(data) == 3 and same(data[2], small(2))
    assert len(asked) == 1


def test_subset_as_a_tree(site, tmp_path):
    folder, url, _ = site
    s = small(0, 256, 1)
    s.transform = tile_transform(Tile("EPSG:32632", 100, -2000))
    write_tile(s, tmp_path / "tree")
    data = fetch_subset(url + "tree.tar", pack(folder, "tree.tar", tmp_path / "tree", "1k"), check="off")
    assert isinstance(data, OfficialTree) and data[0].transform == s.transform


@pytest.mark.parametrize("with_hash", [True, False])
def test_a_cut_archive_leaves_nothing_behind(site, tmp_path, with_hash):
    folder, url, _ = site
    sha = pack(folder, "s.tar.gz", write_h5_folder([small(i) for i in range(3)], tmp_path / "h5"), "3")
    whole = (folder / "s.tar.gz").read_bytes()
    (folder / "s.tar.gz").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(DownloadError, match="SHA-256 differs" if with_hash else "cannot be unpacked"): fetch_subset(url + "s.tar.gz", sha if with_hash else None, tmp_path / "d")
    assert not [p for p in (tmp_path / "d").rglob("*.h5")]
    (folder / "s.tar.gz").write_bytes(whole)                                  # the second try is whole
    (tmp_path / "d" / "s.tar.gz").unlink(missing_ok=True)
    assert len(fetch_subset(url + "s.tar.gz", sha, tmp_path / "d", check="off")) == 3


def test_an_archive_that_climbs_out(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with tarfile.open(tmp_path / "bad.tar", "w") as tar: tar.add(tmp_path / "x.txt", "../../escaped.txt")
    with pytest.raises(DownloadError, match="cannot be unpacked"): unpack(tmp_path / "bad.tar", tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_an_archive_of_something_else(site, tmp_path):
    folder, url, _ = site
    (tmp_path / "x.txt").write_text("x")
    pack(folder, "x.tar", tmp_path / "x.txt", "x.txt")
    with pytest.raises(InputError, match="neither sample_"): fetch_subset(url + "x.tar")


# the example

def no_data(monkeypatch, tmp_path): monkeypatch.setenv("OLMOEARTH_TEST_DATA", str(tmp_path / "nowhere"))


def test_example_is_real_where_data_is_at_hand():
    if find_data("terramesh") is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    for name in EXAMPLES:
        s = example_scene(name)
        assert s.attrs["source"] == "real" and "TerraMesh" in s.attrs["credit"] and "CC-BY-SA" in s.attrs["credit"] and "land_cover" in s.labels
    assert example_scene().name == next(iter(EXAMPLES))


def test_example_is_downloaded_checked_and_kept(site, tmp_path, monkeypatch):
    real = find_data("terramesh/637U_59R_1_3")
    if real is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    want = example_scene("637U_59R_1_3")
    folder, url, asked = site
    for kind in ("S2L2A", "S1RTC", "DEM", "LULC"):
        (folder / kind).mkdir()
        (folder / kind / "637U_59R_1_3.tif").write_bytes((real / f"{kind}.tif").read_bytes())
    no_data(monkeypatch, tmp_path)
    for _ in range(2): assert same(example_scene("637U_59R_1_3", url=url), want)
    assert len(asked) == 4
    (folder / "LULC" / "38D_378R_2_3.tif").write_bytes(b"not it")
    with pytest.warns(UserWarning, match="a simulated scene stands in"): assert example_scene("38D_378R_2_3", url=url).attrs["source"] == "simulated"


@pytest.mark.parametrize("offline", ["0", "1"])
def test_example_is_simulated_without_data(monkeypatch, tmp_path, offline):
    no_data(monkeypatch, tmp_path)
    monkeypatch.setenv("OLMOEARTH_OFFLINE", offline)
    with pytest.warns(UserWarning, match="a simulated scene stands in for 433D"): s = example_scene(url="http://127.0.0.1:9/", timeout=1)
    assert s.attrs["source"] == "simulated" and "simulated" in s.attrs["credit"] and s.shape == (224, 224) and s.labels


def test_simulated_on_request_is_silent(recwarn):
    assert example_scene("simulated").attrs["source"] == "simulated" and not [w for w in recwarn if "stands in" in str(w.message)]
    with pytest.raises(InputError, match="no example"): example_scene("Atlantis")


# any scene

def test_read_scene_knows_every_kind(tmp_path):
    s = small()
    write_h5(s, tmp_path / "sample_0.h5")
    write_geotiffs(s, tmp_path / "tifs")
    to_xarray(s).to_netcdf(tmp_path / "s.nc", engine="h5netcdf" if _has("h5netcdf") else None) if _has("h5netcdf") or _has("netCDF4") else None
    to_xarray(s).to_zarr(tmp_path / "s.zarr") if _has("zarr") else None
    for p in ("sample_0.h5", "tifs", "s.nc", "s.zarr"):
        if (tmp_path / p).exists(): assert same(read_scene(tmp_path / p, check="off"), s), p


def _has(name):
    import importlib.util
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("place,modalities,label", [("terramesh/38D_378R_2_3", ("sentinel2_l2a", "sentinel1", "srtm"), "land_cover"),
                                                    ("sen1floods11", ("sentinel2_l2a", "sentinel1"), "flood"),
                                                    ("cropharvest_togo", ("sentinel2_l2a", "sentinel1", "era5_10", "srtm"), None)])
def test_read_scene_on_the_scenes_at_hand(place, modalities, label):
    folder = find_data(place)
    if folder is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = read_scene(folder, check="raise")
    assert s.modalities == modalities and list(s.labels) == ([label] if label else [])


def test_read_scene_says_what_it_looked_for(tmp_path):
    with pytest.raises(InputError, match="TerraMesh: S2L2A.tif"): read_scene(tmp_path)
    with pytest.raises(InputError, match="there is no 'nothing'"): read_scene(tmp_path / "nothing")


# any xarray

def cube(bands=("B02", "B03", "B04"), times=("2021-05-08", "2021-06-08"), h=4, w=3, **grid):
    g = rng(0, "cube")
    coords = {"time": np.array(times, "datetime64[ns]"), "y": grid.get("top", 5_000_000) - 10 * np.arange(h) - 5.0, "x": grid.get("left", 500_000) + 10 * np.arange(w) + 5.0}
    return xr.Dataset({b: (("time", "y", "x"), g.integers(1, 9000, (len(times), h, w)).astype(np.uint16)) for b in bands}, coords).rio.write_crs("EPSG:32632")


def test_bands_are_found_by_name_in_any_order():
    ds = cube(bands=("B04", "B02", "B03"))
    s = from_dataset(ds, check="off")
    for i, b in enumerate(("B02", "B03", "B04")): assert np.array_equal(s.arrays["sentinel2_l2a"][..., i].transpose(2, 0, 1), ds[b].values)
    assert s.missing["sentinel2_l2a"][..., 3:].all() and not s.missing["sentinel2_l2a"][..., :3].any()


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.transpose("x", "time", "y"), lambda d: d.isel(y=slice(None, None, -1)),
                                    lambda d: d.rename(x="lon", y="lat", time="date")])
def test_axes_in_any_order_and_name(change):
    assert same(from_dataset(change(cube()), crs="EPSG:32632", check="off"), from_dataset(cube(), check="off"))


def test_one_date_without_a_time_axis():
    s = from_dataset(cube(times=("2021-05-08",)).isel(time=0, drop=True), date="2021-05-08", check="off")
    assert same(s, from_dataset(cube(times=("2021-05-08",)), check="off"))
    assert same(from_dataset(cube(times=("2021-05-08",)).isel(time=0), check="off"), s)             # the date as a plain coordinate
    with pytest.raises(InputError, match="pass date="): from_dataset(cube().isel(time=0, drop=True), check="off")


def test_gaps_by_nan_and_by_fill_value():
    ds = cube()
    ds["B02"] = ds["B02"].astype("float32").where(ds["B02"] > 3000)
    ds["B03"].encoding["_FillValue"] = int(ds["B03"].values[0, 0, 0])
    s = from_dataset(ds, check="off")
    assert np.array_equal(s.missing["sentinel2_l2a"][..., 0].transpose(2, 0, 1), np.isnan(ds["B02"].values)) and s.missing["sentinel2_l2a"][0, 0, 0, 1]


def test_tree_with_a_node_per_sensor():
    radar = cube(("vv", "vh"), ("2021-05-10", "2021-08-01")).map(lambda v: -v.astype("float32") / 1000).assign_coords(spatial_ref=cube().spatial_ref)
    tree = xr.DataTree.from_dict({"/a": cube(), "/b": radar})
    exact, joined = from_dataset(tree, check="off"), from_dataset(tree, tolerance=3, check="off")
    assert exact.n_times == 4 and joined.n_times == 3 and joined.missing["sentinel1"][0, 0, :, 0].tolist() == [False, True, False]
    named = from_dataset(tree, {"sentinel1": {"vv": "vv", "vh": "vh"}}, check="off")
    assert named.modalities == ("sentinel1",) and named.n_times == 2


@pytest.mark.parametrize("make,bands,says", [
    (lambda: cube(("a", "b")), None, "pass bands="), (lambda: cube(), {"sentinel2_l2a": {"B02": "blue"}}, "no variable blue"),
    (lambda: cube(), {"sentinel2_l2a": "B02"}, "none of them named band"), (lambda: cube().isel(time=[1, 0]), None, "out of order"),
    (lambda: cube().expand_dims("run"), None, "unknown dimension run"), (lambda: cube().rename(x="i"), None, "x and y are needed"),
    (lambda: cube().assign_coords(x=[5.0, 15.0, 40.0]), None, "not evenly spaced"),
    (lambda: xr.DataTree.from_dict({"/a": cube(), "/b": cube(("vv", "vh"), left=500_050)}), None, "another grid")])
def test_what_cannot_be_told(make, bands, says):
    with pytest.raises(InputError, match=says): from_dataset(make(), bands, check="off")


def test_offset_stated_in_the_attributes_is_removed_once():
    ds = cube().map(lambda v: v + np.uint16(1000), keep_attrs=True)
    s = from_dataset(ds, attrs={"sentinel2_offset": 1000}, check="off")
    assert np.array_equal(s.arrays["sentinel2_l2a"], from_dataset(cube(), check="off").arrays["sentinel2_l2a"]) and s.attrs["sentinel2_offset"] == 0


def test_the_check_runs_on_xarray():
    ds = cube(modality("sentinel2_l2a").bands, h=20, w=20).map(lambda v: v / np.float32(10000))
    with pytest.raises(InputError, match="reflectance"): from_dataset(ds.rio.write_crs("EPSG:32632"), check="raise")


def test_crops_of_scenes_keep_their_place():
    if find_data("terramesh") is None: pytest.skip("real satellite data not found: set OLMOEARTH_TEST_DATA")
    s = example_scene("637U_59R_1_3")
    c = crop(s, 32, 64, 16)
    assert np.isclose(c.transform[2] - s.transform[2], 640) and np.isclose(s.transform[5] - c.transform[5], 320)
