"Grids of runs: the command, resuming after a kill, faults, own strategies, a cluster of two processes."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from olmoearth.experiments import ParameterError
from olmoearth.grids import collect, execute, find_experiment, plan, record, run_grid, status
from olmoearth.reports import app, bootstrap, compare

PARAMETERS = "seed = 0\nout = ''\nwidth = 1\nwait = 0.0\ndeep = False"
CODE = ["import time\nfrom pathlib import Path\nfrom olmoearth.grids import record", "(Path(out) / 'begun').touch(); time.sleep(wait)", "record(out, score=width + seed / 10)"]


def notebook(folder: Path, code=CODE, parameters=PARAMETERS) -> Path:
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"] if i == 0 else []}, "execution_count": None, "outputs": [], "source": text, "id": f"cell{i}"}
             for i, text in enumerate([parameters, *code])]
    path = folder / "toy.ipynb"
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def call(*words: str):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_the_two_commands(tmp_path):
    path = notebook(tmp_path)
    done = call("run", path, "-p", "wait=0", "--grid", "width=1,3", "--seeds", "0,1", "--jobs", "2", "--out", tmp_path / "g")
    assert done.exit_code == 0 and "4 runs, 0 finished before, 4 to do" in done.output
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == ["width=1", "width=3"]
    kept = json.loads((tmp_path / "g/width=3/seed-1/run.json").read_text())
    assert kept["status"] == "done" and kept["arm"] == {"width": 3} and kept["seed"] == 1 and kept["fixed"] == {"wait": 0.0} and kept["code"]
    assert "nothing to do" in call("run", path, "-p", "wait=0", "--grid", "width=1,3", "--seeds", "0,1", "--out", tmp_path / "g").output
    more = call("run", path, "-p", "wait=0", "--grid", "width=1,3", "--seeds", "0,1,2", "--out", tmp_path / "g")     # a third seed: two runs more
    assert "6 runs, 4 finished before, 2 to do" in more.output
    shown = call("report", tmp_path / "g", "--metric", "score")
    assert shown.exit_code == 0 and "width=3" in shown.output and all((tmp_path / "g" / f).stat().st_size > 3_000 for f in ("report.html", "report.ipynb", "report.parquet"))
    table = compare(collect(tmp_path / "g"), "score")
    assert table["seeds"].tolist() == [3, 3] and table["difference"].round(6).tolist() == [0, 2] and table["mean"].round(6).tolist() == [1.1, 3.1]


@pytest.mark.parametrize("words, answer", [
    (["-p", "widht=2"], "did you mean 'width'?"), (["-p", "width=wide"], "width is of type int (1), not str"), (["-p", "width"], "write key=value"),
    (["--grid", "width=1,1"], "names an arm twice"), (["--seeds", "a"], "write whole numbers"), (["-p", "seed=1"], "use --seeds"),
    (["-p", "width=1", "--grid", "width=2"], "once as fixed and once as a grid"), (["--seeds", "0,0"], "give each seed once"),
    (["-p", "deep=true"], "write True"), (["--arm", "width=2", "--grid", "width=1,3"], "once in an arm and once as a grid"), (["--arm", "width"], "write key=value"),
    (["--arm", "widht=2"], "did you mean 'width'?"), (["--arm", "width=1", "--arm", ""], "width=1 and base are the same setting"),
    (["-p", "width=1", "--arm", "width=2"], "once as fixed")])
def test_a_wrong_word_is_answered_in_one_line(tmp_path, words, answer):
    done = call("run", notebook(tmp_path), *words, "--out", tmp_path / "g")
    assert done.exit_code == 1 and answer in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "g").exists()


