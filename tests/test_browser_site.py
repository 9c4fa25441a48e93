"""The site in a real browser, at the widths of a desk and of a phone: it fits, it is found through, it turns dark, and it asks nothing of the network."""
import functools
import http.server
import re
import threading

import pytest
from browser import FLAGS, SECONDS, chromium

WIDE, NARROW = (1280, 900), (390, 844)
PAGES = ("nbs/index", "nbs/07_masking", "nbs/16_probes", "nbs/06a_encodings", "tutorials/02_masks", "tutorials/README", "nbs/experiments/reports/masking",
         "api/index", "api/trainer", "genindex")
STRAY = """() => { const out = [], wide = document.documentElement.clientWidth;
    for (const e of document.querySelectorAll('article *')) {
        if (e.getBoundingClientRect().right <= wide + 1) continue;
        let box = e.parentElement;
        while (box && !['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
        if (!box || box.matches('.content, .main, .page, body, html')) out.push(e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 40));
    } return out.slice(0, 3); }"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if chromium() is None: pytest.skip("no chromium on the path; apt-get install chromium")
    with api.sync_playwright() as player:
        with player.chromium.launch(executable_path=chromium(), args=FLAGS) as made: yield made


@pytest.fixture
def tab(site, browser, request):
    "An empty tab of the size that the test is called with. Afterwards: nothing in its console, no request that left the machine."
    wide, high = getattr(request, "param", WIDE)
    page = browser.new_page(viewport={"width": wide, "height": high})
    page.set_default_timeout(1000 * SECONDS)
    asked, said = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(f"pageerror: {e}"))
    page.open = lambda name: page.goto(f"{site.as_uri()}/{name}.html")
    yield page
    page.close()
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))]
    assert not said, said


sizes = pytest.mark.parametrize("tab", [WIDE, NARROW], ids=["desk", "phone"], indirect=True)


@sizes
def test_pages_fit(tab):
    for name in PAGES:
        tab.open(name)
        assert tab.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
        assert not (stray := tab.evaluate(STRAY)), (name, stray)
        assert tab.evaluate("() => [...document.images].every(i => i.complete && i.naturalWidth > 0)"), f"{name}: a picture is not drawn"


@pytest.mark.parametrize("tab", [NARROW], indirect=True)
def test_wide_things_scroll_in_their_own_box(tab):
    tab.open("nbs/07_masking")
    assert tab.evaluate("""() => [...document.querySelectorAll('article .highlight pre, article .highlight')].some(
        e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX === 'auto')""")
    tab.open("tutorials/README")
    assert tab.evaluate("() => { const t = document.querySelector('.table-wrapper'); t.scrollLeft = 50; return t.scrollLeft; }") == 50


@pytest.mark.parametrize("tab", [NARROW], indirect=True)
def test_the_list_of_pages_opens_on_a_phone(tab):
    tab.open("nbs/index")
    link = tab.locator(".sidebar-tree a", has_text=re.compile("^Masking$"))
    off = "() => document.querySelector('.sidebar-drawer').getBoundingClientRect().right <= 0"
    assert tab.evaluate(off)
    tab.locator("label.nav-overlay-icon:visible, header label[for='__navigation']:visible").first.click()
    tab.wait_for_function("() => document.querySelector('.sidebar-drawer').getBoundingClientRect().left >= 0")
    link.click()
    tab.wait_for_url("**/nbs/07_masking.html")
    here = tab.locator(".sidebar-tree .current-page > a")
    assert here.count() == 1 and here.inner_text() == "Masking" and tab.evaluate(off)


def test_the_list_of_pages_opens_where_one_is(tab):
    tab.open("api/watch")
    assert tab.locator(".sidebar-tree .current-page > a").inner_text() == "olmoearth.watch"
    tab.locator(".sidebar-tree .current-page > a").scroll_into_view_if_needed()
    assert tab.locator(".sidebar-tree .toctree-l2 a", has_text="olmoearth.tokens").is_visible()      # its part of the list is open
    tab.open("nbs/07_masking")
    assert not tab.locator(".sidebar-tree .toctree-l2 a", has_text="olmoearth.tokens").is_visible()


def look_for(tab, words: str):
    "Type into the search box, and the links found."
    box = tab.locator(".sidebar-search")
    if not box.is_visible() or tab.viewport_size["width"] < 800:
        tab.locator("header label[for='__navigation']:visible").first.click()
        tab.wait_for_function("() => document.querySelector('.sidebar-drawer').getBoundingClientRect().left >= 0")
    box.fill(words)
    box.press("Enter")
    tab.wait_for_function("() => /finished|did not match/.test(document.querySelector('.search-summary')?.textContent)")
    return tab.locator("#search-results li a")


@sizes
def test_search_finds_a_name_and_a_word(tab):
    tab.open("nbs/index")
    look_for(tab, "HealthWatch").first.click()
    tab.wait_for_url(re.compile(r"api/watch\.html.*#olmoearth\.watch\.HealthWatch"))
    assert tab.locator("dt[id='olmoearth.watch.HealthWatch']").is_visible()
    assert look_for(tab, "overcast").count() >= 1 and look_for(tab, "zzyzx quicksand").count() == 0


def test_search_finds_prose_and_shows_it_from_a_server(site, tab):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            tab.goto(f"http://127.0.0.1:{server.server_port}/nbs/index.html")
            look_for(tab, "overcast")
            link = tab.locator("#search-results li", has=tab.locator("a[href*='02_masks']")).first
            link.locator(".context").wait_for()                       # the sentence around the word
            link.locator("a").first.click()
            tab.wait_for_url("**/tutorials/02_masks.html*")
            assert "overcast" in tab.locator("article").inner_text()
        finally: server.shutdown()


@sizes
def test_dark_mode_switches_and_stays(tab):
    shade = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3"
    tab.emulate_media(color_scheme="light")
    tab.open("nbs/07_masking")
    assert tab.evaluate(shade) > 200
    button = tab.locator("button.theme-toggle:visible").first
    for _ in range(3):
        if tab.evaluate("() => document.body.dataset.theme") == "dark": break
        button.click()
    assert tab.evaluate(shade) < 60
    assert tab.evaluate("() => getComputedStyle(document.querySelector('.highlight')).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).every(v => v < 90)")
    tab.open("api/watch")
    assert tab.evaluate(shade) < 60


def test_a_type_leads_to_its_entry_and_the_entry_to_the_book(tab):
    tab.open("api/watch")
    tab.locator("dt[id='olmoearth.watch.read'] a", has_text="Seen").click()
    tab.wait_for_url("**/api/trainer.html#olmoearth.trainer.Seen")
    tab.locator("dt[id='olmoearth.trainer.Seen'] + dd a", has_text="13_trainer").first.click()
    tab.wait_for_url(re.compile(r"nbs/13_trainer\.html#cell-"))
    tab.wait_for_function("() => { const r = document.querySelector(':target').getBoundingClientRect(); return r.top > -5 && r.top < innerHeight; }", timeout=10_000)
