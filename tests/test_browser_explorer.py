"""The embedding explorer in JupyterLab and Chromium: the core's pixels on the map, clicks that ask and teach through the kernel, how long a click takes."""
import ast
import time

import numpy as np
import pytest
from browser import (choose, click_map, errors, on_map, open_notebook, overlay_pixels, run, shot, source, until, wait_for_change, wait_for_overlay)
from olmoearth.explorer_core import Cells, colours, fit_colours, paint, similarity
from olmoearth.explorer_parts import Recipe, embed_watched
from olmoearth.explorer_probe import lonlat_of
from olmoearth.layers import PanelLayer
from olmoearth.screen import on_screen
from olmoearth.synthetic import World

SCENE = """from olmoearth.explorer import Explorer
from olmoearth.synthetic import World
scene = World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 192, months=3, modalities=["sentinel2_l2a", "sentinel1"])"""


@pytest.fixture(scope="module")
def cells():
    world = World(seed=0, clouds=0, missing_time=0, missing_modality=0)
    return Cells.of(embed_watched(world.window(0, 0, 192, months=3, modalities=["sentinel2_l2a", "sentinel1"]), Recipe()))


def on_the_map(panel, page, index=1, atol=0):
    "Whether a picture on the map is this one."
    image = on_screen(PanelLayer(panel, "x"))[0]
    got = overlay_pixels(page, index)
    there = image[..., 3] == 255
    assert got.shape == image.shape
    assert np.abs(got[there].astype(int) - image[there]).max() <= atol


def at(cells, row, col):
    "Latitude and longitude of a cell."
    lon, lat = lonlat_of(cells, row, col)[0]
    return lat, lon


def mode(page, name):
    "Press one of the buttons of `click:`."
    page.locator(".widget-toggle-buttons button", has_text=name).first.click()
    until(page, "explorer.mode", repr(name))


def test_an_explorer_embeds_shows_asks_and_learns(lab, cells):
    page = lab.page(1280, 1200)
    open_notebook(page, [SCENE, 'explorer = Explorer(scene, height="420px", credit="simulated Earth")\nexplorer'])
    wait_for_overlay(page)                                                       # true colour is there before the embedding
    until(page, "explorer.cells is not None", "True")
    wait_for_overlay(page, 1)
    on_the_map(colours(cells, fit_colours(cells)), page, atol=1)                   # the core's colours

    mode(page, "positive")
    before = source(page, 1)
    click_map(page, *at(cells, 8, 21), "explorer.canvas")
    wait_for_change(page, before, 1)
    until(page, "explorer.view", "'similarity'")
    on_the_map(paint(cells, similarity(cells, [cells.at(8, 21)]), 0, 1), page)
    page.wait_for_function("() => document.querySelectorAll('.oe-strip img').length === 13 && document.querySelectorAll('.oe-chart svg').length === 2")
    shot(page, "explorer_similarity", ".jp-OutputArea-output .jupyter-widgets")

    mode(page, "label")
    click_map(page, *at(cells, 8, 21), "explorer.canvas")                          # without a class: said
    page.wait_for_function("() => document.querySelector('.oe-message').textContent.includes('a label needs a class')")
    for name, spots in (("water", [(8, 21)]), ("field", [(40, 30), (20, 40)])):
        box = page.locator("input[placeholder='class, e.g. water']")
        box.fill(name)
        box.press("Enter")
        until(page, "explorer.name", repr(name))
        for spot in spots: click_map(page, *at(cells, *spot), "explorer.canvas")
    until(page, "explorer.view, len(explorer.labels.marks)", "('probe', 3)")
    page.wait_for_timeout(500)
    panel = ast.literal_eval(run(page, "explorer._panel.image.tolist()"))
    on_the_map(type(colours(cells))(np.array(panel, np.uint8), "probe", {}, cells.crs, cells.transform), page)
    assert page.locator(".oe-canvas").get_by_text("water", exact=True).count() >= 1
    shot(page, "explorer_probe", ".jp-OutputArea-output .jupyter-widgets")

    choose(page, "view", "uncertainty")
    until(page, "explorer.view", "'uncertainty'")
    choose(page, "view", "disagreement")                                         # not there yet: said, and the chooser goes back
    page.wait_for_function("() => document.querySelector('.oe-message').textContent.includes('press compare')")
    until(page, "explorer._tools.view.value", "'uncertainty'")

    page.get_by_text("compare with, files, device").click()
    choose(page, "patch", "8 px")
    page.get_by_role("button", name="compare", exact=True).click()
    until(page, "explorer.canvas.swiped", "'compared'")
    page.wait_for_timeout(500)
    shot(page, "explorer_compare", ".jp-OutputArea-output .jupyter-widgets")
    assert not errors(page)


def test_the_cloud_opens_and_its_lasso_marks_cells(lab, cells):
    page = lab.page(1280, 1500)
    open_notebook(page, [SCENE, 'explorer = Explorer(scene, height="360px")\nexplorer'])
    until(page, "explorer.cells is not None", "True")
    page.get_by_role("button", name="cloud of points").click()
    until(page, "explorer.cloud is not None", "True")
    plot = page.locator(".bk-Figure").first                                      # in a shadow tree, which locators see
    plot.wait_for()
    plot.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    box = plot.bounding_box()
    x, y, w, h = box["x"] + 60, box["y"] + 50, box["width"] - 90, box["height"] - 110
    page.mouse.move(x, y)
    page.mouse.down()
    for dx, dy in ((.5, 0), (.5, .5), (.5, 1), (.2, 1), (0, 1), (0, .5), (0, .1)): page.mouse.move(x + dx * w, y + dy * h, steps=4)
    page.mouse.up()
    until(page, "'selected' in explorer.canvas.shown", "True")
    page.wait_for_timeout(500)
    share = float(run(page, "float((explorer.canvas.shown['selected'].layer.panel.image[..., 3] > 0).mean())"))
    assert .05 < share < .95
    shot(page, "explorer_cloud", ".jp-OutputArea-output .jupyter-widgets")
    assert not errors(page)


def test_a_click_is_painted_soon(lab, capsys):
    page = lab.page()
    open_notebook(page, ["""import numpy as np, xarray as xr, rioxarray
from rasterio.transform import Affine
from olmoearth.explorer import Explorer
from olmoearth.explorer_core import smooth_fields
from olmoearth.samples import centres
t = (40.0, 0, 300000.0, 0, -40.0, 5400000.0)
e = xr.DataArray(smooth_fields(500, 500, 128), centres(t, 500, 500), ("y", "x", "feature")).rio.write_crs("EPSG:32632").rio.write_transform(Affine(*t))
explorer = Explorer(e, height="420px")
explorer.mode = "positive"
explorer"""])
    wait_for_overlay(page)
    page.wait_for_timeout(1000)
    cells = Cells(np.zeros((1, 1)), np.ones(1), np.zeros(1), np.zeros(1), (500, 500), "EPSG:32632", (40., 0, 300000., 0, -40., 5400000.))
    took = []
    for i in range(11):
        x, y = on_map(page, *at(cells, 60 + 35 * i, 120 + 25 * i), "explorer.canvas")
        run(page, "explorer.wanted.clear()")
        before = source(page)
        start = time.perf_counter()
        page.mouse.click(x, y)
        wait_for_change(page, before)
        took.append(time.perf_counter() - start)
    with capsys.disabled(): print(f"\nclick to painted overlay, 250,000 vectors: median of {len(took) - 1}: {1000 * np.median(took[1:]):.0f} ms")
    assert ast.literal_eval(run(page, "len(explorer.wanted)")) == 1
    assert not errors(page)
