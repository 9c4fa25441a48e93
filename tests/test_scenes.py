"Scenes of any size: a killed run, several processes, every kind of input, a cell that does not depend on where a run begins."
import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import xarray as xr

from olmoearth.model import Config, OlmoEarth
from olmoearth.samples import InputError, to_xarray
from olmoearth.scenes import embed_scene
from olmoearth.sources import open_scene, write_store
from olmoearth.stacks import write_geotiffs
from olmoearth.stores import open_embedding
from olmoearth.synthetic import World


def contents(folder):
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def scene():
    return World(seed=5, clouds=.1, missing_time=0, missing_modality=0).window(0, 0, 100, months=2).select(["sentinel2_l2a", "sentinel1"])


@pytest.fixture(scope="module")
def model():
    return OlmoEarth(Config.of("nano", "v1.2", depth=2), seed=0)


@pytest.fixture(scope="module")
def store(scene, tmp_path_factory):
    return write_store(scene, tmp_path_factory.mktemp("scene") / "scene.zarr", side=64)


SCRIPT = """
import sys, time
from olmoearth.model import Config, OlmoEarth
from olmoearth import scenes
if len(sys.argv) > 3:                                   # slow enough to be killed
    fast = scenes.embed_block
    def slow(*a): time.sleep(float(sys.argv[3])); return fast(*a)
    scenes.embed_block = slow
scenes.embed_scene(sys.argv[1], OlmoEarth(Config.of("nano", "v1.2", depth=2), seed=0), sys.argv[2], overlap=8, block=32, check="off", progress=False)
"""


def test_a_killed_run_goes_on_and_gives_the_same_bytes(store, tmp_path):
    run = lambda out, *more: subprocess.Popen([sys.executable, "-c", SCRIPT, store, out, *more], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run(tmp_path / "one.zarr").wait() == 0
    cut = run(tmp_path / "two.zarr", "0.2")
    done = tmp_path / "two.zarr.part/done"
    until = time.time() + 120
    while not (done.is_dir() and len(list(done.iterdir())) >= 3):
        assert time.time() < until and cut.poll() is None
        time.sleep(.01)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    n = len(list(done.iterdir()))
    assert 3 <= n < 25 and not (tmp_path / "two.zarr").exists()
    with pytest.raises(InputError, match="is not finished"): open_embedding(tmp_path / "two.zarr")
    assert run(tmp_path / "two.zarr").wait() == 0
    assert contents(tmp_path / "two.zarr") == contents(tmp_path / "one.zarr")


def test_two_workers_write_the_same_bytes(store, model, tmp_path):
    from dask.distributed import Client, LocalCluster
    alone = embed_scene(store, model, tmp_path / "alone.zarr", overlap=8, block=48, check="off", progress=False)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster) as client:
        shared = embed_scene(store, model, tmp_path / "shared.zarr", overlap=8, block=48, check="off", progress=False, client=client)
    assert contents(tmp_path / "shared.zarr") == contents(tmp_path / "alone.zarr")
    np.testing.assert_array_equal(shared.values, alone.values)
    with pytest.raises(InputError, match="a dask client writes to disk"): embed_scene(store, model, client=object())


@pytest.mark.parametrize("dress", ["sample", "dataset", "lazy", "store", "folder", "stored by somebody else"])
def test_every_kind_of_scene_gives_the_same_cells(dress, scene, store, model, tmp_path):
    if dress == "folder": given = write_geotiffs(scene, tmp_path / "folder")
    elif dress == "stored by somebody else":                       # one variable for each band, rows to the north, no word of this package
        ds = to_xarray(scene)
        part = {b: (("y", "x", "time"), ds["sentinel2_l2a"].values[::-1, :, :, i]) for i, b in enumerate(ds["band_sentinel2_l2a"].values)}
        plain = xr.Dataset(part, {"y": ds.y.values[::-1], "x": ds.x.values, "time": ds.time.values}).rio.write_crs(scene.crs)
        given, scene = plain.chunk({"y": 30, "x": 30}), scene.select(["sentinel2_l2a"])
        given.attrs["sentinel2_offset"] = 0
    else: given = {"sample": scene, "dataset": to_xarray(scene), "lazy": xr.open_zarr(store, consolidated=False, decode_coords="all"), "store": store}[dress]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = embed_scene(scene, model, overlap=8, block=48, check="off")
        got = embed_scene(given, model, tmp_path / "out.zarr", overlap=8, block=48, check="off", progress=False)
    np.testing.assert_allclose(got.values, truth.values, atol=1e-5)
    assert (got.rio.crs, got.rio.bounds()) == (truth.rio.crs, truth.rio.bounds())


