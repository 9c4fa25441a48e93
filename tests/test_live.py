"Training in a thread: bit-equal, pausable, never half a step, and an end for every kind of end."
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from test_trainer import make, same

from olmoearth.live import Background, Live, curve_rows, train_live
from olmoearth.samples import InputError
from olmoearth.trainer import Callback, Checkpoint, History, TimeLimit


class Wait(Callback):
    "Stands in a step until it may go on."
    def __init__(self, at=2): self.at, self.here, self.go = at, threading.Event(), threading.Event()
    def on_step(self, trainer):
        if trainer.step == self.at: self.here.set(); assert self.go.wait(20)


class Note(Callback):
    "Writes into the row late, as HeldOut does."
    def on_step(self, trainer): trainer.history.rows[-1]["note"] = trainer.step


@pytest.fixture(scope="module")
def whole():
    t = make([Note()])
    t.fit()
    return t


def test_background_is_the_foreground_to_the_bit(whole):
    run = train_live(make([Note()]))
    history = run.wait()
    assert run.state == "done" and run.step == 7 and same(run.trainer, whole) and not run.trainer.model.training
    assert [r["loss"] for r in history.rows] == [r["loss"] for r in whole.history.rows]
    assert len(run.trainer.callbacks) == 1, "the callbacks of the thread are gone"


def test_paused_copied_and_global_random_state_disturbed_it_is_the_same(whole):
    run = train_live(make([Note()]))
    for _ in range(4):
        run.pause()
        step = run.step
        copy = run.snapshot()
        torch.manual_seed(step); torch.rand(3)
        assert not copy.training and all(torch.equal(a, b) for a, b in zip(copy.state_dict().values(), run.trainer.model.state_dict().values(), strict=True))
        for p in copy.parameters(): p.data.zero_()                          # it is ours: the run does not see it
        assert run.state in ("paused", "done") and run.step == step
        run.resume()
    run.wait()
    assert same(run.trainer, whole)


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_live(make()).wait()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_snapshot_waits_for_the_end_of_the_step():
    gate = Wait()
    run = train_live(make([gate]))
    assert gate.here.wait(20)
    got = []
    t = threading.Thread(target=lambda: got.append(run.snapshot())); t.start()
    t.join(.2)
    assert not got and t.is_alive(), "a step is under way: no copy yet"
    assert len(run.history) == 1, "only whole rows are seen"
    gate.go.set(); t.join(20)
    assert len(got) == 1 and run.wait(20)


def test_two_ask_for_a_copy_while_the_run_ends():
    gate = Wait(at=7)
    run = train_live(make([gate]))
    assert gate.here.wait(20)
    got = []
    threads = [threading.Thread(target=lambda: got.append(run.snapshot())) for _ in range(2)]
    for t in threads: t.start()
    gate.go.set()
    for t in threads: t.join(20)
    assert len(got) == 2


def test_snapshot_and_pause_from_a_callback_do_not_lock():
    class Inside(Callback):
        def on_step(self, trainer):
            if trainer.step == 3: self.copy = run.snapshot(); run.pause()
    c = Inside()
    run = train_live(make([c]))
    while run.state == "running": time.sleep(.002)
    assert run.state == "paused" and run.step == 3 and c.copy is not run.trainer.model
    run.resume(); run.wait(20)
    assert run.state == "done"


def test_stop_lets_a_checkpoint_save_and_start_goes_on(tmp_path, whole):
    gate, file = Wait(), tmp_path / "a.pt"
    run = train_live(make([gate, Checkpoint(file, every=100)]))
    assert gate.here.wait(20)
    run.stop("enough"); gate.go.set()
    run.wait(20)
    assert run.state == "stopped" and run.trainer.stopped == "enough" and run.step == 3
    assert torch.load(file, weights_only=True)["step"] == 3
    run.start().wait(20)
    assert run.state == "done" and same(run.trainer, whole)


def test_a_paused_run_can_be_stopped():
    run = train_live(make())
    run.pause(); step = run.step
    run.stop(); run.wait(20)
    assert run.state in ("stopped", "done") and run.step in (step, step + 1)


def test_a_callback_that_stops_the_run_gives_stopped():
    run = train_live(make([TimeLimit(0)]))
    run.wait(20)
    assert run.state == "stopped" and "time limit" in run.trainer.stopped


