"""The command: what it answers, what it refuses, and what an installed package needs for it."""
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat.v4 as nb4
import pytest
from typer.testing import CliRunner

import olmoearth
from olmoearth import experiments
from olmoearth.experiments import ParameterError, RunError, app, check_parameters, extras, find_tutorial, info, read_parameters, run_notebook

TOP = Path(__file__).resolve().parent.parent


def write(folder: Path, *sources: str, tags=("parameters",)) -> Path:
    "A notebook whose first cell is tagged."
    cells = [nb4.new_code_cell(s, metadata={"tags": list(tags)} if i == 0 else {}) for i, s in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (path := folder / "x.ipynb").write_text(json.dumps(nb4.new_notebook(cells=cells, metadata={"kernelspec": kernel})))
    return path


def test_parameters_are_read_with_their_types(tmp_path):
    path = write(tmp_path, "a = 1\nb = -2.5   # minus\nc = 'x'\nd = [1, 2]\ne = None\nf = False")
    assert read_parameters(path) == {"a": 1, "b": -2.5, "c": "x", "d": [1, 2], "e": None, "f": False}
    assert check_parameters(path, {"e": "anything", "b": 3, "f": True}) == {"e": "anything", "b": 3.0, "f": True}


@pytest.mark.parametrize("given,said", [({"z": 1}, "no parameter 'z'; it has a, f"), ({"a": "1"}, "a is of type int"), ({"a": True}, "not bool"), ({"f": 1}, "f is of type bool")])
def test_parameters_that_do_not_fit_are_refused(tmp_path, given, said):
    with pytest.raises(ParameterError, match=said): check_parameters(write(tmp_path, "a = 1\nf = False"), given)


def test_files_that_are_no_parameterised_notebook_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="no cell tagged"): read_parameters(write(tmp_path, "a = 1", tags=()))
    with pytest.raises(ParameterError, match="a is computed"): read_parameters(write(tmp_path, "a = 1 + len('x')"))
    (bad := tmp_path / "bad.ipynb").write_text("no json")
    with pytest.raises(ParameterError, match="bad.ipynb is not a notebook"): read_parameters(bad)
    bad.write_text("[]")
    with pytest.raises(ParameterError, match="is not a notebook"): read_parameters(bad)


def test_a_run_that_stops_names_the_error_and_keeps_the_notebook(tmp_path):
    path = write(tmp_path, "a = 1", "raise ValueError(f'a was {a}')")
    with pytest.raises(RunError, match="ValueError: a was 2; see .*x.ipynb"): run_notebook(path, tmp_path / "out", {"a": 2})
    assert "ValueError" in (tmp_path / "out" / "x.ipynb").read_text()


def test_version_and_info():
    assert CliRunner().invoke(app, ["--version"]).output == f"olmoearth {olmoearth.__version__}\n"
    answer = CliRunner().invoke(app, ["info"])
    assert answer.exit_code == 0 and all(word in answer.output for word in ("torch", "device", "GiB", "cores", "real data", "extra maps"))


def test_info_without_data_says_how_to_name_it(monkeypatch, tmp_path):
    monkeypatch.setenv("OLMOEARTH_TEST_DATA", str(tmp_path / "none"))
    assert "set OLMOEARTH_DATA_DIR" in info()["real data"]


def test_a_missing_extra_is_named_with_its_line(monkeypatch):
    real = experiments.metadata.version
    def version(name):
        if name == "leafmap": raise experiments.metadata.PackageNotFoundError(name)
        return real(name)
    monkeypatch.setattr(experiments.metadata, "version", version)
    assert extras()["maps"] == ["leafmap"]
    assert info()["extra maps"] == "lacks leafmap: pip install 'olmoearth[maps]'"


@pytest.mark.parametrize("words,said", [(["demo", "--scene", "nowhere"], "there is no 'nowhere'"), (["demo", "--steps", "0"], "--steps"), (["nothing"], "nothing")])
def test_bad_command_lines_are_refused_without_a_traceback(words, said):
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code in (1, 2) and said in answer.output and "Traceback" not in answer.output


def test_every_description_of_the_list_is_whole():
    from olmoearth.doctor import app as all_commands
    shown = CliRunner().invoke(all_commands, ["--help"], terminal_width=80)
    lines = shown.output.partition("Commands:\n")[2].splitlines()
    assert shown.exit_code == 0 and len(lines) == len(all_commands.registered_commands) and all(line.endswith(".") and not line.endswith("..") for line in lines), shown.output


