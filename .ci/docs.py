"""Build the site: chapters, tutorials, experiments and reports as linked pages, with the pictures that their cells left. Nothing is run, no network is asked."""
import re
import shutil
import subprocess
import sys
from pathlib import Path
import nbformat
from latex2mathml.converter import convert

TOP = Path(__file__).resolve().parent.parent
PARTS = (   # caption, folder, names from here to before there
    ("Tutorials", "tutorials", "", "~"), ("Samples", "nbs", "00", "03"), ("A simulated Earth", "nbs", "03", "04"), ("Files", "nbs", "04", "06"), ("Tokens and masks", "nbs", "06", "08"),
    ("The model", "nbs", "08", "10"), ("Targets and losses", "nbs", "10", "12"), ("Training", "nbs", "12", "14"), ("Weights", "nbs", "14", "15"), ("Scenes", "nbs", "15", "16"),
    ("Probes", "nbs", "16", "17"), ("Fine-tuning", "nbs", "17", "18"), ("Benchmarks", "nbs", "18", "20"), ("Live maps", "nbs", "20", "30"), ("Experiments and commands", "nbs", "30", "~"),
    ("Experiments", "nbs/experiments", "", "~"), ("Reports", "nbs/experiments/reports", "", "~"))


FOLDERS = re.compile(r"\]\(((?:\.\./nbs/)?experiments(?:/reports)?)\)")   # a link to a folder goes to the list of its pages

MATH = re.compile(r"(`[^`]*`)|\$([^$\n]+)\$")   # code stays, formulas become MathML: browsers draw it without a script


def cleaned(path: Path) -> nbformat.NotebookNode:
    "A notebook as a reader wants it: without the cells that only nbdev needs, without its directives, without widgets that have no kernel here."
    nb = nbformat.read(path, as_version=4)
    nb.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    hidden = lambda c: "hide" in c.metadata.get("tags", []) or re.match(r"\s*#\|\s*(hide|default_exp)\b", c.source)
    nb.cells = [c for c in nb.cells if not hidden(c)]
    for c in nb.cells:
        if c.cell_type == "markdown": c.source = MATH.sub(lambda m: m[1] or convert(m[2]), FOLDERS.sub(r"](\1/index.md)", c.source))
        if c.cell_type != "code": continue
        c.source = re.sub(r"^#\|.*\n?", "", c.source, flags=re.M)
        for o in c.outputs: o.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        c.outputs = [o for o in c.outputs if o.output_type != "display_data" or o.data]
    return nb


def stage(source: Path) -> None:
    "Lay out the pages as they lie in the repository, so that their links hold."
    for home in ("nbs", "nbs/experiments", "nbs/experiments/reports", "tutorials"):
        (source / home).mkdir(parents=True, exist_ok=True)
        for f in sorted((TOP / home).glob("*.ipynb")): nbformat.write(cleaned(f), source / home / f.name)
    shutil.copytree(TOP / "nbs/images", source / "nbs/images")
    for name in ("LICENSE", "settings.ini", "CONTRIBUTING.md"): shutil.copy(TOP / name, source)
    for home, title in (("nbs/experiments", "Experiments"), ("nbs/experiments/reports", "Reports")):
        (source / home / "index.md").write_text(f"# {title}\n\n" + tree("", sorted(f.stem for f in (TOP / home).glob("*.ipynb"))))
    front = nbformat.read(source / "nbs/index.ipynb", as_version=4)
    front.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(tree(caption, pages) for caption, pages in contents())))
    nbformat.write(front, source / "nbs/index.ipynb")


def contents() -> list[tuple[str, list[str]]]:
    "Captions and pages, in reading order."
    out = []
    for caption, home, low, high in PARTS:
        pages = [f"/{home}/{f.stem}" for f in sorted((TOP / home).glob("*.ipynb")) if low <= f.stem < high and f.stem != "index"]
        if "experiments" in home: pages = [f"/{home}/index"]
        out.append((caption, pages))
    out[-1][1].append("/CONTRIBUTING")
    return out


def tree(caption: str, pages: list[str]) -> str:
    "A table of contents."
    head = f":caption: {caption}\n:hidden:\n" if caption else ""
    return "```{toctree}\n:maxdepth: 1\n" + head + "\n" + "\n".join(pages) + "\n```\n"


def main(site: Path = TOP / "_docs") -> None:
    "Build into html; what Sphinx warns of is an error."
    shutil.rmtree(site, ignore_errors=True)
    stage(site / "src")
    subprocess.run([sys.executable, "-m", "sphinx", "-b", "html", "-c", str(TOP / ".ci/site"), "-W", "--keep-going", "-q", "-j", "auto", str(site / "src"), str(site / "html")], check=True)
    (site / "html/index.html").write_text('<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=nbs/index.html"><a href="nbs/index.html">olmoearth</a>\n')
    print(f"{site / 'html/index.html'}: {len(list((site / 'html').rglob('*.html')))} pages")


if __name__ == "__main__": main(*map(Path, sys.argv[1:]))
