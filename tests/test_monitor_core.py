"What is watched in a run: no point lost, gauges that agree with the detectors, a film that keeps to its memory and its colours, and a training that does not notice."
import json
import math

import numpy as np
import pytest
import torch
from test_trainer import make, same

from olmoearth.health import collapse, examine
from olmoearth.history import History
from olmoearth.live import train_live
from olmoearth.logs import JsonLines
from olmoearth.maps import fit_pca, pca_rgb
from olmoearth.monitor import Monitor, gauges_html
from olmoearth.monitor_core import Film, Frame, cka, curves_figure, curves_of, gauges_of, open_run
from olmoearth.samples import InputError
from olmoearth.settings import rng
from olmoearth.synthetic import World
from olmoearth.trainer import Callback, Checkpoint


@pytest.fixture(scope="module")
def scene():
    return World(seed=2, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 96, months=1, modalities=["sentinel2_l2a", "sentinel1"])


def rows(n, **columns): return [{"step": i + 1, **{k: float(v(i)) for k, v in columns.items()}} for i in range(n)]


@pytest.mark.parametrize("n", [1, 7, 299, 300, 301, 1234])
def test_a_thinned_curve_keeps_its_last_point_and_its_peak(n):
    at = int(rng(n, "peak").integers(n))
    history = History(rows(n, gradient=lambda i: 50 if i == at else 1, lr=lambda i: i + 1, share=lambda i: math.nan if i % 2 else 1))
    curves = curves_of(history, most=300)
    x, y = curves["gradient"]["gradient"]
    assert len(x) <= 300 and (np.diff(x) > 0).all() and x[y.argmax()] == at + 1 and y.max() == 50
    x, y = curves["learning rate"]["lr"]
    assert len(x) <= 300 and x[-1] == n and (y == x).all()
    x, y = curves["loss, % of chance"]["share"]
    assert np.isfinite(y).all() and (y == 100).all()


def test_a_history_without_rows_or_with_unknown_keys_draws():
    assert curves_of(History([])) == {} and curves_figure(History([])).axes
    assert curves_of(History(rows(3, strange=lambda i: i))) == {}
    assert len(curves_figure(History(rows(3, share=lambda i: 1., **{"probe/knn": lambda i: .5}))).axes) == 2


@pytest.mark.parametrize("key, gauge", [("rank", "rank"), ("norm", "norm"), ("deviation", "deviation"), ("cosine", "angle")])
def test_a_gauge_is_beyond_its_limit_exactly_where_the_detector_names_it(key, gauge):
    found = 0
    for seed in range(40):
        draw = rng(seed, "gauge", key)
        level = draw.random() ** 3
        history = rows(8, **{f"health/{key}": (lambda i, level=level: 1 - .5 * (1 if i < 3 else level) if key == "cosine" else 1 if i < 3 else level)})
        state = next(g for g in gauges_of(History(history)) if g.name == gauge)
        named = collapse(history)
        assert (state.state == "beyond") == (named is not None), f"level {level}"
        assert named is None or state.room == 0
        found += named is not None
    assert 0 < found < 40


def test_gauges_of_a_young_run_raise_no_false_alarm_and_of_an_old_one_do():
    young, old = (History(rows(n, share=lambda i: 1.)) for n in (10, 300))
    assert [next(g for g in gauges_of(h) if g.name == "loss").state for h in (young, old)] == ["near", "beyond"]
    assert [f.name for f in open_run(old).findings(old.rows)] == ["stagnation"] == [f.name for f in examine(old.rows)]
    page = gauges_html(gauges_of(old), examine(old.rows))
    assert "stagnation" in page and "<script" not in gauges_html([], [type("F", (), {"name": "<script>", "step": 1, "reason": "", "advice": ""})])


def test_cka_sees_through_rotation_and_scale_and_not_through_noise():
    draw = rng(0, "cka")
    x = draw.normal(size=(300, 16))
    q = np.linalg.qr(draw.normal(size=(16, 16)))[0]
    assert cka(x, 3 * x @ q + 5) == pytest.approx(1) and cka(x, draw.normal(size=(300, 16))) < .2 and math.isnan(cka(x, np.ones((300, 16))))


def film_of(scene, frames, **options):
    film = Film(scene, check="off", **options)
    film.frames = [Frame(i, v, math.nan) for i, v in enumerate(frames)]
    return film


def test_colours_follow_the_place_and_not_the_axes(scene):
    draw = rng(0, "film")
    v = draw.normal(size=(12, 12, 8)) * np.array([5, 4, 3, 1, 1, 1, 1, 1])
    turned = [v @ np.linalg.qr(rng(i, "turn").normal(size=(8, 8)))[0] for i in range(4)]
    first, *rest = film_of(scene, turned).panels()
    for other in rest: assert np.abs(first.image.astype(int) - other.image).max() <= 2, "a rotation of all vectors is not seen"
    alone = [pca_rgb(x).image.astype(int) for x in turned]
    assert max(np.abs(alone[0] - a).max() for a in alone[1:]) > 50, "without alignment it is"
    moved = v.copy()
    moved[:6, :6] = -moved[:6, :6]
    a, b = film_of(scene, [v, moved]).panels()
    change = np.abs(a.image[..., :3].astype(int) - b.image[..., :3]).mean(-1)
    assert change[:6, :6].mean() > 3 * change[6:].mean(), "what moved changes its colour"


