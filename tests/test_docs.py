"""The site: every page there, every link on it led somewhere, nothing asked of the network, no page too heavy for a phone,
every picture with words, every public name with an entry."""
import ast
import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOP = Path(__file__).resolve().parent.parent
HOMES = ("nbs", "nbs/experiments", "nbs/experiments/reports", "tutorials")


class Links(HTMLParser):
    "What a page links to, what it loads, and the words of its pictures."
    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[tuple[str, str]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get("id"): self.anchors.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and a.get("href"): self.loads.append(a["href"])
        if tag == "img": self.words.append((a.get("src", "")[:80], a.get("alt") or ""))


@pytest.fixture(scope="module")
def pages(site): return {p: Links(p) for p in site.rglob("*.html")}


@pytest.fixture(scope="module")
def docs():
    "The program that builds the site."
    for name in ("nbformat", "latex2mathml"): pytest.importorskip(name)
    spec = importlib.util.spec_from_file_location("docs", TOP / ".ci/docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public() -> dict[str, list[str]]:
    "Public names of each module, as its `__all__` says."
    said = lambda tree: next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), [])
    return {p.stem: said(ast.parse(p.read_text(encoding="utf-8"))) for p in (TOP / "olmoearth").glob("*.py") if not p.name.startswith("_")}


def test_every_notebook_has_a_page_with_its_pictures_and_is_offered_itself(site, pages):
    for home in HOMES:
        for notebook in (TOP / home).glob("*.ipynb"):
            page = site / home / f"{notebook.stem}.html"
            offered = next(url for url in pages[page].links if url.endswith(f"{notebook.stem}.ipynb"))
            assert (page.parent / offered).read_bytes() == notebook.read_bytes()
    assert any("_images" in src for src in pages[site / "nbs/15_windows.html"].loads)


def test_no_link_is_dead_and_nothing_comes_from_outside(pages):
    dead, outside, there = [], [], {}
    for page, found in pages.items():
        for url in {*found.links, *found.loads}:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https", "mailto"):
                if url in found.loads: outside.append((page.name, url))
                continue
            if parts.scheme: continue                               # data: pictures
            key = page.parent, parts.path
            if key not in there: there[key] = target if (target := (page.parent / unquote(parts.path)).resolve() if parts.path else page).exists() else None
            target = page if not parts.path else there[key]
            if target is None: dead.append((page.name, url))
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors: dead.append((page.name, url))
    assert not dead and not outside, (dead[:10], outside[:10])


def test_pages_are_light(pages): assert not [(p.name, p.stat().st_size) for p in pages if p.stat().st_size > 2_000_000]


def test_every_picture_has_words(pages):
    "Where no words are given Sphinx writes the picture's address, which is not a description."
    bare = [(p.name, src, alt) for p, found in pages.items() for src, alt in found.words if len(alt.strip()) < 8 or "_images" in alt or re.search(r"\.(png|jpe?g|svg)$", alt)]
    assert sum(len(found.words) for found in pages.values()) > 100 and not bare, bare[:10]


def test_words_of_a_picture_come_from_the_prose_beside_it(docs):
    import nbformat
    md, drawn = nbformat.v4.new_markdown_cell, nbformat.v4.new_output("display_data", {"image/png": "", "text/html": "<img src='x'>"})
    def words(before: str, after: str) -> tuple[str, str]:
        cells = [md("# Book\n\n> about"), md(before), nbformat.v4.new_code_cell("f()", outputs=[nbformat.from_dict(drawn)]), md(after)]
        docs.pictures.with_words(cells)
        return cells[2].metadata["mystnb"]["image"]["alt"], cells[2].outputs[0].data["text/html"]
    assert words("## Part", "*In the picture:* a `river`, in [blue](x.ipynb). It bends. It ends.\n\nMore.")[0] == "a river, in blue. It bends."
    assert words("## Part\n\nNothing to see. The dots show runs.", "## Next")[0] == "Book: Part. The dots show runs."
    assert words("## Part", "## Next")[0] == "Book: Part"
    assert words("## Part", '*In the picture:* "A" & B.')[1] == "<img alt=\"&quot;A&quot; &amp; B.\" src='x'>"


def test_every_public_name_has_an_entry(site, pages):
    names = public()
    assert sum(map(len, names.values())) > 500
    lacking = [f"{module}.{name}" for module, found in names.items() for name in found if f"olmoearth.{module}.{name}" not in pages[site / f"api/{module}.html"].anchors]
    assert not lacking, lacking[:10]
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "HealthWatch" in text and "api/watch" in text


