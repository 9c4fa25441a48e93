"""Every notebook runs from top to bottom, each in a Python of its own: what one registers, seeds or patches, no other sees."""
import multiprocessing
import os
from functools import cache
from pathlib import Path

import pytest
from wrong_answers import WRONG

TOP = Path(__file__).resolve().parent.parent
NOTEBOOKS = [p for home in ("nbs", "nbs/experiments/reports", "tutorials") for p in sorted((TOP / home).glob("*.ipynb"))]
LIBRARIES = ["nbdev.test", "torch", "torch._dynamo", "xarray", "rioxarray", "sklearn.linear_model", "sklearn.neighbors", "matplotlib.pyplot", "pandas"]   # none of ours
ENV = {"MPLBACKEND": "Agg", "OLMOEARTH_OFFLINE": "true", "PYTHONWARNINGS": "ignore"}


@cache
def python() -> multiprocessing.context.BaseContext:
    "Pythons that are split off from one that has imported the libraries once and run nothing: 5 s less for each notebook, 4 more for one that trains."
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MPLBACKEND"] = "Agg"
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(LIBRARIES)
    return started


def run(path: str, log: str, env: dict[str, str]) -> None:
    "In the new Python: what a notebook prints goes to a file, and its failure is the exit code."
    import sys
    import warnings
    os.environ.update(env)
    os.chdir(TOP)
    multiprocessing.set_start_method("fork", force=True)            # as in any other Python, for the workers that a notebook starts
    with open(log, "w") as f:
        for n in (1, 2): os.dup2(f.fileno(), n)
    warnings.simplefilter("ignore")
    from nbdev.test import test_nb
    passed, _ = test_nb(path, skip_flags=["notest", "slow", "gpu"], basepath=str(TOP), cell_timeout=900)
    sys.stdout.flush()
    os._exit(not passed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebook(path, tmp_path):
    env, log = dict(ENV), tmp_path / "log.txt"
    if path.parent.name == "tutorials": path, env["OLMOEARTH_CACHE_DIR"] = quick(path, tmp_path), str(tmp_path / "cache")
    process = python().Process(target=run, args=(str(path), str(log), env))
    process.start()
    process.join(1100)
    if process.is_alive(): process.kill()
    assert process.exitcode == 0, log.read_text()[-6000:] if log.exists() else f"exit code {process.exitcode}"


def quick(path: Path, folder: Path) -> Path:
    "A copy of a tutorial that does a few steps only and writes to a temporary folder."
    import nbformat
    from olmoearth.experiments import check_parameters
    given = check_parameters(path, {"quick": True, "out": str(folder / "out")})
    nb = answered(nbformat.read(path, as_version=4), path.stem)
    at = next(i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", []))
    nb.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in given.items())))
    nbformat.write(nb, folder / path.name)
    return folder / path.name


TRY = """
for code in {wrong!r}:
    try: exec(code, globals()); exec({check!r}, globals())
    except AssertionError as err: print("refused:", err)
    else: raise RuntimeError("passed, and is wrong: " + code)
exec({right!r}, globals())
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as said: {call}
assert ": yes" in said.getvalue(), "the solution was not taken"
"""


def answered(nb, name: str):
    "Behind the check of each exercise: wrong answers, which it must refuse, then the solution, which it must take. The open exercise runs first."
    import nbformat
    from olmoearth.lessons import exercises
    for n, e in sorted(exercises(nb.cells).items(), reverse=True, key=lambda item: item[1]["check"]):
        check = nb.cells[e["check"]].source
        call = next(line for line in check.splitlines() if line.startswith(f"exercise({n},"))
        code = TRY.format(wrong=WRONG[name][n], check=check, right=e["solution"], call=call)
        nb.cells.insert(e["check"] + 1, nbformat.v4.new_code_cell(code))
    return nb


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "tutorials"], ids=lambda p: p.stem)
def test_every_exercise_has_wrong_answers_to_refuse(path):
    import nbformat
    from olmoearth.lessons import exercises
    found = exercises(nbformat.read(path, as_version=4).cells)
    assert set(found) == set(WRONG.get(path.stem, {})), "tests/wrong_answers.py holds wrong answers for each exercise"
    assert all(WRONG[path.stem][n] for n in found)
