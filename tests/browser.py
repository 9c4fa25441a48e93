"""Notebooks in a real browser: one JupyterLab and one Chromium for all tests, which drive a notebook as a hand would.

How a test uses it (the fixture `lab` comes from conftest.py):

    from browser import click_map, errors, open_notebook, overlay_pixels, press, run, shot, source, wait_for_change

    def test_something(lab):
        page = lab.page()                                    # an empty tab of the browser, closed after the test, its kernel shut down
        open_notebook(page, ["from olmoearth.explorer import Explorer\\n...", "explorer = Explorer(scene)\\nexplorer"])   # written, opened, run, idle
        pixels = overlay_pixels(page, 0)                     # (h, w, 4) uint8 of the first picture on the map, as the browser has it
        before = source(page, 0)
        press(page, "date", "ArrowRight")                    # focus the slider described as "date", press a key
        wait_for_change(page, before, 0)                     # until the picture is another one
        click_map(page, lat, lon)                            # where the map shows that place
        assert run(page, "explorer.canvas.message") == "''"  # repr of an expression, from the kernel
        shot(page, "explorer")                               # docs picture, only where OLMOEARTH_SHOTS names a folder
        assert not errors(page)                              # kernel log and browser console, but for the harmless lines

Tests that need it skip, with the reason, where playwright or a Chromium is absent. No network: all goes over 127.0.0.1.
"""
import asyncio
import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest

TOP = Path(__file__).resolve().parent.parent
SECONDS = float(os.environ.get("OLMOEARTH_BROWSER_SECONDS", 120))    # for anything to happen, on a slow machine
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage",
         "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]            # no network, also where there is one; then all look-ups fail in the same words
HARMLESS = re.compile("|".join([                                                 # anything else in the console fails a test
    r"ERR_NAME_NOT_RESOLVED \(https://cdn\.holoviz\.org/panel/",                 # panel looks for its stylesheets; the plots do without
    r"es-module-shims",                                                          # and for a help of old browsers
    r"Unsatisfied version \S+ from jupyter-leaflet of shared singleton module leaflet",   # ipyleaflet's package asks for an older leaflet than it ships
    # JupyterLab says this of any plugin, its own too, that took more than 5 s of the clock to start. Those seconds are a constant in its code, and what is too slow is
    # the machine: it runs other tests meanwhile.
    r"^warning: Plugin \S+ (is taking too long|\(with \d+ dependants\) took [\d.]+ms) to activate\. \(http://127\.0\.0\.1:\d+/static/lab/"]))
IDLE = "() => window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'"


def chromium() -> str | None:
    "Path of a Chromium; None: there is none."
    return next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


def free_port() -> int:
    "A port on the loopback that nobody listens on."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Lab:
    "A JupyterLab and a browser."
    def __init__(self, home: Path):
        from playwright.sync_api import sync_playwright
        self.home, self.port, self.pages = home, free_port(), []
        env = os.environ | {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
                            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                            "IPYTHONDIR": str(home / "ipython"), "PYTHONPATH": str(TOP), "OLMOEARTH_OFFLINE": "true", "OMP_NUM_THREADS": "1",
                            "OLMOEARTH_DEVICE": "cpu"}
        env.pop("MPLBACKEND", None)
        (home / "work").mkdir()
        news = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        news.parent.mkdir(parents=True)
        news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
        self.log = home / "lab.log"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0",
             "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
             "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly", f"--ServerApp.root_dir={home / 'work'}"],
            env=env, cwd=home, stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        self.player = sync_playwright().start()
        self.loop = asyncio.get_running_loop()     # Playwright leaves its own one marked as running, which everything else in this process would see
        self.browser = self.player.chromium.launch(executable_path=chromium(), args=FLAGS)
        self._wait()
        self.leave()

    def enter(self) -> None:
        "Before Playwright is used."
        asyncio._set_running_loop(self.loop)

    def leave(self) -> None:
        "Afterwards: no loop runs here."
        asyncio._set_running_loop(None)

    def _wait(self) -> None:
        "Until the server answers."
        end = time.time() + SECONDS
        while time.time() < end:
            try:
                self.ask("api/status")
                return
            except OSError: time.sleep(.1)
            if self.server.poll() is not None: raise RuntimeError(f"JupyterLab ended:\n{self.log.read_text()[-3000:]}")
        raise RuntimeError(f"JupyterLab does not answer:\n{self.log.read_text()[-3000:]}")

    def ask(self, path: str, method: str = "GET"):
        "The server's REST interface."
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer: return json.loads(answer.read() or b"null")

    def page(self, width: int = 1280, height: int = 900):
        "An empty tab."
        page = self.browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * SECONDS)
        page.lab, page.console, page.log_from = self, [], self.log.stat().st_size
        page.on("console", lambda m: page.console.append(f"{m.type}: {m.text} ({m.location.get('url', '')})") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: page.console.append(f"pageerror: {e}"))
        self.pages.append(page)
        return page

    def tidy(self) -> None:
        "Close tabs, shut kernels down."
        for page in self.pages: page.close()
        self.pages.clear()
        for kernel in self.ask("api/kernels"): self.ask(f"api/kernels/{kernel['id']}", "DELETE")

    def close(self) -> None:
        "The end."
        self.enter()
        self.browser.close()
        self.player.stop()
        self.leave()
        self.server.terminate()
        try: self.server.wait(10)
        except subprocess.TimeoutExpired: self.server.kill()


