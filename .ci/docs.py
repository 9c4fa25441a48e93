"""Build the site: chapters, tutorials, experiments, reports and the API reference as linked pages, with the pictures that their cells left. Nothing is run, no network is asked."""
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

sys.modules.setdefault("rfc3987_syntax", None)   # type: ignore[arg-type]   # a grammar that jsonschema would build for seconds and that no notebook needs
import nbformat
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).resolve().parent))
import api
import pictures

TOP = Path(__file__).resolve().parent.parent
HOMES = ("nbs", "nbs/experiments", "nbs/experiments/reports", "tutorials")
PARTS = (   # caption, folder, names from here to before there
    ("Tutorials", "tutorials", "", "~"), ("Reference", "", "", ""), ("Samples", "nbs", "00", "03"), ("A simulated Earth", "nbs", "03", "04"),
    ("Files", "nbs", "04", "06"), ("Tokens and masks", "nbs", "06", "08"),
    ("The model", "nbs", "08", "10"), ("Targets and losses", "nbs", "10", "12"), ("Training", "nbs", "12", "14"), ("Weights", "nbs", "14", "15"), ("Scenes", "nbs", "15", "16"),
    ("Probes", "nbs", "16", "17"), ("Fine-tuning", "nbs", "17", "18"), ("Benchmarks", "nbs", "18", "20"), ("Live maps", "nbs", "20", "30"),
    ("Experiments and commands", "nbs", "30", "~"),
    ("Experiments", "nbs/experiments", "", "~"), ("Reports", "nbs/experiments/reports", "", "~"))


FOLDERS = re.compile(r"\]\(((?:\.\./nbs/)?experiments(?:/reports)?)\)")   # a link to a folder goes to the list of its pages

MATH = re.compile(r"(`[^`]*`)|\$([^$\n]+)\$")   # code stays, formulas become MathML: browsers draw it without a script


def repository() -> str:
    "Web address of the repository, for what opens a notebook elsewhere: REPOSITORY in the environment, else `Repository` in [project.urls]; empty: none is set."
    urls = tomllib.loads((TOP / "pyproject.toml").read_text())["project"].get("urls", {})
    return os.environ.get("REPOSITORY", urls.get("Repository", "")).rstrip("/").removesuffix(".git")


