"Predictions looked at: scores as others count them, boxes as the whole scene has them, tiles that move, files that come back, and what is refused."
import json
import warnings

import numpy as np
import pytest
import rasterio

from olmoearth.boxes import Cancelled, _moved, _write, blank, box_scores, export, fill_box, instability, tile_shifts
from olmoearth.maps import classes_rgb
from olmoearth.prediction_core import OUTCOMES, File, MapLayer, Prediction, Sheet, cells_of, common, confusion, ends_of, open_maps, paint, scores_in, thin, truth_of
from olmoearth.prediction_map import PredictionMap
from olmoearth.predictions import NOTHING, predict_scene
from olmoearth.predictors import Facts
from olmoearth.samples import InputError, Label
from olmoearth.settings import rng
from olmoearth.sources import open_scene
from olmoearth.synthetic import World
from olmoearth.windows import Side

NAMES = {3: "dark", 7: "middle", 40: "bright"}
PLACE = ("EPSG:32632", (10., 0., 300000., 0., -10., 5400000.))


class Brightness:
    "Says of each pixel how bright it is; knows nothing of tiles."
    digest = "brightness-1"

    def __init__(self, **more):
        self.facts = {"kind": "segmentation", "classes": NAMES, "patch_size": 4, "window": 32, "quantile": .8, "modalities": ("sentinel2_l2a",)} | more
        self.calls = []

    def predict(self, samples):
        self.calls.append(len(samples))
        v = np.stack([s.arrays["sentinel2_l2a"][:, :, 0, 7] for s in samples]).astype(np.float32) / 1000       # (n, H, W)
        gaps = np.stack([s.mask("sentinel2_l2a")[:, :, 0, 7] for s in samples])
        if self.facts["kind"] == "regression": return np.where(gaps, np.nan, v)[..., None]
        return np.where(gaps[..., None], np.nan, np.stack([2 - v, 0 * v + .5, v - 2], -1))


class Halves(Brightness):
    "Says of each pixel in which half of its tile it stands: nothing but tiling."
    def predict(self, samples):
        h, w = samples[0].shape
        upper = np.broadcast_to((np.arange(h) < h / 2)[None, :, None], (len(samples), h, w)).astype(np.float32)
        return np.stack([upper, 0 * upper, 1 - upper], -1)


@pytest.fixture(scope="module")
def scene():
    return World(seed=5, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 100, months=1, modalities=["sentinel2_l2a", "srtm"])


