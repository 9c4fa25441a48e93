"Reports: bundles lose nothing that matters, gaps and single seeds are said, a committed report executes from its bundle, the list of grids is read."
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from olmoearth.experiments import ParameterError, read_parameters
from olmoearth.grids import Run, data_version, record
from olmoearth.reports import Live, app, bundle, chosen, compare, curves, failed, plot_arms, read_runs, report, summary, table, thin

TOP = Path(__file__).resolve().parent.parent
CODE = "0.1.0+1a2b3c4d"


def leave(home: Path, arm: dict, seed: int, numbers=None, steps=None, titles=None, **how):
    "A run folder as `execute` leaves it."
    notebook = home.parent / "toy.ipynb"
    notebook.write_text('{"cells": []}')
    run = Run(notebook, arm, {"steps": 9}, seed, home / (",".join(f"{k}={v}" for k, v in arm.items()) or "base") / f"seed-{seed}")
    run.folder.mkdir(parents=True)
    note = {"code": CODE, "begun": 1e9 + len(list(home.glob("*/*"))), "seconds": 120.0, "status": "done"} | how
    (run.folder / "run.json").write_text(json.dumps(run.facts | note))
    if numbers is not None: record(run.folder, steps, titles, "a small world", **numbers)


def rows(n: int, keys=("share",), start=1.0):
    return [{"step": i + 1, "seconds": 0.1, **{k: start - i / n / 2 for k in keys}} for i in range(n)]


@pytest.fixture
def grid(tmp_path):
    "Two arms, three seeds; one seed of b failed, another is cut off; b has a metric that a lacks."
    home = tmp_path / "grid"
    for seed in range(3): leave(home, {"w": "a"}, seed, {"score": 50 + seed, "loss": 0.5}, rows(300), {"score": "Score in %"})
    leave(home, {"w": "b"}, 0, {"score": 52.0, "extra": 3.0}, rows(300))
    leave(home, {"w": "b"}, 1, status="failed", error="toy.ipynb stopped in cell 2: ValueError: no; see /home/somebody/out/toy.ipynb")
    leave(home, {"w": "b"}, 2, status="running")
    return home


def test_a_bundle_is_the_grid_again(grid, tmp_path):
    runs = read_runs(grid)
    again = read_runs(bundle(runs, tmp_path / "b.parquet"))
    pd.testing.assert_frame_equal(again.numbers, runs.numbers)
    pd.testing.assert_frame_equal(again.history, runs.history, check_dtype=False)
    pd.testing.assert_frame_equal(again.rows, runs.rows)
    assert (again.titles, again.name, again.arms, again.metrics) == (runs.titles, "grid", ["w=a", "w=b"], ["score", "loss", "extra"])
    assert summary(again) == summary(runs) and table(again).to_html() == table(runs).to_html()


def test_a_bundle_stays_small(tmp_path):
    draw = np.random.default_rng(0)
    for seed in range(4):
        leave(tmp_path / "g", {"w": 1}, seed, {"score": 1.0}, [{"step": i, **{f"k{j}": draw.standard_normal() for j in range(40)}} for i in range(500)])
    assert bundle(tmp_path / "g", tmp_path / "b.parquet").stat().st_size < 90_000
    small = bundle(tmp_path / "g", tmp_path / "c.parquet", most=50_000)
    assert small.stat().st_size <= 50_000 and 7 <= len(read_runs(small).history) / 4 < 60


def test_runs_failed_and_unfinished_are_named_without_paths_of_a_machine(grid):
    runs = read_runs(grid)
    assert failed(runs).to_dict("records") == [{"run": "w=b, seed 1", "status": "failed", "why": "toy.ipynb stopped in cell 2: ValueError: no"},
                                               {"run": "w=b, seed 2", "status": "unfinished", "why": ""}]
    said = summary(runs)
    assert "4 of 6 runs" in said and "seeds w=a: 0, 1, 2; w=b: 0" in said and CODE in said and "a small world" in said and "steps=9" in said and "/home/" not in said
    assert "several versions" not in said


def test_two_versions_of_the_code_are_said(grid):
    leave(grid, {"w": "b"}, 3, {"score": 1.0}, code="0.1.0+ffffffff")
    assert "several versions" in summary(read_runs(grid))


