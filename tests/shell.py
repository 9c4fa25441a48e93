"""The command in a process of its own: with modules hidden, and without root's right to write anywhere."""
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
HIDE = """
import os, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["HIDDEN"].split(","): raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def _obey_modes() -> None:
    "Run in the child, before the command: root without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH is held by the modes of folders, as everybody is."
    for capability in (1, 2):
        if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0): os._exit(77)


def olmoearth(folder: Path, *words, hidden: tuple[str, ...] = (), plain_user: bool = False, **env: str) -> subprocess.CompletedProcess:
    "`olmoearth WORDS` in a folder; the settings and data of whoever runs the tests are not seen."
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("OLMOEARTH_")}, "HIDDEN": ",".join(hidden), **env}
    paths = [str(TOP)]
    if hidden:
        (hide := folder / "hide").mkdir(exist_ok=True)
        (hide / "sitecustomize.py").write_text(HIDE)
        paths.insert(0, str(hide))
    demote = plain_user and os.geteuid() == 0
    if demote and not sys.platform.startswith("linux"): pytest.skip("root here, and only Linux lets a process give up root's right to write")
    done = subprocess.run([sys.executable, "-c", "from olmoearth.doctor import app; app()", *map(str, words)], cwd=folder, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, preexec_fn=_obey_modes if demote else None, env=env | {"PYTHONPATH": os.pathsep.join(paths)})
    if demote and done.returncode == 77: pytest.skip("root here, and this system does not let a process give up root's right to write")
    return done