def random_maps(seed, shape=(40, 50), holes=.1, unknown=False):
    "A prediction in memory and labels to compare with."
    draw = rng(seed, "maps")
    said = draw.choice([*NAMES, NOTHING], shape, p=[.9 / 3] * 3 + [.1]).astype(np.uint8)
    codes = {0: "dark", 1: "middle", 2: "bright"} | ({5: "lava"} if unknown else {})
    there = np.where(draw.random(shape) < holes, -1, draw.choice(list(codes), shape))
    p = Prediction(Facts("segmentation", NAMES), {"classes": Sheet(said), "probability": Sheet(draw.random(shape).astype(np.float32))}, shape, *PLACE)
    return p, truth_of(Label(there, codes, (-1,)), p.facts, shape), said


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unknown", [False, True])
def test_scores_are_those_of_sklearn_in_any_window(seed, unknown):
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
    p, truth, said = random_maps(seed, unknown=unknown)
    for window in (None, (0, 0, 7, 9), (33, -4, 50, 20), (39, 49, 1, 1)):
        found = scores_in(p, truth, window)
        r, c, h, w = p.fit(window)
        y, z = truth.values[r:r + h, c:c + w].ravel(), said[r:r + h, c:c + w].ravel()
        both = (y >= 0) & (z != NOTHING)
        assert found.unseen == ((y >= 0) & (z == NOTHING)).sum() and found.n == both.sum()
        if not both.any(): assert np.isnan(found.accuracy) and found.rows() == []; continue
        codes = list(truth.classes)
        np.testing.assert_array_equal(found.counts, confusion_matrix(y[both], z[both], labels=codes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            precision, recall, f1, support = precision_recall_fscore_support(y[both], z[both], labels=codes, zero_division=np.nan)
        for mine, theirs in ((found.precision, precision), (found.recall, recall), (found.support, support)): np.testing.assert_allclose(mine, theirs)
        np.testing.assert_allclose(np.nan_to_num(found.f1), np.nan_to_num(f1))


def test_a_coarse_count_takes_one_pixel_for_each_cell_of_both():
    p, truth, said = random_maps(0, (300, 200))
    found = scores_in(p, truth, size=60)
    assert found.step == 5 and found.n < 60 * 40
    assert abs(found.accuracy - scores_in(p, truth).accuracy) < .08
    same = Prediction(p.facts, {"classes": Sheet(np.where(truth.values < 0, NOTHING, truth.values).astype(np.uint8))}, p.shape, *PLACE)
    assert scores_in(same, truth, size=60).accuracy == 1, "map and labels are read at the same pixels"


@pytest.mark.parametrize("one", [None, 3, 40])
def test_confusion_is_painted_as_it_is_counted(one):
    p, truth, said = random_maps(1, unknown=True)
    panel = confusion(said, truth.values, truth.classes, one)
    both, y = (truth.values >= 0) & (said != NOTHING), truth.values
    colours = np.array([["#" + bytes(c[:3]).hex() for c in row] for row in panel.image])
    assert ((panel.image[..., 3] > 0) == both).all()
    if one is None:
        assert ((colours == "#d9d9d9") == (both & (y == said))).all()
        for (a, b), colour in zip(common(said, y), list(panel.legend.values())[1:], strict=False): assert ((colours == colour) == (both & (y == a) & (said == b))).all()
    else:
        for name, here in {"found": (y == one) & (said == one), "missed": (y == one) & (said != one), "false alarm": (y != one) & (said == one)}.items():
            assert ((colours == OUTCOMES[name]) == (here & both)).all()


def test_labels_meet_a_model_by_name_and_else_by_number():
    facts = Facts("segmentation", {1: "Water", 2: "forest", 30: "30"})
    label = Label(np.array([[7, 8, 9, 4]]), {7: " water ", 8: "FOREST", 9: "30", 4: "town"}, ())
    truth = truth_of(label, facts, (1, 4))
    assert truth.values.tolist() == [[1, 2, 30, 256]] and "does not know town: 1 labelled px" in truth.note
    assert truth_of(Label(np.array([[2, 1]]), {1: "forest", 2: "water"}), facts, (1, 2)).values.tolist() == [[1, 2]], "a name goes before a number"
    for wrong, text in ((Label(np.zeros((2, 2), int), {0: "town"}), "knows none of town"), (Label(np.zeros((3, 2), int), {0: "water"}), "labels of 3 x 2 px"),
                        (Label(np.full((2, 2), -1), {0: "water"}, (-1,)), "no pixel of the scene is labelled"), (Label(np.ones((2, 2)), {}), "are a quantity")):
        with pytest.raises(InputError, match=text): truth_of(wrong, facts, (2, 2))


def test_values_are_judged_by_hand():
    facts = Facts("regression", {}, quantile=1.)
    said, there = np.array([[1, 2, 3, np.nan]], np.float32), np.array([[1, 1, 5, 7]], float)
    p = Prediction(facts, {"values": Sheet(said), "half_width": Sheet(np.ones((1, 4), np.float32))}, (1, 4), *PLACE)
    s = scores_in(p, truth_of(Label(there, {}), facts, (1, 4)))
    assert (s.n, s.unseen, s.mae, s.covered) == (3, 1, 1., 2 / 3) and s.bias == pytest.approx(-1 / 3) and s.r2 == pytest.approx(1 - 5 / (2 * (4 / 3) ** 2 + (8 / 3) ** 2))
    layer = MapLayer(p, "error", truth_of(Label(there, {}), facts, (1, 4)))
    assert layer.draw().image[0, :, 3].tolist() == [255, 255, 255, 0] and layer.read(0, 2) == "-2" and layer.read(0, 3) == "nothing"


def test_a_scale_keeps_its_ends():
    values = np.array([[0, .5, 1.]])
    assert ends_of(values / 10, "probability") == (0, 1) and (paint(values, "probability").image[0, 0] != paint(values / 10, "probability").image[0, 2]).any()
    low, high = ends_of(np.array([[-3., 1.]]), "error")
    assert low == -high and ends_of(np.array([[NOTHING]], np.uint8), "set_size") == (1, 2)


@pytest.mark.parametrize("shape, overlap", [((100, 100), None), ((100, 100), 16), ((33, 70), 0), ((30, 29), None), ((4, 4), None)])
def test_a_box_is_what_the_whole_scene_has_there(scene, shape, overlap, tmp_path):
    part = scene.crop(0, 0, *shape)
    whole = predict_scene(part, Halves(), tmp_path / "map", overlap=overlap, check="off", progress=False)
    sheet, draw = blank(open_scene(part), Facts.of(Halves().facts)), rng(0, "boxes", *shape)
    for _ in range(3):
        row, col = (int(draw.integers(0, n)) for n in shape)
        box = row, col, int(draw.integers(1, shape[0] - row + 1)), int(draw.integers(1, shape[1] - col + 1))
        fill_box(sheet, box, box_scores(open_scene(part), Halves(), box, overlap=overlap))
        np.testing.assert_array_equal(sheet.read("classes", box), whole["classes"].values[row:row + box[2], col:col + box[3]])
        np.testing.assert_allclose(sheet.read("probability", box), whole["probability"].values[row:row + box[2], col:col + box[3]], atol=1e-5)


@pytest.mark.parametrize("length, window, overlap", [(100, 32, 8), (33, 32, 0), (64, 32, 16), (32, 32, 8), (20, 20, 4), (101, 8, 2)])
def test_moved_tiles_cover_everything_once(length, window, overlap):
    side = Side.of(length, window, overlap)
    for shift in range(0, 40):
        there = _moved(side, shift)
        np.testing.assert_allclose(there.cells.sum(0), 1, atol=1e-6)
        assert min(there.starts) == 0 and max(there.starts) == length - there.window and there.window == side.window


def test_instability_sees_tiling_and_nothing_else(scene):
    source = open_scene(scene)
    share, most = instability(source, Brightness(), (10, 20, 60, 50), 5)
    assert share.shape == most.shape == (60, 50) and share.max() == 0
    share, _ = instability(source, Halves(), (0, 0, 100, 100), 2, overlap=0)            # tiles half a tile apart
    middle = share[32:64, :]
    assert (middle == .5).mean() > .8, "two tilings that say the opposite"
    spread, mean = instability(source, Brightness(kind="regression", classes={}), (0, 0, 40, 40))
    np.testing.assert_allclose(spread, 0, atol=1e-6)
    shifts = tile_shifts(Facts.of(Halves().facts), 4)
    assert shifts[0] == (0, 0) and len({r % 4 for r, _ in shifts}) == len({c % 4 for _, c in shifts}) == 4 and len({r for r, _ in shifts}) == 4
    with pytest.raises(InputError, match="phases=2 or more"): instability(source, Halves(), (0, 0, 9, 9), 1)


def test_what_was_not_seen_stays_white(scene):
    gaps = np.zeros(scene.arrays["sentinel2_l2a"].shape, bool)
    gaps[:40] = True
    scene = scene.__class__(**{**scene.__dict__, "missing": {"sentinel2_l2a": gaps}})
    sheet = blank(open_scene(scene), Facts.of(Brightness().facts))
    fill_box(sheet, (30, 0, 20, 20), box_scores(open_scene(scene), Brightness(), (30, 0, 20, 20)))
    assert (sheet.read("classes")[30:40, :20] == NOTHING).all() and (sheet.read("classes")[40:50, :20] != NOTHING).all()
    assert MapLayer(sheet, "classes").read(0, 0) == "nothing"


def test_a_white_sheet_of_a_large_scene_weighs_nothing(scene):
    import psutil
    me, before = psutil.Process(), psutil.Process().memory_info().rss
    source = open_scene(scene)
    sheet = blank(source.__class__(**{**source.__dict__, "shape": (30_000, 30_000)}), Facts.of(Brightness().facts))
    fill_box(sheet, (20_000, 20_000, 50, 50), np.zeros((50, 50, 3), np.float32))
    assert (sheet.read("classes", (19_990, 19_990, 20, 20)) != NOTHING).sum() == 100
    assert me.memory_info().rss - before < 100e6


def test_cancelled_work_leaves_no_trace(scene):
    asked = iter([False, True])
    with pytest.raises(Cancelled, match="after 2 of"): box_scores(open_scene(scene), Brightness(), (0, 0, 64, 64), batch_size=2, cancelled=lambda: next(asked))


def test_exported_files_come_back(scene, tmp_path):
    p, _, said = random_maps(2, (60, 70))
    files = export(p, tmp_path / "out", None, (5, 6, 30, 40))
    assert [f.name for f in files] == ["classes.tif", "probability.tif", "classes.geojson"]
    with rasterio.open(files[0]) as f:
        np.testing.assert_array_equal(f.read(1), said[5:35, 6:46])
        assert f.crs.to_epsg() == 32632 and f.transform.c == 300060 and f.nodata == NOTHING and f.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    shapes = json.loads(files[2].read_text())["features"]
    by = {n: sum(s["properties"]["area"] for s in shapes if s["properties"]["class"] == n) for n in NAMES.values()}
    assert by == {n: 100. * (said[5:35, 6:46] == k).sum() for k, n in NAMES.items()} and not list((tmp_path / "out").glob("*draft*"))
    lon, lat = shapes[0]["geometry"]["coordinates"][0][0]
    assert 6 < lon < 12 and 48 < lat < 49
    with pytest.raises(InputError, match="choose another folder"): export(p, tmp_path / "out")
    with pytest.raises(InputError, match="has no place"): export(Prediction(p.facts, p.maps, p.shape, None, None), tmp_path / "x")


def test_a_picture_goes_through_overviews_and_a_score_does_not(tmp_path):
    at, said = rng(0, "one of four").integers(0, 4, (512, 512)), np.full((512, 2, 512, 2), 7, np.uint8)
    for k in range(4): said[:, k // 2, :, k % 2][at == k] = 3                                        # a quarter is dark: one pixel in each 2 x 2
    said = said.reshape(1024, 1024)
    p = Prediction(Facts("segmentation", NAMES), {"classes": Sheet(said)}, said.shape, *PLACE)
    with pytest.raises(InputError, match="draw a smaller box"): export(p, tmp_path / "out", ["classes"])
    f, part = File(file := tmp_path / "classes.tif"), (0, 0, 1024, 1024)
    _write(p, "classes", part, file)
    assert (f.read(part, (128, 128)) == 3).mean() < .05, "overviews hold the commonest class"
    np.testing.assert_array_equal(f.read(part, (128, 128), exact=True), Sheet(said).read(part, (128, 128)))
    assert .1 < (f.read(part, (128, 128), exact=True) == 3).mean() < .3
    layer = MapLayer(Prediction(p.facts, {"classes": f}, p.shape, *PLACE), "classes")
    assert layer.draw(size=128).image.shape == (128, 128, 4) and layer.draw((0, 0, 9, 9)).image.shape == (9, 9, 4)
    assert cells_of((0, 0, 1000, 10), 100) == (100, 1) and thin(truth_of(Label(said.astype(int), NAMES), p.facts, said.shape), part, (4, 4)).shape == (4, 4)


def test_what_is_no_prediction_is_said(tmp_path):
    for thing in (3, tmp_path, np.zeros(3)):
        with pytest.raises(InputError, match="prediction"): open_maps(thing)
    p, truth, _ = random_maps(0)
    with pytest.raises(InputError, match="choose a window inside it"): scores_in(p, truth, (90, 0, 5, 5))
    with pytest.raises(InputError, match="give labels"): MapLayer(p, "confusion")
    with pytest.raises(InputError, match="it has classes, probability"): MapLayer(p, "values")


# the widget, without a browser

def widget(scene, predictor, labels=None, **options): return PredictionMap(scene, predictor, labels, check="off", **options)


def test_a_box_is_predicted_in_a_thread_and_shown(scene):
    m = widget(scene, Brightness())
    m.canvas.on_box(lambda *box: None)
    m._boxed(10, 20, 30, 40)
    assert m.current.wait(60) and (m.prediction.read("classes") != NOTHING).sum() == 30 * 40
    np.testing.assert_array_equal(m.canvas.shown["map"].layer.draw().image, classes_rgb(m.prediction.read("classes"), NAMES).image)


def test_memory_that_runs_out_halves_the_batch_and_is_said(scene):
    class Full(Brightness):
        def predict(self, samples):
            if len(samples) > 3: raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().predict(samples)
    m, full = None, Full()
    m = widget(scene, full, batch_size=16)
    m.predict().wait(60)
    assert max(full.calls) == 2 and m.canvas.level == "warning" and "batches of 2" in m.canvas.message
    assert (m.prediction.read("classes") != NOTHING).all()
    class Never(Brightness):
        def predict(self, samples): raise MemoryError
    m = widget(scene, Never())
    m.predict().wait(60)
    assert m.canvas.level == "error" and "too small even for one window" in m.canvas.message
    m.predictor = Brightness(); m.predict((0, 0, 9, 9)).wait(60)
    assert m.canvas.level == "info", "the widget goes on"


def test_a_predictor_that_raises_is_said_and_cancelled_work_is_dropped(scene):
    class Wrong(Brightness):
        def predict(self, samples): return np.zeros((1, 2, 3))
    m = widget(scene, Wrong())
    m.predict().wait(60)
    assert "where" in m.canvas.message and m.canvas.level == "error"
    import threading
    go, there = threading.Event(), threading.Event()
    class Slow(Brightness):
        def predict(self, samples): there.set(); go.wait(20); return super().predict(samples)
    m = widget(scene, Slow(), batch_size=1)
    job = m.predict()
    there.wait(20); m.cancel(); go.set()
    assert job.wait(60) and m.canvas.message == "stopped" and (m.prediction.read("classes") == NOTHING).all()


@pytest.mark.parametrize("labels, text", [(Label(np.zeros((5, 5), int), {0: "dark"}), "labels of 5 x 5 px"), (Label(np.zeros((100, 100), int), {0: "lava"}), "knows none of lava"),
                                          ("nothing.geojson", "give the path of a file that exists"), ("clouds", "it has land_cover"), (3, "")])
def test_labels_that_do_not_fit_are_said_and_the_map_is_there(scene, labels, text):
    m = widget(scene, Brightness(), labels)
    assert m.canvas.level == "error" and text in m.canvas.message and m.truth is None and "map" in m.canvas.shown
    m.predict((0, 0, 20, 20)).wait(60)
    assert (m.prediction.read("classes") != NOTHING).sum() == 400
    m.guard(m.show)("confusion")
    assert "give labels to compare with" in m.canvas.message


def test_labels_outside_the_scene_are_said(scene, tmp_path):
    (tmp_path / "far.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"class": "dark"}, "geometry": {"type": "Point", "coordinates": [100., 10.]}}]}))
    m = widget(scene, Brightness(), str(tmp_path / "far.geojson"))
    assert "the labels lie outside the scene" in m.canvas.message and m.canvas.level == "error"


def test_a_scene_without_a_place_is_said_and_its_box_still_predicted(scene):
    bare = scene.__class__(**{**scene.__dict__, "crs": None, "transform": None})
    m = widget(bare, Brightness())
    assert m.canvas.message
    m.predict((0, 0, 20, 20)).wait(60)
    assert (m.prediction.read("classes") != NOTHING).sum() == 400
    m.guard(m.export)()
    assert "has no place" in m.canvas.message


def test_state_is_plain_and_repeats_the_map(scene):
    m = widget(scene, Halves(), phases=3)
    m.predict((0, 0, 50, 50)).wait(60); m.tiling((0, 0, 40, 40)).wait(60)
    again = PredictionMap.from_state(scene, json.loads(json.dumps(m.state)), model=Halves(), check="off")
    again.current.wait(60)
    assert again.state == m.state and again.layer == "instability" and again.phases == 3
    for name in ("classes", "instability"): np.testing.assert_array_equal(again.prediction.read(name), m.prediction.read(name))
