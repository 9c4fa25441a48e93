"Maps of a scene: every pixel scored once, a killed run, what other programs read, and what is refused."
import hashlib
import json
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
import rasterio.shutil

from olmoearth import predictions
from olmoearth.model import Config, OlmoEarth
from olmoearth.predictions import draw_layers, estimate_areas, open_prediction, predict_scene
from olmoearth.predictors import Facts, ProbePredictor, predictor_digest
from olmoearth.samples import InputError, Label
from olmoearth.settings import rng
from olmoearth.sources import write_store
from olmoearth.synthetic import World

NAMES = {3: "dark", 7: "middle", 40: "bright & <wide>"}


class Brightness:
    "Says of each pixel how bright it is. Knows nothing of windows, so seams would show."
    def __init__(self, **more):
        self.facts = {"kind": "segmentation", "classes": NAMES, "patch_size": 4, "window": 32, "quantile": .8, "temperature": 2., "modalities": ("sentinel2_l2a",)} | more
        self.calls = 0

    digest = "brightness-1"

    def predict(self, samples):
        self.calls += 1
        v = np.stack([s.arrays["sentinel2_l2a"][:, :, 0, 7] for s in samples]).astype(np.float32) / 1000       # (n, H, W)
        gaps = np.stack([s.mask("sentinel2_l2a")[:, :, 0, 7] for s in samples])
        if self.facts["kind"] == "regression": return np.where(gaps, np.nan, v)[..., None]
        return np.where(gaps[..., None], np.nan, np.stack([2 - v, 0 * v + .5, v - 2], -1))


@pytest.fixture(scope="module")
def scene():
    return World(seed=5, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 100, months=1).select(["sentinel2_l2a", "srtm"])


def draw(scene, predictor, out, **more): return predict_scene(scene, predictor, out, **{"check": "off", "progress": False} | more)


def contents(folder): return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("shape", [(100, 100), (33, 70), (32, 32), (30, 29), (5, 64), (4, 4)])
@pytest.mark.parametrize("overlap, block", [(None, 256), (0, 32), (16, 40)])
def test_every_pixel_is_scored_wherever_windows_and_blocks_end(scene, shape, overlap, block, tmp_path):
    part = scene.crop(0, 0, *shape)
    maps = draw(part, Brightness(), tmp_path / "map", overlap=overlap, block=block)
    want = draw_layers(Brightness().predict([part])[0], Facts.of(Brightness().facts))
    assert set(maps) == {"classes", "probability", "uncertainty", "set_size", "scores"}
    np.testing.assert_array_equal(maps["classes"].values, want["classes"])
    np.testing.assert_array_equal(maps["set_size"].values, want["set_size"])
    np.testing.assert_allclose(maps["scores"].values, want["scores"], atol=1e-5)
    np.testing.assert_allclose(maps["uncertainty"].values, want["uncertainty"], atol=1e-5)
    np.testing.assert_allclose(maps["probability"].values, want["scores"].max(0), atol=1e-5)
    assert tuple(maps.rio.transform())[:6] == part.transform and maps.rio.crs.to_string() == part.crs
    assert list(maps["scores"]["class"].values) == list(NAMES.values())


def test_gaps_stay_gaps(scene, tmp_path):
    gaps = np.zeros(scene.arrays["sentinel2_l2a"].shape, bool)
    gaps[10:20, 30:50] = True
    holes = replace(scene, missing={"sentinel2_l2a": gaps})
    maps = draw(holes, Brightness(), tmp_path / "map")
    gone = np.zeros((100, 100), bool); gone[10:20, 30:50] = True
    for name in ("classes", "set_size"):
        with rasterio.open(tmp_path / f"map/{name}.tif") as f: assert f.nodata == 255 and ((f.read(1) == 255) == gone).all() and f.dtypes[0] == "uint8"
    for name in ("probability", "uncertainty"): assert (np.isnan(maps[name].values) == gone).all()
    assert (np.isnan(maps["scores"].values).any(0) == gone).all()


def test_values_and_their_interval(scene, tmp_path):
    maps = draw(scene, Brightness(kind="regression", classes={}, quantile=.25), tmp_path / "map")
    np.testing.assert_allclose(maps["values"].values, scene.arrays["sentinel2_l2a"][:, :, 0, 7] / 1000, rtol=1e-5)
    assert set(maps) == {"values", "half_width"} and (maps["half_width"] == .25).all()
    assert set(draw(scene, Brightness(kind="regression", classes={}, quantile=None), tmp_path / "bare")) == {"values"}


