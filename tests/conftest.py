"""Fixtures of several test files."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import lab, the_lab   # noqa: F401


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    "The site as `make docs` builds it, its folder html; built once, whichever worker asks first."
    pytest.importorskip("sphinx", reason="the extra docs is not installed: the site is not built")
    import fcntl
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ: base = base.parent         # the folder of all workers
    folder, said = base / "site", base / "site.log"
    with (base / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            run = subprocess.run([sys.executable, str(Path(__file__).resolve().parent.parent / ".ci/docs.py"), str(folder)], capture_output=True, text=True)
            said.write_text("" if run.returncode == 0 else f"{run.stdout}{run.stderr}"[-4000:] or "failed")
    assert not said.read_text(), said.read_text()                      # a reference without a target is an error there
    return folder / "html"