@pytest.fixture(scope="session")
def the_lab(tmp_path_factory):
    "One JupyterLab and one browser for the whole session."
    for module in ("playwright.sync_api", "jupyterlab", "ipyleaflet", "leafmap"): pytest.importorskip(module, reason=f"{module} is not installed")
    if chromium() is None: pytest.skip("no chromium on the path; apt-get install chromium")
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def lab(the_lab):
    "The JupyterLab, tidied after the test."
    the_lab.enter()
    yield the_lab
    the_lab.tidy()
    the_lab.leave()


def open_notebook(page, cells: list[str], name: str = "") -> None:
    "Write a notebook of these code cells, open it in a workspace of its own, run all cells and wait until the kernel is idle. Fails on an error in a cell."
    import nbformat
    name = name or f"n{uuid.uuid4().hex[:8]}"
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=kernel), page.lab.home / "work" / f"{name}.ipynb")
    page.goto(f"http://127.0.0.1:{page.lab.port}/lab/workspaces/{name}/tree/{name}.ipynb")
    page.wait_for_function(IDLE)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")
    page.wait_for_function(IDLE)
    assert not (bad := cell_errors(page)), "\n".join(bad)


def cell_errors(page) -> list[str]:
    "Tracebacks in the notebook's cells."
    found = page.evaluate("""() => { const out = []; for (const c of window.jupyterapp.shell.currentWidget.content.model.cells)
        for (const o of (c.toJSON().outputs || [])) if (o.output_type === 'error') out.push(o.ename + ': ' + o.evalue + ' ' + o.traceback.join(' ')); return out; }""")
    return [re.sub(r"\x1b\[[0-9;]*m", "", t) for t in found]


def run(page, code: str) -> str:
    "The repr of a Python expression, asked from the notebook's kernel."
    return page.evaluate("""async code => { const k = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
        const f = k.requestExecute({code: '', silent: false, store_history: false, user_expressions: {it: code}});
        const r = await f.done; const v = r.content.user_expressions.it; return v.status === 'ok' ? v.data['text/plain'] : v.ename + ': ' + v.evalue; }""", code)


def overlay(page, index: int = 0):
    "The image element of the index-th picture on the map, the lowest first."
    return page.locator(".leaflet-image-layer").nth(index)


def source(page, index: int = 0) -> str:
    "The text that a picture travelled as."
    return overlay(page, index).get_attribute("src")


def wait_for_overlay(page, index: int = 0) -> None:
    "Until a picture is on the map and painted."
    page.wait_for_function("i => { const e = document.querySelectorAll('.leaflet-image-layer')[i]; return e && e.complete && e.naturalWidth > 1; }", arg=index)


def wait_for_change(page, before: str, index: int = 0) -> float:
    "Until the picture is another one and painted; seconds that took."
    start = time.perf_counter()
    page.wait_for_function("""([i, s]) => { const e = document.querySelectorAll('.leaflet-image-layer')[i];
        return e && e.getAttribute('src') !== s && e.complete && e.naturalWidth > 1; }""", arg=[index, before])
    return time.perf_counter() - start