def test_other_programs_read_it(scene, tmp_path):
    draw(scene, Brightness(), tmp_path / "map")
    with rasterio.open(tmp_path / "map/classes.tif") as f:
        assert f.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and f.colormap(1)[7][3] == 255 and f.colormap(1)[255][3] == 0
        assert len({f.colormap(1)[k][:3] for k in NAMES}) == 3 and json.loads(f.tags()["classes"]) == {str(k): v for k, v in NAMES.items()}
    rasterio.shutil.copy(tmp_path / "map/classes.tif", tmp_path / "look.vrt", driver="VRT")
    assert "<Category>bright &amp; &lt;wide&gt;</Category>" in (tmp_path / "look.vrt").read_text()
    with rasterio.open(tmp_path / "map/scores.tif") as f:
        assert f.count == 3 and f.descriptions == tuple(NAMES.values()) and np.isnan(f.nodata)
        np.testing.assert_allclose(f.read().sum(0), 1, atol=1e-5)
    pystac = pytest.importorskip("pystac")
    item = pystac.Item.from_file(str(tmp_path / "map/item.json"))
    assert set(item.assets) == {"classes", "probability", "uncertainty", "set_size", "scores"} and item.datetime.date().isoformat() == str(scene.times[0])
    lon, lat = scene.lonlat()
    assert item.bbox[0] < lon < item.bbox[2] and item.bbox[1] < lat < item.bbox[3]
    from olmoearth.labels import read_labels
    assert set(read_labels(tmp_path / "map/classes.tif", scene).classes.values()) <= set(NAMES.values())


