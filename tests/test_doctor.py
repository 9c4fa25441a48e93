"""`olmoearth doctor` at its faults: a line for each check whatever is broken, the fix in it, and an exit status that a script can read."""
import json

import pytest
from shell import olmoearth

from olmoearth import doctor
from olmoearth.doctor import CHECKS, MISSING, OK, WARNING, Checked, checkup


def findings(done) -> dict[str, dict[str, str]]:
    "What --json says, by name. Every check is there, in order; there is no traceback; the exit status fits."
    listed = json.loads(done.stdout)
    assert [c["name"] for c in listed] == list(CHECKS) and "Traceback" not in done.stderr and all("\n" not in c["words"] + c["fix"] for c in listed)
    assert done.returncode == int(any(c["state"] == MISSING for c in listed))
    return {c["name"]: c for c in listed}


@pytest.mark.parametrize("module, name, state, said, fix", [
    ("jupyterlab", "jupyter", WARNING, "there is no JupyterLab to open them in", "pip install 'olmoearth[maps]'"),
    ("ipywidgets", "widgets", WARNING, "not installed: ipywidgets", "pip install 'olmoearth[maps]'"),
    ("papermill", "jupyter", MISSING, "not installed: papermill", "pip install 'olmoearth[train]'"),
    ("jupyter_core", "widget manager", WARNING, "jupyter_core is not installed", "pip install 'olmoearth[maps]'"),
    ("safetensors", "model", MISSING, "safetensors is not installed", "pip install ."),
    ("torch", "torch", MISSING, "torch is not installed", "pip install torch==")])
def test_a_module_that_is_not_there(tmp_path, module, name, state, said, fix):
    found = findings(olmoearth(tmp_path, "doctor", "--json", hidden=(module,)))
    assert found[name]["state"] == state and said in found[name]["words"] and found[name]["fix"].startswith(fix)
    others = {"torch": {"model"}}.get(module, set())                     # the model needs torch; nothing else is taken along
    assert {n for n, c in found.items() if module in c["words"] and c["state"] != OK} <= {name} | others
    if others: assert found["model"]["fix"] == found["torch"]["fix"]      # not one that leaves torch out


def test_in_a_clone_the_fix_is_that_of_the_readme(tmp_path):
    (tmp_path / "nbs").mkdir()
    for name in ("Makefile", "nbs/00_settings.ipynb"): (tmp_path / name).touch()
    found = findings(olmoearth(tmp_path, "doctor", "--json", hidden=("ipywidgets",)))
    assert found["widgets"]["state"] == WARNING and found["widgets"]["fix"] == "make lab"


@pytest.mark.parametrize("text, said", [(b"device = cpu\n", "below [DEFAULT], write lines such as device = cpu"), (b"\xff\xfe", "can't decode"),
                                        (b"[DEFAULT]\nworkers = many\n", "workers = 'many' is not a whole number"), (b"[DEFAULT]\nlib_name = x\n", "unknown setting 'lib_name'")])
def test_a_broken_settings_file_is_told_once(tmp_path, text, said):
    (ini := tmp_path / "settings.ini").write_bytes(text)
    done = olmoearth(tmp_path, "doctor")
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines), done.stderr) == (1, len(CHECKS), "")
    assert [line for line in lines if said in line] == [lines[1]] and lines[1].startswith("missing  settings ") and lines[1].endswith(f"  ->  mend {ini}")
    waiting = [line.split()[1] for line in lines if "not looked at: the settings cannot be read, see above" in line]
    assert waiting == ["torch", "cache", "basemap", "data", "model"] and not any(" -> " in line for line in lines if "not looked at" in line)
    assert lines[list(CHECKS).index("jupyter")].startswith("ok ")


def test_a_device_that_cannot_be_is_traced_to_where_it_was_set(tmp_path):
    (ini := tmp_path / "settings.ini").write_text("[DEFAULT]\ndevice = tpu9\n")
    found = findings(olmoearth(tmp_path, "doctor", "--json"))
    assert found["settings"]["state"] == OK and "'tpu9' is not known" in found["torch"]["words"] and found["torch"]["fix"] == f"mend {ini}"
    found = findings(olmoearth(tmp_path, "doctor", "--json", OLMOEARTH_DEVICE="tpu8"))                 # the environment comes first
    assert "'tpu8'" in found["torch"]["words"] and found["torch"]["fix"] == "unset OLMOEARTH_DEVICE"


def test_a_cache_that_may_not_be_written(tmp_path):
    (locked := tmp_path / "locked").mkdir()
    locked.chmod(0o555)
    try: found = findings(olmoearth(tmp_path, "doctor", "--json", plain_user=True, OLMOEARTH_CACHE_DIR=str(locked / "cache")))
    finally: locked.chmod(0o755)
    words, fix = f"{locked / 'cache'} cannot be written to: permission denied", "export OLMOEARTH_CACHE_DIR=$HOME/olmoearth-cache"
    assert found["cache"] == {"name": "cache", "state": MISSING, "words": words, "fix": fix}


def test_a_cache_that_is_a_file_and_data_that_are_nowhere(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("OLMOEARTH_TEST_DATA", raising=False)
    monkeypatch.setenv("OLMOEARTH_DATA_DIR", str(tmp_path / "my data"))
    found = checkup()
    assert found["cache"].state == MISSING and "cannot be written to: file exists" in found["cache"].words
    assert found["data"] == Checked(WARNING, f"there is no folder '{tmp_path}/my data', which the settings name", f"mkdir -p '{tmp_path}/my data'")


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch):
    def broken() -> Checked: raise RuntimeError("first\nsecond")
    monkeypatch.setattr(doctor, "CHECKS", {"odd": (broken, MISSING, "pip install odd"), "python": CHECKS["python"]})
    found = checkup()
    assert found["odd"] == Checked(MISSING, "RuntimeError: first second", "pip install odd") and found["python"].state == OK


def test_a_basemap_without_network_is_a_warning(tmp_path):
    found = findings(olmoearth(tmp_path, "doctor", "--json", OLMOEARTH_OFFLINE="true", OLMOEARTH_BASEMAP="OpenStreetMap"))
    assert found["basemap"]["state"] == WARNING and found["basemap"]["fix"] == "export OLMOEARTH_BASEMAP=none"


def test_lab_extension_reads_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (folder := tmp_path / "labextensions/@x/y").mkdir(parents=True)
    for text, version in (('{"version": "1.2.3"}', "1.2.3"), ("{}", ""), ("not json", "")):
        (folder / "package.json").write_text(text)
        assert doctor.lab_extension("@x/y") == version