def test_an_entry_says_what_the_source_says_and_links_types_and_the_book(site, pages):
    text = re.sub(r"<[^>]+>", "", (site / "api/watch.html").read_text(encoding="utf-8"))
    assert "temperature of its loss" in text and "most: int = 512" in text and "All gauges of one step." in text
    assert "last: of a trainer" in text and " -- " not in text and not re.search(r"InputError: *$", text, re.M)
    links = pages[site / "api/watch.html"].links
    assert "trainer.html#olmoearth.trainer.Seen" in links and "samples.html#olmoearth.samples.InputError" in links
    assert any(re.fullmatch(r"\.\./nbs/13b_watch\.html#cell-\w+", url) for url in links)
    assert "../api/watch.html" in pages[site / "nbs/13b_watch.html"].links
    every = set(pages[site / "api/index.html"].links)
    assert {f"{m}.html#olmoearth.{m}.{n}" for m, found in public().items() for n in found} <= every


def test_an_entry_is_read_from_any_form_of_source(docs, tmp_path):
    (tmp_path / "b.py").write_text('"Two."\n# File to edit: ../nbs/02_b.ipynb.\n__all__ = ["Thing"]\nclass Thing(ValueError): "A *thing*."\n')
    (tmp_path / "a.py").write_text('''"One."
# File to edit: ../nbs/01_a.ipynb.
from .b import Thing as Other
__all__ = ["f", "P", "Other", "K"]
# %% ../nbs/01_a.ipynb #0abc
def f(
    x: "Other",      # (B, N), in `m`
    *,
    y: list[Other] | None = None,   # or none
    **rest: int,
) -> tuple[Other, ...]:   # as many
    "Does it. Raises Other where x is bad."
    if x: raise Other("bad")
@dataclass
class P:
    "A place."
    row: int            # from the top
    names: list = field(default_factory=list)
    @property
    def twice(self) -> int:
        "Two rows."
        return 2 * self.row
    def _hidden(self) -> None: pass
K = 3   # how many
''')
    written = docs.api.Pages(tmp_path)
    text = written.page(written.modules["a"])
    assert "f(x: olmoearth.b.Thing, *, y: list[olmoearth.b.Thing] | None = None, **rest: int) -> tuple[olmoearth.b.Thing, ...]" in text
    assert ":param x: (B, N), in \\ ``m``\\ " in text and ":returns: as many" in text and ":raises olmoearth.b.Thing:" in text and "<../nbs/01_a.html#cell-0abc>" in text
    assert "P(row: int, names: list = list())" in text and ":param row: from the top" in text and "py:property:: twice" in text and "_hidden" not in text
    assert "py:data:: K\n   :value: 3" in text and "how many" in text and "The same as :py:obj:`olmoearth.b.Thing`" in text
    assert r"A \*thing\*." in written.page(written.modules["b"])


def test_code_is_coloured_without_losing_a_character(docs):
    pytest.importorskip("pygments")
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(TOP / ".ci/site"))
    from quick import Tokens
    sources = ["%pip list\n!ls\n", "def f(:\n", "s = '''\n a\n'''\n\n\n@d\nclass A: x = f'{1}' # é\n", "\tif x:\n\t\ty\n", "x = 1 \\\n  + 2"]
    sources += ["".join(c["source"]) for c in json.loads((TOP / "nbs/07_masking.ipynb").read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    for source in sources: assert "".join(v for _, _, v in Tokens().get_tokens_unprocessed(source)) == source
    kinds = {v: str(k) for _, k, v in Tokens().get_tokens_unprocessed("@d\ndef f(self): return len('a')  # why\n")}
    assert kinds["def"] == "Token.Keyword" and kinds["f"] == "Token.Name.Function" and kinds["len"] == "Token.Name.Builtin" and kinds["# why"] == "Token.Comment.Single"


def test_links_to_colab_and_binder_appear_with_the_address_of_the_repository(docs, monkeypatch):
    monkeypatch.setenv("REPOSITORY", "https://github.com/some-one/olmo.earth.git/")
    assert docs.repository() == "https://github.com/some-one/olmo.earth"
    line = docs.launch("tutorials/02_masks.ipynb", "", docs.repository())
    assert 'href="https://colab.research.google.com/github/some-one/olmo.earth/blob/main/tutorials/02_masks.ipynb"' in line
    assert 'href="https://mybinder.org/v2/gh/some-one/olmo.earth/main?labpath=tutorials%2F02_masks.ipynb"' in line
    assert 'href="../notebooks/tutorials/02_masks.ipynb" download' in line
    assert docs.elsewhere("a.ipynb", "") == docs.elsewhere("a.ipynb", "https://example.org/a/b") == {}
    assert "some-one/olmo.earth" in docs.lessons("https://github.com/OWNER/olmoearth", docs.repository()) and docs.lessons("[99 x](99_x.ipynb)", "") == "99 x"