def test_large_maps_have_overviews_of_classes_not_of_their_means(tmp_path):
    class Checks(Brightness):
        def predict(self, samples):
            v = np.stack([s.arrays["srtm"][:, :, 0, 0] for s in samples]) % 2
            return np.stack([5 - 9 * v, 0 * v, 9 * v - 5], -1)
    from olmoearth.samples import Sample
    rows, cols = np.indices((600, 700))
    wide = Sample({"srtm": ((rows // 37 + cols // 37) % 2).astype(np.float32)[:, :, None, None]}, np.array(["2021-06-01"]), crs="EPSG:32632", transform=(10, 0, 5e5, 0, -10, 5.6e6))
    draw(wide, Checks(modalities=("srtm",)), tmp_path / "map")
    with rasterio.open(tmp_path / "map/classes.tif", overview_level=0) as f: assert set(np.unique(f.read(1))) == {3, 40} and f.shape == (300, 350)


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_predictions import Brightness, draw
class Slow(Brightness):
    def predict(self, samples): time.sleep(float(sys.argv[4])); return super().predict(samples)
draw(sys.argv[2], Slow(), sys.argv[3], block=32)
"""


def test_a_killed_run_goes_on_and_gives_the_same_files(scene, tmp_path):
    store = write_store(scene, tmp_path / "scene.zarr", side=64)
    draw(store, Brightness(), tmp_path / "map", block=32)
    here = os.path.dirname(__file__)
    (tmp_path / "cut").mkdir()
    out = tmp_path / "cut/map"
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, here, store, out, "0.15"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    done, until = tmp_path / "cut/map.part/scores.zarr.part/done", time.time() + 120
    while not (done.is_dir() and len(list(done.iterdir())) >= 3):
        assert time.time() < until and run.poll() is None
        time.sleep(.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    n = len(list(done.iterdir()))
    assert 3 <= n < 25 and not out.exists()
    with pytest.raises(InputError, match="is not finished; run the same call again"): open_prediction(out)
    left = Brightness()
    draw(store, left, out, block=32)
    assert left.calls == 25 - n and contents(out) == contents(tmp_path / "map")
    assert [f.name for f in (tmp_path / "cut").iterdir()] == ["map"]                                  # nothing is left lying about


@pytest.mark.parametrize("where", ["_names", "stac_item", "_describe"])
def test_a_crash_while_maps_are_written_keeps_the_scores(scene, where, tmp_path, monkeypatch):
    predictor = Brightness()
    with monkeypatch.context() as m:
        def full(*_, **__): raise OSError(28, "No space left on device")
        m.setattr(predictions, where, full)
        with pytest.raises(InputError, match="No space left on device.*the scores are kept"): draw(scene, predictor, tmp_path / "map")
    assert not (tmp_path / "map").exists()
    calls = predictor.calls
    draw(scene, predictor, tmp_path / "map")
    assert predictor.calls == calls and contents(tmp_path / "map") == contents_of_fresh(scene, tmp_path)


def contents_of_fresh(scene, tmp_path):
    (tmp_path / "fresh").mkdir()
    draw(scene, Brightness(), tmp_path / "fresh/map")
    return contents(tmp_path / "fresh/map")


def test_a_full_disk_is_said(scene, tmp_path):
    "A limit on the size of files, as a disk that is full would be."
    code = ("import resource, sys; sys.path.insert(0, sys.argv[1]); from test_predictions import *\n"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
            "try: draw(sys.argv[2], Brightness(), sys.argv[3])\n"
            "except InputError as err: print(err)\n")
    store = write_store(scene, tmp_path / "scene.zarr")
    run = subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__), store, tmp_path / "map"], capture_output=True, text=True)
    assert "cannot be written" in run.stdout and "make room or choose another place" in run.stdout, run.stderr[-2000:]
    assert not (tmp_path / "map").exists()


def test_the_same_call_again_and_another_one(scene, tmp_path):
    first, again = Brightness(), Brightness()
    a = draw(scene, first, tmp_path / "map")
    assert draw(scene, again, tmp_path / "map").equals(a) and again.calls == 0
    for change in ({"temperature": 1.}, {"quantile": .5}, {"classes": NAMES | {3: "other"}}):
        with pytest.raises(InputError, match="exists and was made in another way"): draw(scene, Brightness(**change), tmp_path / "map")
    with pytest.raises(InputError, match="exists and was made in another way"): draw(scene.crop(0, 0, 64), Brightness(), tmp_path / "map")
    (tmp_path / "mine").mkdir(); (tmp_path / "mine/notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists and was made in another way"): draw(scene, Brightness(), tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    assert draw(scene, Brightness(), tmp_path / "empty").equals(a)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists and was made"): draw(scene, Brightness(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"): draw(scene, Brightness(), tmp_path / "file/map")


def test_a_client_shares_the_blocks(scene, tmp_path):
    distributed = pytest.importorskip("distributed", reason="comes with the extra dask")
    draw(scene, Brightness(), tmp_path / "alone", block=48)
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        draw(scene, Brightness(), tmp_path / "shared", block=48, client=client)
    a, b = contents(tmp_path / "alone"), contents(tmp_path / "shared")
    assert {k: v for k, v in a.items() if k != "item.json"} == {k: v for k, v in b.items() if k != "item.json"}


@pytest.mark.parametrize("change, text", [
    ({"kind": "multilabel"}, "draws no map"), ({"classes": {0: "a"}}, "a predictor needs two"),
    ({"classes": {0: "a", 255: "b"}}, "number them again"), ({"classes": None}, "does not say its classes"),
    ({"modalities": ("sentinel1",)}, "the scene has sentinel2_l2a, srtm, the predictor reads sentinel1"), ({"window": 30}, "window=30 is no multiple of patch_size=4; use 28"),
    ({"window": 2}, "use 4"), ({"classes": {0: "a", 1: "b"}}, r"gave scores \(16, 32, 32, 3\), where \(16, 32, 32, 2\) were due")])
def test_predictors_that_cannot_draw_are_refused(scene, change, text, tmp_path):
    with pytest.raises(InputError, match=text): draw(scene, Brightness(**change), tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_calls_that_cannot_be_are_refused(scene, tmp_path):
    with pytest.raises(InputError, match="a folder of several maps"): draw(scene, Brightness(), tmp_path / "map.tif")
    with pytest.raises(InputError, match="from 0 to 16"): draw(scene, Brightness(), tmp_path / "map", overlap=20)
    with pytest.raises(InputError, match="smaller than one patch"): draw(scene.crop(0, 0, 3, 50), Brightness(), tmp_path / "map")
    with pytest.raises(InputError, match="is no prediction"): open_prediction(tmp_path / "none")
    with pytest.raises(InputError, match="a scene is a Sample"): draw(np.zeros((3, 3)), Brightness(), tmp_path / "map")
    bright = replace(scene, arrays=scene.arrays | {"sentinel2_l2a": scene.arrays["sentinel2_l2a"] / 1e4})
    with pytest.raises(InputError, match="sentinel2_l2a"): predict_scene(bright, Brightness(), tmp_path / "map", progress=False)      # the input check is asked


# --------------------------------------------------------------------- the probe

@pytest.fixture(scope="module")
def model(): return OlmoEarth(Config.of("nano", "v1.2", depth=2), seed=0)


@pytest.fixture(scope="module")
def place():
    scene = World(seed=4, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 128, months=1).select(["sentinel2_l2a", "sentinel1"])
    return scene, World(seed=4, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 128, months=1).labels["land_cover"]


def two_classes(truth, **more):
    return Label(np.where(truth.values == 40, 4, 9), {4: "crops", 9: "other"} | more, ())


def test_a_probe_learns_saves_and_comes_back(place, model, tmp_path):
    scene, truth = place
    probe = ProbePredictor.fit(model, scene, two_classes(truth), check="off")
    assert probe.facts.classes == {4: "crops", 9: "other"} and probe.facts.modalities == ("sentinel2_l2a", "sentinel1") and 0 < probe.facts.quantile <= 1
    scores = probe.predict([scene.crop(0, 0, 32), scene.crop(32, 64, 32)])
    assert scores.shape == (2, 32, 32, 2) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores[:, ::4, ::4], scores[:, 3::4, 3::4])
    again = ProbePredictor.load(probe.save(tmp_path / "probe"), "cpu")
    np.testing.assert_array_equal(again.predict([scene.crop(0, 0, 32)]), scores[:1])
    assert again.facts == probe.facts and predictor_digest(again) == predictor_digest(probe) and not (tmp_path / "probe.part").exists()
    other = replace(probe, bias=probe.bias + 1)
    assert predictor_digest(other) != predictor_digest(probe)
    maps = draw(scene, again, tmp_path / "map")
    with rasterio.open(tmp_path / "map/classes.tif") as f: assert (f.read(1) == two_classes(truth).values).mean() > .8
    assert maps.attrs["temperature"] == probe.facts.temperature
    (tmp_path / "probe/probe.npz").unlink()
    with pytest.raises(InputError, match="holds no probe"): ProbePredictor.load(tmp_path / "probe")


def test_a_probe_agrees_with_scikit_learn(place, model):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from olmoearth.labels import label_cells
    from olmoearth.scenes import embed_scene
    scene, truth = place
    label = two_classes(truth)
    x, y = embed_scene(scene, model, precision="float32", check="off").values, label_cells(label, 4)
    keep = y >= 0
    truth_p = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=500, tol=1e-3)).fit(x[keep], y[keep]).predict_proba(x[:8, :8].reshape(-1, 128))
    scores = ProbePredictor.fit(model, scene, label, check="off").predict([scene.crop(0, 0, 32)])[0, ::4, ::4].reshape(-1, 2).astype(float)
    np.testing.assert_allclose(1 / (1 + np.exp(scores[:, 0] - scores[:, 1])), truth_p[:, 1], atol=.02)


def test_few_labels_are_answered(place, model):
    scene, truth = place
    values = np.full((128, 128), -1)
    values[:20, :20], values[40, 40] = 4, 9
    label = Label(values, {4: "crops", 9: "forest"}, (-1,))
    with pytest.raises(InputError, match="one labelled cell of forest; label more places"): ProbePredictor.fit(model, scene, label, check="off")
    with pytest.raises(InputError, match="all labelled cells are crops"): ProbePredictor.fit(model, scene, replace(label, values=np.minimum(values, 4)), check="off")
    with pytest.raises(InputError, match="no labelled cell with data"): ProbePredictor.fit(model, scene, replace(label, values=0 * values - 1), check="off")
    with pytest.raises(InputError, match="read them for this scene"): ProbePredictor.fit(model, scene, replace(label, values=values[:64]), check="off")
    values[60:64, 60:70] = 9
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        probe = ProbePredictor.fit(model, scene, Label(values, {4: "crops", 9: "forest"}, (-1,)), check="off")
    assert probe.facts.quantile is None and probe.facts.temperature == 1 and any("labels in 3 blocks" in str(w.message) for w in told)
    points = np.full((128, 128), -1)
    for i, (r, c) in enumerate(rng(0, "points").integers(0, 128, (60, 2))): points[r, c] = (4, 9)[i % 2]
    assert set(ProbePredictor.fit(model, scene, Label(points, {4: "a", 9: "b"}, (-1,)), check="off").facts.classes) == {4, 9}        # single pixels are labels


def test_a_class_in_one_block_alone_is_no_trouble(place, model):
    scene, truth = place
    values = two_classes(truth).values.copy()
    values[:16, :16] = 11
    probe = ProbePredictor.fit(model, scene, Label(values, {4: "a", 9: "b", 11: "rare"}, ()), check="off")
    assert np.isfinite(probe.weights).all() and .05 < probe.facts.temperature < 20 and list(probe.facts.classes) == [4, 9, 11]


# --------------------------------------------------------------------- areas

def test_areas_are_unbiased_and_their_intervals_hold():
    truth = rng(0, "areas").choice(3, 40_000, p=[.7, .25, .05])
    said = np.where(rng(1, "areas").random(40_000) < .2, rng(2, "areas").integers(0, 3, 40_000), truth)
    mapped, real, inside, found = np.bincount(said), np.bincount(truth), [], []
    for seed in range(300):
        counts = np.zeros((3, 3))
        for c in range(3):
            np.add.at(counts[c], truth[rng(seed, "sample", c).choice(np.flatnonzero(said == c), 100, replace=False)], 1)
        a = estimate_areas(counts, mapped, ("a", "b", "c"))
        found.append(a.area); inside.append(np.abs(a.area - real) <= a.half_width)
        assert a.area.sum() == pytest.approx(40_000) and a.accuracy == pytest.approx((truth == said).mean(), abs=.1)
    np.testing.assert_allclose(np.mean(found, 0), real, rtol=.04)
    assert (np.mean(inside, 0) > .9).all() and abs(mapped[2] - real[2]) > 1000                        # the map itself is far off
