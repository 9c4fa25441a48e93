"Logs: whole rows whatever the order of callbacks, no row twice after a resume, bad input in words."
import math

import pytest
from test_trainer import Crash, make

from olmoearth.logs import Csv, JsonLines, Log, open_tracker, read_log
from olmoearth.samples import InputError
from olmoearth.settings import MissingExtra
from olmoearth.trainer import Callback, Checkpoint


class Late(Callback):
    "Writes into the row behind the log."
    def on_step(self, trainer):
        if trainer.step % 3 == 0: trainer.history.rows[-1]["held/share"] = trainer.step / 100


def rows(history): return [{k: v for k, v in r.items() if not math.isnan(v)} for r in history.rows]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_hold_the_history_exactly(tmp_path, kind):
    history = make([Log(kind, tmp_path), Late()]).fit()
    assert read_log(tmp_path / f"run.{kind}").rows == rows(history)
    assert '"steps": 7' in (tmp_path / "run.config.json").read_text()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_resumed_run_leaves_no_row_twice(tmp_path, kind):
    with pytest.raises(KeyboardInterrupt): make([Checkpoint(tmp_path / "a.pt", every=2), Log(kind, tmp_path), Late(), Crash(5)]).fit()
    assert read_log(tmp_path / f"run.{kind}").column("step") == [1, 2, 3, 4, 5]
    t = make([Log(kind, tmp_path), Late()])
    assert t.resume(tmp_path / "a.pt") and t.step == 4
    history = t.fit()
    assert read_log(tmp_path / f"run.{kind}").rows == rows(history)


def test_tensorboard_agrees_with_the_history_also_after_a_resume(tmp_path):
    pytest.importorskip("accelerate")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(KeyboardInterrupt): make([Checkpoint(tmp_path / "a.pt", every=2), Log("tensorboard", tmp_path), Late(), Crash(5)]).fit()
    t = make([Log("tensorboard", tmp_path), Late()])
    assert t.resume(tmp_path / "a.pt")
    history = t.fit()
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert {k for r in rows(history) for k in r} - {"step"} <= set(events.Tags()["scalars"])
    for key in set(events.Tags()["scalars"]) & set(history.keys()):
        want = [(r["step"], r[key]) for r in rows(history) if key in r]
        assert [e.step for e in events.Scalars(key)] == [s for s, _ in want], key
        assert [e.value for e in events.Scalars(key)] == pytest.approx([v for _, v in want], rel=1e-6), key


def test_every_keeps_what_was_measured_in_between(tmp_path):
    history = make([Log("jsonl", tmp_path, every=5), Late()]).fit()
    log = read_log(tmp_path / "run.jsonl")
    assert {1, 3, 6} <= set(log.column("step")) and [v for v in log.column("held/share") if v == v] == [.03, .06]
    assert log.rows == [r for r in rows(history) if r["step"] in log.column("step")]


def test_a_tracker_of_accelerate_made_elsewhere(tmp_path):
    tracking, state = pytest.importorskip("accelerate.tracking"), pytest.importorskip("accelerate.state")
    state.PartialState()
    class Mine(tracking.GeneralTracker):
        name, requires_logging_directory = "mine", False
        def __init__(self): super().__init__(); self.seen, self.config, self.over = [], {}, False
        @property
        def tracker(self): return self.seen
        def store_init_configuration(self, values): self.config = values
        def log(self, values, step=None, **_): self.seen.append((step, values))
        def finish(self): self.over = True
    mine = Mine()
    history = make([Log(mine)]).fit()
    assert mine.over and mine.config["steps"] == 7 and [s for s, _ in mine.seen] == [r["step"] for r in history.rows]
    assert mine.seen[-1][1]["loss"] == history.rows[-1]["loss"]


def test_a_column_that_comes_late_and_an_empty_log(tmp_path):
    log = Csv(tmp_path / "deep" / "a.csv")
    assert read_log(log.path).rows == []
    log.log({"a": 1.0}, 1); log.log({"b": 1e-7}, 2)
    assert read_log(log.path).rows == [{"step": 1, "a": 1.0}, {"step": 2, "b": 1e-7}]
    assert Csv(log.path, since=1).names == ["step", "a"] and len(read_log(log.path)) == 1


def test_faults_are_said(tmp_path):
    log = JsonLines(tmp_path / "a.jsonl")
    log.log({"loss": 1.}, 1)
    with log.path.open("a") as f: f.write('{"step": 2, "lo')
    with pytest.raises(InputError, match="a.jsonl, line 2 is no row"): read_log(log.path)
    with pytest.raises(InputError, match="use one of tensorboard, wandb, csv, jsonl"): Log("mlfow")
    with pytest.raises(InputError, match="use one of tensorboard"): open_tracker("mlfow", tmp_path)
    with pytest.raises(InputError, match="a step or more"): Log("csv", every=0)


def test_wandb_that_is_not_there_names_its_package(tmp_path):
    pytest.importorskip("accelerate")
    try: import wandb  # noqa: F401
    except ImportError: pass
    else: pytest.skip("wandb is installed")
    with pytest.raises(MissingExtra, match="pip install wandb"): make([Log("wandb", tmp_path)]).fit()