def test_a_metric_that_an_arm_lacks_breaks_nothing(grid):
    runs = read_runs(grid)
    found = compare(runs.numbers, "extra").set_index("arm")
    assert np.isnan(found.loc["w=a", "mean"]) and found.loc["w=b", "mean"] == 3 and np.isnan(found.loc["w=b", "difference"])
    shown = table(runs, "score,extra,loss").data
    assert shown["extra", "mean"].tolist() == ["-", "3.00"] and shown["loss", "mean"].tolist()[1] == "-"
    assert shown["Score in %", "less w=a"].tolist() == ["", "+2.0"]                                      # one common seed: no interval
    for live in (False, True): plot_arms(runs, "score,extra,loss", live=live)


def test_pairs_and_intervals_in_the_table(tmp_path):
    luck = [0.0, 8.0, 3.0, 5.0, 1.0, 2.0]
    for w, gain in (("a", 0.0), ("b", 2.0), ("c", 0.1)):
        for s, v in enumerate(luck): leave(tmp_path / "g", {"w": w}, s, {"score": 50 + v + gain + (0.2 * (-1) ** s if w == "c" else 0)})
    runs = read_runs(tmp_path / "g")
    shown = table(runs, "score", "w=a")
    assert shown.data["score", "less w=a"].tolist()[1] == "+2.0 (+2.0 .. +2.0)"
    html = shown.to_html()
    assert html.count("font-weight: bold") == 1 and "too narrow" not in html                             # b is sure, c is not
    assert table(runs, base="w=b").data["score", "less w=b"].tolist()[1] == ""
    few = table(replace(runs, numbers=runs.numbers[runs.numbers["seed"] < 3]), "score", "w=a").to_html()
    assert "font-weight: bold" not in few and "25 times in 100" in few                                     # three of one sign are no proof
    with pytest.raises(ParameterError, match="no arm 'w=z'; there are w=a; w=b; w=c"): table(runs, base="w=z")
    with pytest.raises(ParameterError, match="no metric 'scor'; there are score"): chosen(runs, "score,scor")


def test_one_seed_has_no_intervals_and_says_so(tmp_path):
    for w in "ab": leave(tmp_path / "g", {"w": w}, 0, {"score": 1.0})
    runs = read_runs(tmp_path / "g")
    assert "One seed: there are no intervals" in table(runs).to_html() and "one seed" in summary(runs)
    assert table(runs).data["score", "mean"].tolist() == ["1.00", "1.00"] and np.isnan(compare(runs.numbers, "score")["low"]).all()


def test_curves_are_means_over_stretches(grid):
    steps = pd.DataFrame({"step": range(1, 101), "a": np.arange(100.0), "held/a": [1.0 if i % 50 == 0 else np.nan for i in range(100)], "loss/x": 1.0, "share/x": 1.0})
    short = thin(steps, 10)
    assert short["step"].tolist() == list(range(10, 101, 10)) and short["a"].tolist() == [4.5 + 10 * i for i in range(10)]
    assert short["held/a"].notna().sum() == 2 and "loss/x" not in short and "share/x" in short
    assert len(thin(steps.head(3), 10)) == 3
    runs = read_runs(grid)
    assert isinstance(curves(runs, "share", live=True), Live)
    with pytest.raises(ParameterError, match="no history has 'rank'; there are share"): curves(runs, "rank")


def test_runs_without_a_history(tmp_path):
    leave(tmp_path / "g", {"w": 1}, 0, {"score": 1.0})
    runs = read_runs(bundle(tmp_path / "g", tmp_path / "b.parquet"))
    assert runs.keys == []
    with pytest.raises(ParameterError, match="the runs left none"): curves(runs)