def elsewhere(path: str, address: str) -> dict[str, str]:
    "Where else a notebook of the repository opens: name of the service -> address. Nothing of it is asked when the site is built."
    if not (m := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", address)): return {}
    return {"Open in Colab": f"https://colab.research.google.com/github/{m[1]}/blob/main/{quote(path)}",
            "Open in Binder": f"https://mybinder.org/v2/gh/{m[1]}/main?labpath={quote(path, safe='')}"}


def launch(path: str, module: str, address: str) -> str:
    "The line under a title: the notebook itself, where it runs, the reference of its module."
    up = "../" * path.count("/")
    links = [f'<a href="{up}notebooks/{path}" download>Download this notebook</a>', *(f'<a href="{url}">{name}</a>' for name, url in elsewhere(path, address).items())]
    if path.startswith("tutorials"): links.append(f'<a href="{up}tutorials/README.html#run-a-lesson-elsewhere">How to run it elsewhere</a>')
    if module: links.append(f'<a href="{up}api/{module}.html">Reference of olmoearth.{module}</a>')
    return f'<p class="launch">{" ".join(links)}</p>'


def cleaned(path: Path, address: str) -> nbformat.NotebookNode:
    "A notebook as a reader wants it: without what only nbdev needs, without widgets that have no kernel here; pictures with words, definitions with an anchor."
    nb = nbformat.read(path, as_version=4)
    nb.metadata.language_info = {"name": "python", "pygments_lexer": "python"}
    module = next((m[1] for c in nb.cells if c.cell_type == "code" and (m := re.search(r"^#\|\s*default_exp\s+(\S+)", c.source, re.M))), "")
    pictures.with_words(nb.cells)
    out = []
    for c in nb.cells:
        if c.cell_type == "code" and re.search(r"^#\|\s*exporti?\b", c.source, re.M): out.append(nbformat.v4.new_markdown_cell(f'<div id="cell-{c.id}"></div>'))
        if "hide" in c.metadata.get("tags", []) or re.match(r"\s*#\|\s*(hide|default_exp)\b", c.source): continue
        if c.cell_type == "markdown": c.source = MATH.sub(lambda m: m[1] or convert(m[2]), FOLDERS.sub(r"](\1/index.md)", c.source))
        if c.cell_type == "code":
            c.source = re.sub(r"^#\|.*\n?", "", c.source, flags=re.M)
            for o in c.outputs: o.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            c.outputs = [o for o in c.outputs if o.output_type != "display_data" or o.data]
        out.append(c)
    first = next(i for i, c in enumerate(out) if c.source.startswith("# "))
    out.insert(first + 1, nbformat.v4.new_markdown_cell(launch(path.relative_to(TOP).as_posix(), module, address)))
    nb.cells = out
    return nb


def lessons(text: str, address: str) -> str:
    "The page of lessons; a lesson that is not in this checkout keeps its name and loses its link."
    text = re.sub(r"\[([^\]]+)\]\((\w+\.ipynb)\)", lambda m: m[0] if (TOP / "tutorials" / m[2]).exists() else m[1], text)
    return text.replace("https://github.com/OWNER/olmoearth", address or "https://github.com/OWNER/olmoearth")


def stage(source: Path, address: str) -> None:
    "Lay out the pages as they lie in the repository, so that their links hold."
    for home in HOMES:
        (source / home).mkdir(parents=True, exist_ok=True)
        for f in sorted((TOP / home).glob("*.ipynb")): nbformat.write(cleaned(f, address), source / home / f.name)
    shutil.copytree(TOP / "nbs/images", source / "nbs/images")
    shutil.copytree(TOP / ".binder", source / ".binder")
    for name in ("LICENSE", "settings.ini", "CONTRIBUTING.md"): shutil.copy(TOP / name, source)
    (source / "tutorials/README.md").write_text(lessons((TOP / "tutorials/README.md").read_text(encoding="utf-8"), address), encoding="utf-8")
    for home, title in (("nbs/experiments", "Experiments"), ("nbs/experiments/reports", "Reports")):
        (source / home / "index.md").write_text(f"# {title}\n\n" + tree("", sorted(f.stem for f in (TOP / home).glob("*.ipynb"))))
    api.Pages(TOP / "olmoearth").write(source / "api", api.daily(TOP / "olmoearth"))
    front = nbformat.read(source / "nbs/index.ipynb", as_version=4)
    front.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(tree(caption, pages) for caption, pages in contents())))
    nbformat.write(front, source / "nbs/index.ipynb")


def contents() -> list[tuple[str, list[str]]]:
    "Captions and pages, in reading order."
    out = []
    for caption, home, low, high in PARTS:
        pages = [f"/{home}/{f.stem}" for f in sorted((TOP / home).glob("*.ipynb")) if low <= f.stem < high and f.stem != "index"]
        if "experiments" in home: pages = [f"/{home}/index"]
        if home == "tutorials": pages.insert(0, "/tutorials/README")
        out.append((caption, pages if home else ["/api/index", "/CONTRIBUTING"]))
    return out


def tree(caption: str, pages: list[str]) -> str:
    "A table of contents."
    head = f":caption: {caption}\n:hidden:\n" if caption else ""
    return "```{toctree}\n:maxdepth: 1\n" + head + "\n" + "\n".join(pages) + "\n```\n"


def main(site: Path = TOP / "_docs") -> None:
    "Build into html; what Sphinx warns of is an error."
    from sphinx.cmd.build import main as sphinx
    shutil.rmtree(site, ignore_errors=True)
    stage(site / "src", repository())
    if code := sphinx(["-b", "html", "-c", str(TOP / ".ci/site"), "-W", "--keep-going", "-q", "-j", "auto", str(site / "src"), str(site / "html")]): sys.exit(code)
    for home in HOMES:
        (site / "html/notebooks" / home).mkdir(parents=True, exist_ok=True)
        for f in (TOP / home).glob("*.ipynb"): shutil.copy(f, site / "html/notebooks" / home)
    first = "nbs/index.html"
    (site / "html/index.html").write_text(f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={first}"><a href="{first}">olmoearth</a>\n')
    print(f"{site / 'html/index.html'}: {len(list((site / 'html').rglob('*.html')))} pages")


if __name__ == "__main__": main(*map(Path, sys.argv[1:]))