def test_a_missing_notebook_and_a_folder_of_something_else(tmp_path):
    done = call("run", "no_such_thing")
    assert done.exit_code == 1 and "there is no notebook 'no_such_thing'" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "g/base/seed-0").mkdir(parents=True)
    (tmp_path / "g/base/seed-0/thesis.tex").touch()
    done = call("run", notebook(tmp_path), "--out", tmp_path / "g")
    assert done.exit_code == 1 and "exists and holds no run" in done.stderr
    done = call("report", tmp_path / "nothing")
    assert done.exit_code == 1 and "no finished run" in done.stderr


def test_another_notebook_or_setting_never_overwrites_a_run(tmp_path):
    path = notebook(tmp_path)
    assert run_grid(plan(path, tmp_path / "g")) == {}
    with pytest.raises(ParameterError, match=r"differs in wait \(.*now 1.0\)"): run_grid(plan(path, tmp_path / "g", {"wait": 1.0}))
    assert run_grid(plan(path, tmp_path / "g", {"wait": 0.1}, {"width": [2]})) == {}                 # a new folder beside it ...
    with pytest.raises(ParameterError, match="differ in their fixed parameters .* base against width=2"): collect(tmp_path / "g")   # ... cannot be compared
    notebook(tmp_path, [*CODE, "1 + 1"])
    with pytest.raises(ParameterError, match="differs in the notebook"): run_grid(plan(path, tmp_path / "g"))


def test_a_failed_run_is_kept_named_and_retried_alone(tmp_path):
    path = notebook(tmp_path, [*CODE[:1], "if width == 2 and not (Path(out).parents[1] / 'mended').exists(): raise RuntimeError('broken')", *CODE[1:]])
    runs = plan(path, tmp_path / "g", grid={"width": [1, 2]})
    failed = run_grid(runs)
    assert list(failed) == ["width=2, seed 0"] and "RuntimeError: broken" in failed["width=2, seed 0"]
    assert (runs[1].folder / "toy.ipynb").exists() and status(runs[1]) == "failed"
    assert "not in the table: width=2, seed 0 (failed)" in call("report", tmp_path / "g", "--metric", "score").output
    first = (runs[0].folder / "run.json").stat().st_mtime_ns
    (tmp_path / "g/mended").touch()
    assert run_grid(runs) == {} and (runs[0].folder / "run.json").stat().st_mtime_ns == first


def test_a_notebook_without_numbers_has_not_succeeded(tmp_path):
    assert "without record" in execute(plan(notebook(tmp_path, CODE[:1]), tmp_path / "g")[0])
    with pytest.raises(ParameterError, match="must be numbers"): record(tmp_path, score="good")
    with pytest.raises(ParameterError, match="no parameter out"): plan(notebook(tmp_path, parameters="seed = 0"), tmp_path / "h")


def test_listed_arms_are_combined_with_the_grid(tmp_path):
    path = notebook(tmp_path)
    runs = plan(path, tmp_path / "g", {"deep": True}, {"wait": [0.0, 0.5]}, [0, 1], [{"width": 2}, {}])
    assert [r.arm for r in runs[::2]] == [{"width": 2, "wait": 0.0}, {"width": 2, "wait": 0.5}, {"wait": 0.0}, {"wait": 0.5}] and [r.seed for r in runs[:2]] == [0, 1]
    done = call("run", path, "--arm", "width=2,deep=True", "--arm", "", "--jobs", "2", "--out", tmp_path / "h")
    assert done.exit_code == 0 and sorted(p.name for p in (tmp_path / "h").iterdir()) == ["base", "width=2,deep=True"]
    assert sorted(collect(tmp_path / "h")["score"]) == [1, 2]


def test_a_damaged_note_is_named_and_nothing_is_overwritten(tmp_path):
    path = notebook(tmp_path)
    [run] = plan(path, tmp_path / "g")
    run.folder.mkdir(parents=True)
    for text in ("{", "[]", "{}"):
        (run.folder / "run.json").write_text(text)
        for words in (("run", path, "--out", tmp_path / "g"), ("report", tmp_path / "g")):
            done = call(*words)
            assert done.exit_code == 1 and "run.json is damaged; remove its folder" in done.stderr and done.stderr.count("\n") == 1
    assert (run.folder / "run.json").read_text() == "{}"


