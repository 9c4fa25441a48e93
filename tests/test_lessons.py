"""The page of lessons names every lesson, what opens them elsewhere asks for nothing that is not there, and errors name lessons that there are."""
import ast
import json
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from olmoearth.checks import InputWarning
from olmoearth.guide import LESSONS, Place, chapter_of, explained, install, told_as
from olmoearth.settings import MissingExtra, get_settings, require
from olmoearth.starters import checked_name

TOP = Path(__file__).resolve().parent.parent
TEXT = (TOP / "tutorials/README.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| [")]
BINDER = TOP / ".binder"
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def link(row: list[str]) -> str: return re.fullmatch(r"\[(\d\d) .+\]\((\1_\w+\.ipynb)\)", row[0])[2]


def test_every_lesson_is_in_the_table_with_all_that_a_reader_asks():
    assert {p.name for p in (TOP / "tutorials").glob("*.ipynb")} <= {link(r) for r in ROWS}
    numbers = [link(r)[:2] for r in ROWS]
    assert numbers == sorted(set(numbers))
    for _, whom, after, minutes, before in ROWS:
        assert set(whom.split(", ")) <= {"learner", "researcher", "practitioner", "everybody"} and len(after) > 20
        low, high = map(int, minutes.split("-"))
        assert 5 <= low < high <= 25 and set(re.findall(r"\d\d", before)) <= set(numbers)
    routes = re.findall(r"^- \*\*To .+?: ([\d, ]+)", TEXT.partition("## Three routes")[2].partition("\n## ")[0], re.M)
    assert len(routes) == 3 and {n for r in routes for n in re.findall(r"\d\d", r)} <= set(numbers)


@pytest.mark.parametrize("target", sorted({t for t in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in t}))
def test_a_link_of_the_page_leads_somewhere(target): assert (TOP / "tutorials" / target).exists()


def extras(text: str) -> list[str]: return [e for found in re.findall(r"\[([\w,]+)\]", text) for e in found.split(",")]


def launched() -> dict[str, list[str]]:
    "Which extras each way to open a lesson installs."
    colab = ast.parse((BINDER / "colab.py").read_text(encoding="utf-8"))
    named = next(n.value.value for n in colab.body if isinstance(n, ast.Assign) and n.targets[0].id == "EXTRAS")
    return {"binder": extras((BINDER / "postBuild").read_text(encoding="utf-8")), "colab": named.split(","), "page": extras(re.search(r"pip install '\.(\[.+?\])'", TEXT)[1])}


@pytest.mark.parametrize("way", ["binder", "colab", "page"])
def test_launch_installs_extras_that_exist_and_all_that_the_lessons_import(way):
    known, todo, wants = PROJECT["optional-dependencies"], list(launched()[way]), list(PROJECT["dependencies"])
    assert todo and set(todo) <= set(known)
    while todo:
        lines = known[todo.pop()]
        todo += [e for line in lines if line.startswith("olmoearth[") for e in extras(line)]
        wants += lines
    there = {re.match(r"[\w.-]+", line)[0].lower().replace("-", "_") for line in wants}
    there |= {"sklearn", "ipython", "olmoearth", "matplotlib_inline", "nbformat"}   # and what these bring
    for path in (TOP / "tutorials").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or source.lstrip().startswith("%"): continue
            for node in ast.walk(ast.parse(source)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                lacking = {n.split(".")[0] for n in names if n.split(".")[0].lower() not in there | {m.lower() for m in sys.stdlib_module_names}}
                assert not lacking, f"{path.name} imports {lacking}, which {way} does not install"


def test_binder_files_are_of_the_form_that_binder_reads():
    post = BINDER / "postBuild"
    assert subprocess.run(["bash", "-n", str(post)], capture_output=True).returncode == 0 and post.read_text().startswith("#!") and post.stat().st_mode & 0o100
    assert all((TOP / name).exists() for name in re.findall(r"--constraint (\S+)", post.read_text()))
    version = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text())[1]
    assert [*map(int, version.split("."))] >= [*map(int, PROJECT["requires-python"].strip(">=").split("."))]
    index, torch = (BINDER / "requirements.txt").read_text().splitlines()
    assert index == "--index-url https://download.pytorch.org/whl/cpu" and torch in (TOP / "constraints.txt").read_text().splitlines()
    assert {p.name for p in BINDER.iterdir() if not p.name.startswith("__")} == {"postBuild", "runtime.txt", "requirements.txt", "colab.py"}


def test_what_was_not_run_here_says_so(): assert all("not run here" in text for text in (TEXT, (BINDER / "postBuild").read_text(), (BINDER / "colab.py").read_text()))


PLACES = sorted({(p.file, p.section) for p in LESSONS.values() if p.file})


@pytest.mark.parametrize("file, section", PLACES)
def test_a_lesson_that_an_error_names_is_there_with_its_section(file, section):
    text = (TOP / file).read_text(encoding="utf-8")
    if not section: return
    heads = [line for c in json.loads(text)["cells"] if c["cell_type"] == "markdown" for line in "".join(c["source"]).splitlines() if line.startswith("## ")]
    assert any(re.match(rf"## {section}\b", h) for h in heads), heads


def explained_of(call) -> str:
    "Where the error of a call is explained."
    with pytest.raises(Exception) as caught: call()
    return explained(caught.value)


def test_faults_of_an_installation_are_explained_too(tmp_path):
    (tmp_path / "settings.ini").write_text("no section\n")
    assert explained_of(lambda: get_settings(tmp_path)) == "nbs/00_settings.ipynb"
    assert explained_of(lambda: require("no_such_module", "maps")) == "README.md"
    assert explained_of(lambda: checked_name("two words", tmp_path)) == "nbs/39_starters.ipynb"


def test_an_error_of_somebody_else_or_none_at_all_has_no_lesson():
    assert explained_of(lambda: int("x")) == explained_of(lambda: json.loads("{")) == ""
    assert explained(KeyboardInterrupt()) == explained(ValueError("never raised")) == ""
    assert chapter_of("no_such_module") == Place("") and told_as(Place("")) == ""


class Shell:
    "What `install` asks of IPython."
    def __init__(self): self.after, self.events = [], self
    def register(self, name, what): self.after.append((name, what))


def test_the_line_comes_once_a_cell_and_a_cell_without_error_gets_none(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)                        # put back afterwards
    shell = Shell()
    install(shell)
    install(shell)
    [(event, after)] = shell.after
    def cell(err): after(SimpleNamespace(error_in_exec=err)); return capsys.readouterr().out
    try: require("no_such_module", "maps")
    except MissingExtra as err: missing = err
    assert event == "post_run_cell" and cell(missing) == cell(missing) == "Explained in README.md\n" and cell(None) == cell(ValueError("x")) == ""
    after(SimpleNamespace())                                                                  # a result of an older IPython
    for _ in range(2): warnings.showwarning(InputWarning("odd values"), InputWarning, "file.py", 1)
    warnings.showwarning(UserWarning("of another"), UserWarning, "file.py", 1)
    assert capsys.readouterr().err.count("Explained in nbs/02b_checks.ipynb\n") == 1
