"""Every notebook runs from top to bottom, each in a Python of its own: what one registers, seeds or patches, no other sees."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
NOTEBOOKS = [p for home in ("nbs", "nbs/experiments/reports", "tutorials") for p in sorted((TOP / home).glob("*.ipynb"))]
RUN = """
import sys
from nbdev.test import test_nb
passed, seconds = test_nb(sys.argv[1], skip_flags=["notest", "slow", "gpu"], basepath=sys.argv[2], cell_timeout=900)
sys.exit(not passed)
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebook(path, tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "MPLBACKEND": "Agg", "OLMOEARTH_OFFLINE": "true", "PYTHONWARNINGS": "ignore"}
    if path.parent.name == "tutorials": path, env["OLMOEARTH_CACHE_DIR"] = quick(path, tmp_path), str(tmp_path / "cache")
    run = subprocess.run([sys.executable, "-c", RUN, str(path), str(TOP)], env=env, cwd=TOP, capture_output=True, text=True, timeout=1100)
    assert run.returncode == 0, (run.stdout + run.stderr)[-6000:]


def quick(path: Path, folder: Path) -> Path:
    "A copy of a tutorial that does a few steps only and writes to a temporary folder."
    import nbformat
    from olmoearth.experiments import check_parameters
    given = check_parameters(path, {"quick": True, "out": str(folder / "out")})
    nb = nbformat.read(path, as_version=4)
    at = next(i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", []))
    nb.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in given.items())))
    nbformat.write(nb, folder / path.name)
    return folder / path.name
