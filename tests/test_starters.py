"""`olmoearth new-experiment` and `new-modality`: what they refuse, in one line, and that what they write runs."""
import re

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from shell import olmoearth
from typer.testing import CliRunner

from olmoearth.grids import collect, experiments_home
from olmoearth.modalities import registry
from olmoearth.reports import compare
from olmoearth.starters import EXPERIMENT, app, new_experiment, new_modality

BOTH = ("new-experiment", "new-modality")


def refused(done, *said: str) -> None:
    "One line that holds the words, on the stream of errors, and exit status 1."
    code = done.exit_code if hasattr(done, "exit_code") else done.returncode
    assert (code, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stdout + done.stderr
    assert done.stderr.startswith("olmoearth: ") and "Errno" not in done.stderr and all(s in done.stderr for s in said), done.stderr


def call(*words): return CliRunner().invoke(app, [str(w) for w in words])


@pytest.mark.parametrize("command", BOTH)
def test_a_file_that_exists_is_left_as_it_is(tmp_path, command):
    (file := tmp_path / "fog.ipynb").write_text("my work")
    refused(call(command, "fog", "--folder", tmp_path), "exists and is left as it is; choose another name, or remove it first")
    assert file.read_text() == "my work"


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("name, said", [("two words", "try two_words"), ("2nd", "try my_2nd"), ("a-b", "try a_b"),
                                        ("../fog", "try ___fog"), ("fog.ipynb", "try fog"), ("", "try my"), ("class", "try my_class"), ("None", "try my_none")])
def test_a_name_that_python_cannot_use(tmp_path, command, name, said):
    refused(call(command, name, "--folder", tmp_path), said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command, names", [("new-experiment", sorted(p.stem for p in experiments_home().glob("*.ipynb"))[:3]), ("new-modality", sorted(registry())[:3])])
def test_a_name_that_means_something_already(tmp_path, command, names):
    for name in names: refused(call(command, name, "--folder", tmp_path), f"{name!r} is taken", f"try my_{name}")
    assert names and not list(tmp_path.iterdir())


def test_what_a_refusal_proposes_is_taken(tmp_path):
    for name in ("two words", "2nd", "../fog", "", "class"):
        better = re.search(r"try (\w+)", call("new-experiment", name, "--folder", tmp_path).stderr)[1]
        assert call("new-experiment", better, "--folder", tmp_path).exit_code == 0


@pytest.mark.parametrize("command", BOTH)
def test_a_folder_that_will_not_do(tmp_path, command):
    (file := tmp_path / "notes").write_text("")
    refused(call(command, "fog", "--folder", tmp_path / "a b/c"), "there is no folder", f"mkdir -p '{tmp_path}/a b/c'")
    refused(call(command, "fog", "--folder", file), f"{file} is a file, not a folder; name another one with --folder")
    refused(call(command, "fog", "--folder", file / "in/it"), f"{file} is a file, not a folder; name another one with --folder")      # mkdir would not help
    refused(call(command, "x" * 300, "--folder", tmp_path), "the name has 300 letters", "choose a shorter one")


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_may_not_be_written_or_looked_into(tmp_path, mode):
    (locked := tmp_path / "locked").mkdir()
    locked.chmod(mode)
    try:
        for command, folder in ((BOTH[0], "locked"), (BOTH[1], "locked" if mode else "locked/inner")):
            refused(olmoearth(tmp_path, command, "fog", "--folder", folder, plain_user=True), "permission denied; name a folder of your own with --folder")
    finally: locked.chmod(0o755)
    assert not list(locked.iterdir())


@pytest.mark.parametrize("hidden, said", [(("nbformat",), "nbformat is not installed, and a notebook needs it; it comes with: pip install 'olmoearth[train]'"),
                                          (("papermill", "nbconvert"), "papermill is not installed"),
                                          (("numpy",), "numpy is not installed; `olmoearth doctor` says what brings it")])
def test_without_a_module_nothing_is_written(tmp_path, hidden, said):
    refused(olmoearth(tmp_path, "new-experiment", "fog", hidden=hidden), said)
    assert not list(tmp_path.glob("*.ipynb"))


def test_to_open_a_notebook_is_another_matter_than_to_write_one(tmp_path):
    done = olmoearth(tmp_path, "new-experiment", "fog", hidden=("jupyterlab", "ipywidgets"))
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "fog.ipynb").is_file()


def test_a_broken_settings_file_does_not_stop_the_writing_and_is_named_by_what_reads_it(tmp_path):
    (tmp_path / "settings.ini").write_text("device = cpu\n")
    assert olmoearth(tmp_path, "new-experiment", "fog").returncode == 0
    refused(olmoearth(tmp_path, "info"), str(tmp_path / "settings.ini"), "below [DEFAULT], write lines such as device = cpu")


@pytest.mark.parametrize("words, said", [(("--kind", "video"), "use one of space-time"), (("--bands", "a,b,a"), "a stands twice"), (("--bands", ","), "write a,b"),
                                         (("--gsd", "nan"), "between 0 and 640"), (("--gsd", "0"), "between 0 and 640"), (("--gsd", "3"), "use 5, 2.5, 2 or 1")])
def test_a_modality_that_cannot_be(tmp_path, words, said):
    refused(call("new-modality", "fog", *words, "--folder", tmp_path), said)
    assert not list(tmp_path.iterdir())


def test_a_written_experiment_runs_in_a_grid_and_leaves_numbers_for_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_experiment("fog")
    done = call("run", "fog", "-p", "steps=2", "-p", "tiles=4", "-p", "places=4")
    assert done.exit_code == 0, done.output
    found = collect(tmp_path / "out/fog")
    assert found["arm"].tolist() == ["base"] and found["held_share"].between(1, 400).all() and found["linear"].between(0, 100).all()
    assert compare(found, "linear")["mean"].tolist() == found["linear"].tolist()
    titled = re.search(r'"held_share".+', EXPERIMENT)[0]
    assert {k for k in found.columns if k in titled} >= {"held_share", "linear", "knn", "linear_gain", "knn_gain"}


@pytest.mark.parametrize("kind, bands", [("image", "a"), ("point", "night,day")])
def test_a_written_modality_runs(tmp_path, monkeypatch, kind, bands):
    "From top to bottom in this process, two steps of training; the chapter runs one of another kind to its end."
    monkeypatch.setattr("olmoearth.modalities._REGISTRY", dict(registry()))
    matplotlib.use("agg")
    seen: dict = {}
    for cell in nbformat.read(new_modality(f"mine_{kind}", kind, bands.split(","), folder=tmp_path), 4).cells:
        if cell.cell_type == "code": exec(cell.source.replace("steps = 40", "steps = 2").replace('out = ""', f"out = {str(tmp_path)!r}"), seen)
    plt.close("all")
    assert 0 < seen["after"] < 400 and f"mine_{kind}" in seen["samples"][0].arrays and (tmp_path / "metrics.parquet").is_file()