def test_a_part_of_a_scene_gives_the_cells_of_the_whole(scene, model):
    "The grid of patches is fixed to the scene: where windows agree, so do cells; where the context differs, so may they."
    whole = embed_scene(scene, model, check="off").values
    part = embed_scene(scene.crop(32, 64, 32, 32), model, check="off").values
    np.testing.assert_allclose(part, whole[8:16, 16:24], atol=1e-5)
    blended = embed_scene(scene, model, overlap=16, block=1000, check="off").values
    blocks = embed_scene(scene, model, overlap=16, block=32, check="off").values
    np.testing.assert_allclose(blocks, blended, atol=1e-5)              # blocks leave no trace


def test_gdal_and_xarray_find_it_at_the_right_place(store, scene, model, tmp_path):
    embed_scene(store, model, tmp_path / "e.zarr", patch_size=8, dtype="float32", check="off", progress=False)
    plain = xr.open_zarr(tmp_path / "e.zarr", consolidated=False, decode_coords="all")
    a, _, c, _, e, f = scene.transform
    assert plain["embedding"].rio.crs == rasterio.CRS.from_string(scene.crs) and plain["embedding"].rio.transform() == rasterio.Affine(8 * a, 0, c, 0, 8 * e, f)
    assert plain.attrs["spatial:transform"] == [8 * a, 0, c, 0, 8 * e, f] and plain.attrs["proj:code"] == scene.crs
    needed = {"type": "chip", "dimensions": 128, "data_type": "float32", "gsd": 80.0, "source_data": ["sentinel2_l2a", "sentinel1"]}
    assert {k: plain.attrs[f"geoemb:{k}"] for k in needed} == needed
    assert plain.attrs["geoemb:chip_layout"] == {"layout_type": "regular_grid", "chip_size": [8, 8], "stride": [8, 8]}
    assert plain.attrs["geoemb:model"].startswith("urn:olmoearth:v1.2:nano:")


def test_a_hole_stays_a_hole(scene, model, tmp_path):
    "Where no date and no sensor has data there is no vector, on disk as in memory, with and without overlap."
    gaps = {k: scene.mask(k).copy() for k in scene.arrays}
    for g in gaps.values(): g[40:60, 40:80] = True
    holed = replace(scene, missing=gaps)
    for overlap, dtype in ((0, "float32"), (16, "int8"), (16, "int8-unit")):
        out = embed_scene(holed, model, tmp_path / f"{overlap}{dtype}.zarr", overlap=overlap, dtype=dtype, check="off", progress=False)
        empty = np.isnan(out.values).all(-1)
        assert empty[10:15, 10:20].all() and empty.sum() == 50 and not np.isnan(out.values[~empty]).any()


def test_what_cannot_be_done_is_said(scene, store, model, tmp_path):
    with pytest.raises(InputError, match="every file of a scene must cover all of it"):
        good = open_scene(store)
        embed_scene(replace(good, times=good.times[:1]), model, check="off")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"): embed_scene(scene, model, tmp_path / "file/e.zarr", check="off", progress=False)
    embed_scene(scene, model, tmp_path / "e.zarr", check="off", progress=False)
    with pytest.raises(InputError, match="made in another way"): embed_scene(scene, model, tmp_path / "e.zarr", overlap=8, check="off", progress=False)
    with pytest.raises(InputError, match="then that line, then the same call with the sample"):
        bright = replace(scene, arrays={**scene.arrays, "sentinel2_l2a": (scene.arrays["sentinel2_l2a"] / 10_000).astype(np.float32)})
        embed_scene(write_geotiffs(bright, tmp_path / "bright"), model)
    folder = write_geotiffs(scene, tmp_path / "folder")
    short = scene.crop(0, 0, 60, 100)
    write_geotiffs(short, tmp_path / "short")
    os.replace(tmp_path / "short/sentinel1.tif", folder / "sentinel1.tif")
    with pytest.raises(InputError, match="sentinel1.tif has 60 x 100 px, label_crop.tif 100 x 100; bring them to one grid"): open_scene(folder)