def test_an_anchor_colours_all_frames(scene):
    x, y = rng(1, "anchor").normal(size=(2, 6, 6, 5))
    film = film_of(scene, [x, y])
    np.testing.assert_array_equal(film.panels(1)[0].image, pca_rgb(x, fit_pca(y)).image)
    with pytest.raises(InputError, match="there are 0, 1"): film.panels(9)


def test_frames_with_gaps_or_nothing_in_them(scene):
    x, y = rng(2, "gaps").normal(size=(2, 6, 6, 5))
    y[:3] = np.nan
    a, b, c = film_of(scene, [x, y, x]).panels()
    assert (b.image[:3, :, 3] == 0).all() and (b.image[3:, :, 3] == 255).all() and (c.image[..., 3] == 255).all()
    assert len(film_of(scene, [np.full((6, 6, 5), np.nan)]).panels()) == 0
    constant = film_of(scene, [np.ones((6, 6, 5)), x]).panels()
    assert len(constant) == 2


def test_a_film_keeps_to_its_memory_and_covers_the_run(scene):
    spot, run = scene.crop(0, 0, 16), make()
    film = Film(spot, every=1, most=5, check="off")
    for step in range(60):
        if step % film.every == 0: film.shoot(run.model, step)
    steps = [f.step for f in film.frames]
    assert 3 <= len(steps) <= 5 and steps[0] == 0 and len(set(np.diff(steps))) == 1 and steps[-1] >= 60 - 2 * film.every
    small = Film(spot, every=1, most=50, megabytes=3.5 * film.frames[0].vectors.nbytes / 1e6, check="off")
    for step in range(9):
        if step % small.every == 0: small.shoot(run.model, step)
    assert small.bytes <= small.megabytes * 1e6


def test_a_filmed_training_is_the_same_to_the_bit(scene):
    plain, film = make(), Film(scene, every=2, check="off")
    plain.fit()
    filmed = make([film])
    filmed.fit()
    assert same(plain, filmed) and [f.step for f in film.frames] == [0, 2, 4, 6, 7] and not film.error


def test_a_film_that_fails_does_not_end_the_run(scene):
    film = Film(scene, every=2, check="off")
    film.shoot = lambda model, step: 1 / 0
    run = make([film])
    run.fit()
    assert run.step == 7 and "ZeroDivisionError" in film.error and not film.frames
    with pytest.raises(InputError, match="give a step or more"): Film(scene, every=0)


def test_runs_are_found_where_they_are(tmp_path):
    run = make([Checkpoint(tmp_path / "a/run.pt", 3)])
    run.fit()
    assert open_run(tmp_path / "a").history.column("loss") == run.history.column("loss") == open_run(run).history.column("loss")
    log = JsonLines(tmp_path / "b/run.jsonl")
    for r in run.history.rows[:4]: log.log({k: v for k, v in r.items() if k != "step" and v == v}, r["step"])
    assert len(open_run(tmp_path / "b").history) == 4
    (tmp_path / "b/other.csv").write_text("not,a\nlog,\n")
    assert len(open_run(tmp_path / "b").history) == 4, "what holds no rows is passed over"
    (tmp_path / "c").mkdir(); (tmp_path / "c/x.pt").write_bytes(b"none")
    with pytest.raises(InputError, match="record them"): open_run(tmp_path / "c")
    with pytest.raises(InputError, match="is no checkpoint"): len(open_run(tmp_path / "c/x.pt").history)
    for wrong in (tmp_path / "nothing", 3, None):
        with pytest.raises(InputError): open_run(wrong)


# the widget, without a browser

class Gate(Callback):
    "Stands in a step until it may go on."
    def __init__(self, at):
        import threading
        self.at, self.here, self.go = at, threading.Event(), threading.Event()
    def on_step(self, trainer):
        if trainer.step == self.at: self.here.set(); assert self.go.wait(30)


def test_a_monitor_that_joins_a_run_under_way_leaves_it_as_it_is(scene):
    plain = make()
    plain.fit()
    gate = Gate(2)
    run = train_live(make([gate]))
    gate.here.wait(20)
    run.pause(wait=False); gate.go.set(); run.pause()
    m = Monitor(run, scene=scene, every=2, check="off")
    assert run.state == "paused", "a pause stays a pause" and m.film.frames[0].step == 2
    m.resume()
    run.wait()
    assert same(run.trainer, plain) and [f.step for f in m.film.frames] == [2, 4, 6, 7]
    assert len(run.trainer.callbacks) == 1


def test_buttons_act_on_the_run(scene):
    gate = Gate(3)
    m = Monitor(make([gate]), scene=scene, every=3, start=False, check="off")
    with pytest.raises(InputError): m.show(5) if m.film.panels() else open_run(3)
    m.resume(); gate.here.wait(20); m.stop(); gate.go.set()
    m.live.wait()
    assert m.live.state == "stopped" and m.live.trainer.stopped == "stopped by hand" and m.live.step == 4, "a step that runs is finished, and the next hears of it"
    m.resume(); m.live.wait()
    assert m.live.state == "done" and m.live.step == 7
    assert json.loads(json.dumps(m.state))["step"] == 7 and m.picture().axes


def test_what_does_not_fit_is_said(scene, tmp_path):
    for m, text in ((Monitor(tmp_path / "no"), "give the folder of a run"), (Monitor(History(rows(3, share=lambda i: 1.)), scene=scene), "give the trainer"),
                    (Monitor(make(), scene=scene, every=0, start=False), "give a step or more"), (Monitor(make(), scene=3, start=False), "a scene is")):
        assert m.canvas.level == "error" and text in m.canvas.message and m.film is None
        m.guard(m.pause)()
        assert m.canvas.message
    assert torch.is_grad_enabled()