@pytest.mark.parametrize("out, dtype, said", [("e.tif", "int8", "dtype='int8' cannot be held by a GeoTIFF here; use float32 or int8-unit, or a .zarr"),
                                              ("e.tif", "float16", "use float32 or int8-unit"), ("e.png", "float32", "end it with .zarr, or .tif"),
                                              ("e.zarr", "int7", "use one of float32, float16, int8, int8-unit")])
def test_embed_refuses_a_result_that_cannot_be_before_it_reads_anything(tmp_path, out, dtype, said):
    from olmoearth.embed import app as with_embed
    answer = CliRunner().invoke(with_embed, ["embed", str(tmp_path / "no scene"), str(tmp_path / out), "--dtype", dtype, "--model", "no-model"])
    assert answer.exit_code == 1 and said in answer.output and answer.output.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_wrong_setting_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("OLMOEARTH_DEVICE", "tpu9")
    answer = CliRunner().invoke(app, ["info"])
    assert answer.exit_code == 1 and answer.output.startswith("olmoearth: device") and answer.output.count("\n") == 1


def test_demo_passes_on_only_what_was_asked(monkeypatch, tmp_path):
    "The notebook gets the given parameters with paths made absolute; its own usual values stay."
    tutorial, seen = write(tmp_path, "scene = ''\noffset = ''\nout = 'out'\nsteps = 3\nsize = 'nano'\nseed = 0\nquick = False"), {}
    monkeypatch.setattr(experiments, "find_tutorial", lambda name: tutorial)
    def run(path, out, parameters, name, progress):
        seen.update(parameters)
        return experiments.RunResult(Path(out) / "a.ipynb", Path(out) / "a.html", dict(check_parameters(path, parameters)), 1.0)
    monkeypatch.setattr(experiments, "run_notebook", run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene").mkdir()
    assert CliRunner().invoke(app, ["demo"]).exit_code == 0 and seen == {"out": str(tmp_path / "out")}
    CliRunner().invoke(app, ["demo", "--scene", "scene", "--steps", "7", "--seed", "0", "--quick", "--offset", "1000"])
    assert seen == {"out": str(tmp_path / "out"), "scene": str(tmp_path / "scene"), "steps": 7, "seed": 0, "quick": True, "offset": "1000"}


def test_the_quickstart_takes_what_the_command_passes():
    assert {"scene", "offset", "out", "steps", "size", "seed", "quick"} <= set(read_parameters(find_tutorial("01_quickstart")))


def test_a_wheel_brings_the_tutorials(tmp_path):
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(TOP), str(source)], check=True)
    code = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("olmoearth-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "olmoearth/tutorials/01_quickstart.ipynb" in names and "olmoearth/maps.py" in names
    assert {"olmoearth/notebooks/report.ipynb", "olmoearth/notebooks/pretrain.ipynb"} <= set(names)
    assert not [n for n in names if n.startswith(("nbs/", "tests/"))]
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    ask = "import sys; sys.path[:0] = sys.argv[1:]; from olmoearth.experiments import find_tutorial; print(find_tutorial('01_quickstart'))"
    found = subprocess.run([sys.executable, "-S", "-c", ask, str(tmp_path / "site"),
                            *[p for p in sys.path if "site-packages" in p]], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(found.stdout.strip()).resolve() == (tmp_path / "site/olmoearth/tutorials/01_quickstart.ipynb").resolve()


def test_models_lists_every_release_and_how_to_load_one():
    from olmoearth.official_weights import MODELS
    answer = CliRunner().invoke(app, ["models"])
    assert answer.exit_code == 0 and all(m.name in answer.output for m in MODELS) and "olmoearth.load(" in answer.output


def test_an_example_is_read_and_a_class_of_one_place_is_said_before_anything_is_learned(tmp_path, monkeypatch):
    from olmoearth.commands import app
    monkeypatch.setenv("OLMOEARTH_TEST_DATA", str(tmp_path / "none"))
    call = lambda *words: CliRunner().invoke(app, [str(w) for w in words])
    home = tmp_path / "place"
    assert call("example", home, "--scene", "simulated").exit_code == 0
    labels = json.loads((home / "labels.geojson").read_text())
    first = labels["features"][0]["properties"]["class"]
    mine, rest = ([f for f in labels["features"] if (f["properties"]["class"] == first) is own] for own in (True, False))
    (tmp_path / "rare.geojson").write_text(json.dumps(labels | {"features": [*mine[:3], *rest]}))
    refused = call("map", home, tmp_path / "rare.geojson", tmp_path / "m2", "--epochs", 0)
    assert refused.exit_code == 1 and f"one labelled cell of {first}" in refused.stderr and "learning a probe" not in refused.output and not (tmp_path / "m2").exists()