def test_error_is_kept_and_raised_and_a_copy_is_still_there(capfd):
    class Bad(Callback):
        def on_step(self, trainer):
            if trainer.step == 2: raise KeyError("lost")
    run = train_live(make([Bad()]))
    for _ in range(2):
        with pytest.raises(KeyError, match="lost"): run.wait(20)
    assert run.state == "failed" and isinstance(run.error, KeyError) and "KeyError" in repr(run) and run.snapshot() is not None
    assert "training failed at step 2: KeyError" in capfd.readouterr().err
    with pytest.raises(InputError, match="the run is failed"): run.start()


def test_what_cannot_be_is_said():
    t = make()
    run = Background(t)
    assert run.state == "new" and run.snapshot() is not t.model
    run.pause(); run.resume()
    with pytest.raises(InputError, match=r"call start\(\) first"): run.wait()
    run.start(); run.pause()
    if run.state == "paused":
        with pytest.raises(InputError, match="another background run"): train_live(t)
        with pytest.raises(InputError, match=r"call resume\(\)"): run.wait()
        assert run.wait(timeout=.01).rows is not None and run.state == "paused"
    run.stop(); run.wait(20)


def test_python_ends_while_a_run_goes_on(tmp_path):
    code = "from test_trainer import make\nfrom olmoearth.live import train_live\nrun = train_live(make(steps=100_000)); run.snapshot()"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_threads_of_torch_are_taken_over():
    seen = []
    class Look(Callback):
        def on_step(self, trainer): seen.append(torch.get_num_threads())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train_live(make([Look()])).wait(60)
    finally: torch.set_num_threads(before)
    assert set(seen) == {2}


def test_curves_hold_the_last_point_and_skip_what_was_not_measured():
    rows = [{"step": i + 1, "share": .5, "probe/knn": .3, "probe/knn/accuracy": .4} | ({"held/share": .9} if i % 10 == 0 else {}) for i in range(2000)]
    points = curve_rows(History(rows), most=50)
    names = {p["name"] for p in points}
    assert names == {"share", "held/share", "knn"}
    assert max(p["step"] for p in points if p["name"] == "share") == 2000 and sum(p["name"] == "share" for p in points) <= 52
    assert curve_rows(History()) == []


def test_view_follows_and_its_buttons_work():
    pytest.importorskip("ipywidgets")
    gate = Wait(at=3)
    run = train_live(make([gate, Note()]))
    assert gate.here.wait(20)
    live = Live(run, every=.1)
    assert "no HealthWatch" in live.findings.value and live.bar.max == 7 and not live.buttons["pause"].disabled
    live.buttons["pause"].click(); gate.go.set(); run.pause(); live.update()
    assert run.state == "paused" and live.bar.value == 3 and live.bar.bar_style == "warning" and live.buttons["pause"].disabled
    live.buttons["resume"].click()
    run.wait(20); live._ticker.join(20)
    assert live.bar.value == 7 and "done" in live.status.value and "7 steps" in live.plot.outputs[0]["data"]["text/plain"]
    assert len(live.picture().axes) == 1


def test_view_stops_a_run_and_shows_an_error():
    pytest.importorskip("ipywidgets")
    run = train_live(make(steps=100_000))
    live = Live(run, every=.1)
    live.buttons["stop"].click()
    run.wait(30); live._ticker.join(20)
    assert run.state == "stopped" and "stopped by hand" in live.status.value and not live.buttons["resume"].disabled
    class Bad(Callback):
        def on_step(self, trainer): raise ValueError("<disk>")
    broken = train_live(make([Bad()]))
    with pytest.raises(ValueError): broken.wait(20)
    live = Live(broken)
    assert live.bar.bar_style == "danger" and "&lt;disk&gt;" in live.status.value
    with pytest.raises(InputError, match="above 0"): Live(broken, every=0)


def test_view_draws_with_hvplot_where_its_script_is_loaded(monkeypatch):
    hv = pytest.importorskip("holoviews")
    pytest.importorskip("hvplot")
    run = train_live(make()); run.wait(20)
    monkeypatch.setattr(hv.extension, "_loaded", True)
    data = Live(run).plot.outputs[0]["data"]
    assert "application/vnd.holoviews_exec.v0+json" in data and "bokeh" in data["text/html"].lower()