def test_what_is_no_grid_is_answered_in_one_line(tmp_path):
    (tmp_path / "x.parquet").write_text("no parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "y.parquet")
    leave(tmp_path / "g", {"w": 1}, 0, status="failed", error="why")
    for words, answer in (([tmp_path / "x.parquet"], "is no bundle of runs"), ([tmp_path / "y.parquet"], "is no bundle of runs"), ([tmp_path / "nothing"], "no finished run"),
                          ([tmp_path / "g"], r"no finished run (1 failed or unfinished)")):
        done = CliRunner().invoke(app, ["report", *map(str, words)])
        assert done.exit_code == 1 and answer in done.stderr and done.stderr.count("\n") == 1
    leave(tmp_path / "h", {"w": 1}, 0, {"score": 1.0})
    for words, answer in ((["--metric", "scor"], "no metric 'scor'"), (["--base", "z"], "no arm 'z'"), (["--notebook", "r.txt"], "end it with .ipynb")):
        done = CliRunner().invoke(app, ["report", str(tmp_path / "h"), *words])
        assert done.exit_code == 1 and answer in done.stderr and done.stderr.count("\n") == 1
    assert not list((tmp_path / "h").glob("report*"))


def test_records_are_checked(tmp_path):
    with pytest.raises(ParameterError, match="a title for b"): record(tmp_path, titles={"b": "B"}, a=1)
    with pytest.raises(ParameterError, match="seed is known already"): record(tmp_path, seed=1)
    with pytest.raises(ParameterError, match="must be numbers"): record(tmp_path, good=True)
    record(tmp_path, a=np.float32(1), b=np.int64(2))
    assert not (tmp_path / "history.parquet").exists() and pd.read_parquet(tmp_path / "metrics.parquet").iloc[0].to_dict() == {"a": 1, "b": 2}
    with pytest.raises(ParameterError, match="there is no folder"): data_version(tmp_path / "none")


def test_a_report_is_kept_and_executed_again(grid, tmp_path):
    "The first call makes the notebook; what is then written into it stays; it executes from its bundle alone."
    home = tmp_path / "reports"
    made = report(grid, "score", "w=b", home / "mine.ipynb")
    nb = json.loads(made.notebook.read_text())
    text = made.notebook.read_text()
    assert {p.name for p in home.iterdir()} == {"mine.ipynb", "mine.parquet", "mine.html"}
    assert read_parameters(made.notebook) == {"bundle": "mine.parquet", "metrics": "score", "base": "w=b", "title": "mine", "live": False}
    assert "".join(nb["cells"][0]["source"]).startswith("# Report: mine") and str(tmp_path) not in text and "<script" not in text and '"image/png"' in text
    page = made.page.read_text()
    assert "Bokeh" in page and not re.search(r"<script[^>]*src=.http", page) and not re.search('<img[^>]*src="data:image', page) and "data-root-id" in page
    nb["cells"].append({"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "**What it means.** Nothing."})
    made.notebook.write_text(json.dumps(nb))
    leave(grid, {"w": "b"}, 5, {"score": 99.0})
    report(grid, notebook=made.notebook)
    text = made.notebook.read_text()
    assert "What it means" in text and "5 of 7 runs" in text and read_parameters(made.notebook)["base"] == "w=b" and read_parameters(made.notebook)["metrics"] == "score"
    before = made.notebook.read_bytes()
    subprocess.run(["nbdev-clean", "--fname", str(made.notebook)], check=True, cwd=TOP)
    assert made.notebook.read_bytes() == before                                                          # nothing left to clean
    bad = home / "other.ipynb"
    bad.write_text(text.replace("bundle", "bndle"))
    with pytest.raises(ParameterError, match="no parameter 'bundle'"): report(grid, notebook=bad)


def test_the_list_of_grids(tmp_path):
    spec = importlib.util.spec_from_file_location("grids_list", TOP / ".ci/grids.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.grids("# words\na: pretrain -p x=1\n --grid 'y=1,2' --metric p,q\n\nb: other --base z --seeds 0,1\n")
    assert found == {"a": (["pretrain", "-p", "x=1", "--grid", "y=1,2"], ["--metric", "p,q"]), "b": (["other", "--seeds", "0,1"], ["--base", "z"])}
    for text in ("no colon", "a:", " goes on", "a: x\na: y"):
        with pytest.raises(SystemExit): module.grids(text)
    known = module.grids((TOP / "nbs/experiments/grids.txt").read_text())
    assert "pretrain" in known
    for run, _ in known.values():                                                   # each of them could begin
        answer = CliRunner().invoke(app, ["run", *run, "--dry", "--out", str(tmp_path / "grid")])
        assert answer.exit_code == 0 and answer.output.count(": new") >= 6, answer.output
    assert not (tmp_path / "grid").exists()
    answer = subprocess.run([sys.executable, TOP / ".ci/grids.py", "nothing"], capture_output=True, text=True)
    assert answer.returncode == 1 and "no grid nothing; there are pretrain" in answer.stderr