def test_a_killed_grid_goes_on(tmp_path):
    path = notebook(tmp_path)
    command = [sys.executable, "-c", "from olmoearth.grids import app; app()", "run", str(path), "-p", "wait=60", "--out", str(tmp_path / "g")]
    process = subprocess.Popen(command, start_new_session=True)
    begun = tmp_path / "g/base/seed-0/begun"
    for _ in range(600):
        if begun.exists(): break
        time.sleep(0.1)
    assert begun.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    [run] = plan(path, tmp_path / "g", {"wait": 60})
    assert status(run) == "running"                                                  # cut off, and known to be
    kept = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(kept | {"fixed": {"wait": 0.0}}))   # the same run, had it been told to wait for nothing
    [quick] = plan(path, tmp_path / "g", {"wait": 0})
    assert run_grid([quick]) == {} and status(quick) == "done"


def test_a_cluster_of_two_processes(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        assert run_grid(plan(notebook(tmp_path), tmp_path / "g", grid={"width": [1, 2]}), dask=cluster.scheduler_address) == {}
    assert sorted(collect(tmp_path / "g")["score"]) == [1, 2]      # they began at the same time, in either order


def test_the_bootstrap_covers_and_says_when_it_cannot():
    low, high = bootstrap([1., 2., 3., 4.])
    assert 1 <= low < 2.5 < high <= 4 and all(v != v for v in bootstrap([1.]))
    runs = pd.DataFrame({"arm": ["a", "a", "b"], "seed": [0, 1, 1], "seconds": 1., "score": [1., 2., 5.]})
    table = compare(runs, "score", base="a")
    assert table["difference"].tolist() == [0, 3] and table["seeds"].tolist() == [2, 1]         # over the seed that both have


STORM = """
@strategy("east")
def east(layout, missing, generator):
    line = 1 + (torch.rand(len(missing), 1, generator=generator) * (layout.grid[1] - 1)).long()
    role = torch.where(layout.col >= line, Role.DECODE, Role.ENCODE).to(torch.int8)
    return at_least_one(finish(role, layout, missing, MAPS), layout, generator)
"""


@pytest.mark.slow
def test_the_experiment_with_a_strategy_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path / "cache"))
    runs = plan(find_experiment("pretrain"), tmp_path / "g", {"smoke": True, "masking": "east", "masking_code": STORM}, {"target": ["momentum", "pca"], "version": ["v1"]})
    assert run_grid(runs) == {}
    table = collect(tmp_path / "g")
    assert len(table) == 2 and table[["linear", "knn", "share", "rank"]].notna().all().all()
    assert (runs[0].folder / "model/model.safetensors").exists()


def test_runs_at_a_time_share_the_cores(tmp_path, monkeypatch):
    "Two runs with all the threads of the machine wait for each other; what the user has set stays."
    path = tmp_path / "threads.ipynb"
    cell = {"cell_type": "code", "execution_count": None, "outputs": []}
    code = "import os\nfrom olmoearth.grids import record\nrecord(out, threads=int(os.environ.get('OMP_NUM_THREADS', '0')))"
    first = {**cell, "id": "a", "metadata": {"tags": ["parameters"]}, "source": "seed = 0\nout = ''"}
    path.write_text(json.dumps({"cells": [first, {**cell, "id": "b", "metadata": {}, "source": code}],
                                "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    for jobs, threads in ((1, 0), (2, 3), (9, 1)):
        assert run_grid(plan(path, home := tmp_path / f"g{jobs}"), jobs=jobs) == {} and collect(home)["threads"].tolist() == [threads]
        assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert run_grid(plan(path, tmp_path / "own"), jobs=2) == {} and collect(tmp_path / "own")["threads"].tolist() == [5]