def test_a_full_disk_is_said_and_finished_blocks_are_kept(scene, model, tmp_path, monkeypatch):
    import zarr
    from olmoearth.stores import Store
    write, count = Store.write, [0]

    def fails(self, block, values):
        count[0] += 1
        if count[0] == 3: monkeypatch.setattr(zarr.Array, "__setitem__", full)
        write(self, block, values)

    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr(Store, "write", fails)
    real = zarr.Array.__setitem__
    with pytest.raises(InputError, match="No space left on device.*finished blocks are kept"): embed_scene(scene, model, tmp_path / "e.zarr", block=32, check="off", progress=False)
    monkeypatch.setattr(zarr.Array, "__setitem__", real)
    assert len(list((tmp_path / "e.zarr.part/done").iterdir())) == 2
    assert embed_scene(scene, model, tmp_path / "e.zarr", block=32, check="off", progress=False).shape == (25, 25, 128)


def test_a_finished_store_is_not_read_to_be_opened_with_or_without_dask(scene, model, tmp_path, monkeypatch):
    import importlib.util
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "dask" else real(name, *a))
    lazy = embed_scene(scene, model, tmp_path / "e.zarr", block=32, check="off", progress=False)
    assert lazy.chunks is None and not lazy.variable._in_memory
    np.testing.assert_allclose(lazy.values, embed_scene(scene, model, check="off").values, atol=2e-5)