def overlay_pixels(page, index: int = 0) -> np.ndarray:
    "A picture on the map as the browser decoded it, (h, w, 4) uint8."
    import matplotlib.image
    wait_for_overlay(page, index)
    url = page.evaluate("""i => { const e = document.querySelectorAll('.leaflet-image-layer')[i]; const c = document.createElement('canvas');
        c.width = e.naturalWidth; c.height = e.naturalHeight; c.getContext('2d').drawImage(e, 0, 0); return c.toDataURL('image/png'); }""", index)
    return (matplotlib.image.imread(io.BytesIO(base64.b64decode(url.split(",")[1]))) * 255).round().astype(np.uint8)


def screen_pixels(page) -> np.ndarray:
    "What is on the screen, (h, w, 3) uint8."
    import matplotlib.image
    return (matplotlib.image.imread(io.BytesIO(page.screenshot()))[..., :3] * 255).round().astype(np.uint8)


def map_box(page) -> dict:
    "Where the map is on the screen: x, y, width, height in pixels."
    page.locator(".leaflet-container").first.scroll_into_view_if_needed()
    return page.locator(".leaflet-container").first.bounding_box()


def on_map(page, lat: float, lon: float, canvas: str = "canvas") -> tuple[float, float]:
    "Where on the screen a place is, by the bounds that the kernel knows. `canvas` is the name of the Canvas in the notebook: 'canvas', 'lab.canvas'."
    import ast
    box = map_box(page)
    (s, w), (n, e) = ast.literal_eval(run(page, f"[[float(v) for v in p] for p in {canvas}._ui.map.bounds]"))
    y = lambda v: np.arctanh(np.sin(np.radians(v)))
    return box["x"] + (lon - w) / (e - w) * box["width"], box["y"] + (y(n) - y(lat)) / (y(n) - y(s)) * box["height"]


def click_map(page, lat: float, lon: float, canvas: str = "canvas") -> None:
    "Click a place on the map."
    page.mouse.click(*on_map(page, lat, lon, canvas))


def handle(page, label: str):
    "The handle of the slider with this description."
    return page.locator(f".widget-hslider:has(> .widget-label:text-is('{label}')) .noUi-handle").first


def press(page, label: str, key: str = "ArrowRight", times: int = 1) -> None:
    "Focus the slider with this description and press a key."
    handle(page, label).focus()
    for _ in range(times): page.keyboard.press(key)


def choose(page, label: str, option: str) -> None:
    "Choose an option of a drop-down list, found by its description or tooltip."
    ways = f".widget-dropdown:has(.widget-label:text-is('{label}')) select", f".widget-dropdown select[title='{label}']", f".widget-dropdown[title='{label}'] select"
    page.locator(", ".join(ways)).first.select_option(label=option)


def until(page, expression: str, wanted: str, seconds: float = 0) -> None:
    "Until an expression has this repr in the kernel."
    end = time.time() + (seconds or SECONDS)
    while (got := run(page, expression)) != wanted:
        assert time.time() < end, f"{expression} is {got}, not {wanted}"
        time.sleep(.05)


def errors(page) -> list[str]:
    "What is wrong in the notebook's cells, the kernel's and server's log and the browser's console, without the harmless lines."
    with page.lab.log.open() as f:
        f.seek(page.log_from)
        log = [line.strip() for line in f if re.match(r"\[[EC] |Traceback|\w*(Error|Exception)\b|.*\bERROR\b", line)]
    return cell_errors(page) + [line for line in [*page.console, *log] if not HARMLESS.search(line)]


def shot(page, name: str, selector: str = ".jp-OutputArea-output .oe-canvas") -> None:
    "Save a picture for the docs, where OLMOEARTH_SHOTS names a folder."
    if not (folder := os.environ.get("OLMOEARTH_SHOTS")): return
    Path(folder).mkdir(parents=True, exist_ok=True)
    page.locator(selector).first.screenshot(path=str(Path(folder) / f"{name}.png"))
