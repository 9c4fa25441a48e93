"""The page of lessons names every lesson, and what opens them elsewhere asks for nothing that is not there."""
import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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