@pytest.mark.parametrize("how", [{"cell": 2}, {"pool": "sensors"}, {"pool": "max", "cell": 1}, {"centre": True, "overlap": 8}])
def test_other_cells_do_not_depend_on_blocks_or_the_way_to_disk(how, scene, store, model, tmp_path):
    if how.get("cell") == 1: scene, store = scene.crop(0, 0, 36), scene.crop(0, 0, 36)
    whole = embed_scene(scene, model, block=1000, check="off", **how)
    parts = embed_scene(store, model, tmp_path / "e.zarr", block=32, check="off", progress=False, **how)
    np.testing.assert_allclose(parts.values, whole.values, atol=2e-5)
    cell = how.get("cell", 4)
    assert whole.shape == (scene.height // cell, scene.width // cell, 256 if how.get("pool") == "sensors" else 128)
    assert parts.rio.resolution() == (10 * cell, -10 * cell) and parts.rio.bounds() == whole.rio.bounds() and parts.attrs["cell"] == cell
    assert not np.isnan(whole.values).any()
    attrs = xr.open_zarr(tmp_path / "e.zarr", consolidated=False).attrs
    assert attrs["geoemb:chip_layout"]["chip_size"] == [4, 4] and attrs["geoemb:chip_layout"]["stride"] == [cell, cell]
    with pytest.raises(InputError, match="made in another way"): embed_scene(store, model, tmp_path / "e.zarr", block=32, check="off", progress=False)


def test_a_finer_cell_is_the_mean_of_the_patches_around_it(scene, model):
    "Windows of one patch have no context, so each shifted pass can be made by hand; at the corner one patch is left."
    fine = embed_scene(scene.crop(0, 0, 8), model, window=4, cell=2, check="off").values                     # (4, 4, D)
    patch = {(y, x): embed_scene(scene.crop(y, x, 4), model, window=4, check="off").values[0, 0] for y in (0, 2, 4) for x in (0, 2, 4)}
    np.testing.assert_allclose(fine[0, 0], patch[0, 0], atol=1e-5)
    np.testing.assert_allclose(fine[0, 1], (patch[0, 0] + patch[0, 2]) / 2, atol=1e-5)
    np.testing.assert_allclose(fine[1, 2], (patch[0, 2] + patch[0, 4] + patch[2, 2] + patch[2, 4]) / 4, atol=1e-5)


def real_scenes():
    from olmoearth.datasets import read_scene
    from olmoearth.settings import find_data
    mesh, flood = find_data("terramesh"), find_data("sen1floods11")
    if mesh is None or flood is None: pytest.skip("the real scenes are not at hand")
    folders = [mesh / n for n in ("433D_629L_3_1", "38D_378R_2_3", "637U_59R_1_3")] + [flood]
    return [read_scene(f, check="off") for f in folders]


def test_one_byte_costs_the_neighbours_little_and_seams_do_not_show_on_real_scenes():
    from olmoearth.pretrained import load
    from olmoearth.probes import cell_labels, checkerboard, score
    from olmoearth.stores import pack, unpack
    from olmoearth.windows import Grid, seam_ratio
    model = load("sim-nano")
    for s in [*real_scenes(), World(seed=3, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 192, months=1)]:
        cells = embed_scene(s, model, overlap=16, check="off").values
        grid = Grid.of(cells.shape[:2], 8, 4)
        for where in ("edges", "middle"): assert seam_ratio(cells, grid, where) <= 1.05, s.name
        if not s.labels: continue
        cells = embed_scene(s, model, check="off").values
        labels = cell_labels(next(iter(s.labels.values())), 4)
        full = score(cells, labels, checkerboard(labels.shape)).accuracy
        for dtype in ("int8", "int8-unit"):
            numbers, scale = pack(cells, dtype)
            assert full - score(unpack(numbers, dtype, scale), labels, checkerboard(labels.shape)).accuracy <= .5, (s.name, dtype)


def test_a_grid_that_cannot_be_is_refused(scene, model, tmp_path):
    from olmoearth.checks import InputWarning
    a, _, c, _, e, f = scene.transform
    with pytest.raises(InputError, match="is rotated .*reproject"): embed_scene(replace(scene, transform=(a, 2., c, 2., e, f)), model, check="off")
    with pytest.warns(InputWarning, match="no coordinate system, so bare.zarr will lie nowhere; give it one"):
        embed_scene(replace(scene, crs=None), model, tmp_path / "bare.zarr", check="off", progress=False)
    folder = write_geotiffs(scene, tmp_path / "zones")
    with rasterio.open(folder / "sentinel1.tif", "r+") as dst: dst.crs = rasterio.CRS.from_epsg(32633)
    with pytest.raises(InputError, match="sentinel1.*32633|32633.*sentinel1"): embed_scene(folder, model, check="off")


def test_a_geotiff_cut_short_is_not_taken_for_finished(scene, model, tmp_path, monkeypatch):
    "GDAL closes a file on a full disk without an exception; so it is read back."
    import rasterio.shutil
    real = rasterio.shutil.copy

    def short(src, dst, **how):
        real(src, dst, **how)
        with open(dst, "r+b") as f: f.truncate(os.path.getsize(dst) // 2)
    monkeypatch.setattr(rasterio.shutil, "copy", short)
    with pytest.raises(InputError, match="cannot be written .*make room and call again: finished blocks are kept"):
        embed_scene(scene, model, tmp_path / "e.tif", check="off", progress=False)
    assert not (tmp_path / "e.tif").exists()
    monkeypatch.setattr(rasterio.shutil, "copy", real)
    assert embed_scene(scene, model, tmp_path / "e.tif", check="off", progress=False).shape == (25, 25, 128)


def test_a_name_is_a_model_and_two_files_of_one_stem_keep_their_pages(scene, model, tmp_path):
    named = embed_scene(scene, "sim-nano", check="off")
    assert named.shape == (25, 25, 128)
    for suffix in (".zarr", ".tif"): embed_scene(scene, model, tmp_path / f"e{suffix}", check="off", progress=False)
    assert {p.name for p in tmp_path.glob("*.json")} == {"e.zarr.stac.json", "e.tif.stac.json"}
