"""The site: every page there, every link on it led somewhere, nothing asked of the network, no page too heavy for a phone."""
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOP = Path(__file__).resolve().parent.parent
pytest.importorskip("sphinx", reason="the extra docs is not installed: the site is not built")


class Links(HTMLParser):
    "What a page links to, and what it loads."
    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get("id"): self.anchors.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and a.get("href"): self.loads.append(a["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run([sys.executable, str(TOP / ".ci/docs.py"), str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]                 # a reference without a target is an error there
    return {p: Links(p) for p in (folder / "html").rglob("*.html")}


def test_every_notebook_has_a_page_with_its_pictures(site):
    stems = {p.stem for p in site}
    for home in ("nbs", "nbs/experiments", "nbs/experiments/reports", "tutorials"):
        assert {p.stem for p in (TOP / home).glob("*.ipynb")} <= stems
    windows = next(v for p, v in site.items() if p.stem == "15_windows")
    assert any("_images" in src for src in windows.loads)


def test_no_link_is_dead_and_nothing_comes_from_outside(site):
    dead, outside = [], []
    for page, found in site.items():
        for url in [*found.links, *found.loads]:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https", "mailto"):
                if url in found.loads: outside.append((page.name, url))
                continue
            if parts.scheme: continue                               # data: pictures
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists(): dead.append((page.name, url))
            elif parts.fragment and target in site and unquote(parts.fragment) not in site[target].anchors: dead.append((page.name, url))
    assert not dead and not outside, (dead[:10], outside[:10])


def test_pages_are_light(site): assert not [(p.name, p.stat().st_size) for p in site if p.stat().st_size > 2_000_000]
