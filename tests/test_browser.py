"""The canvas in JupyterLab and Chromium: pictures at their place, hands that change them through the kernel, nothing in the logs."""
import ast
import hashlib

import numpy as np
import pytest
from browser import choose, click_map, errors, map_box, on_map, open_notebook, overlay_pixels, press, run, screen_pixels, shot, source, until, wait_for_change, wait_for_overlay

from olmoearth.layers import BandLayer, ClassLayer, RGBLayer
from olmoearth.parts import place_of
from olmoearth.screen import on_screen
from olmoearth.synthetic import World

NOTEBOOK = ["""import numpy as np
from olmoearth.canvas import Canvas
from olmoearth.layers import BandLayer
from olmoearth.synthetic import World
sample = World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 96, months=3, modalities=["sentinel2_l2a", "srtm"])
canvas = Canvas(sample, height="420px", credit="simulated Earth")
clicks, boxes = [], []
canvas.on_click(lambda *at: (clicks.append(at[:2]), canvas.say(f"clicked {at[:2]}")))
canvas.on_box(lambda *at: (boxes.append(at), canvas.say(f"box {at}")))
canvas"""]
LARGE = ["""import numpy as np
from olmoearth.canvas import Canvas
from olmoearth.layers import BandLayer
rows, cols = np.mgrid[:3000, :3000]
steps = BandLayer(((rows // 300 + cols // 300) % 7 + .5 * (rows % 2)).astype(np.float32), "viridis", "m", name="Steps", crs="EPSG:32632", transform=(10, 0, 3e5, 0, -10, 5.4e6))
canvas = Canvas([steps, BandLayer(np.ones((4, 4)), name="Bare array")], height="420px")
canvas.on_click(lambda *at: 1 / 0)
canvas"""]


@pytest.fixture(scope="module")
def sample():
    return World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 96, months=3, modalities=["sentinel2_l2a", "srtm"])


def same_pixels(page, index, layer):
    "The browser has the core's picture to the bit, where there is something to see."
    image = on_screen(layer)[0]
    seen = image[..., 3] > 0
    np.testing.assert_array_equal(overlay_pixels(page, index)[seen], image[seen])


def same_colour(page, layer, *pixels):
    "The screen shows the layer's colours at the places of these pixels."
    page.wait_for_timeout(500)                                                     # the browser fades and paints
    seen, image = screen_pixels(page), layer.draw().image
    for row, col in pixels:
        x, y = on_map(page, *place_of(layer, row, col))
        np.testing.assert_allclose(seen[int(y), int(x)].astype(int), image[row, col, :3], atol=3, err_msg=f"pixel {row}, {col}")


def shown_date(page, sample):
    return RGBLayer(sample, int(run(page, "canvas.shown['Sentinel-2'].layer.time")))


def test_a_canvas_shows_its_layers_and_obeys_the_hand(lab, sample):
    page = lab.page()
    open_notebook(page, NOTEBOOK)
    wait_for_overlay(page)
    first = shown_date(page, sample)
    same_pixels(page, 0, first)
    same_colour(page, first, (20, 20), (48, 70), (80, 30))

    before = source(page)                                                          # a slider
    press(page, "date", "ArrowRight" if first.time < 2 else "ArrowLeft")
    wait_for_change(page, before)
    later = shown_date(page, sample)
    assert later.time != first.time
    same_pixels(page, 0, later)

    click_map(page, *place_of(first, 30, 40))                                      # a click
    until(page, "clicks", "[(30, 40)]")
    page.wait_for_function("() => document.querySelector('.oe-message').textContent.includes('clicked (30, 40)')")

    x, y = on_map(page, *place_of(first, 50, 60))                                  # the cursor
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.wait_for_function("t => document.querySelector('.oe-readout')?.textContent.includes(t)", arg=later.read(50, 60))

    page.locator(".leaflet-draw-draw-rectangle").click()                           # a box
    a, b = on_map(page, *place_of(first, 10, 20)), on_map(page, *place_of(first, 39, 59))
    page.mouse.move(*a)
    page.mouse.down()
    page.mouse.move((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    page.mouse.move(*b)
    page.mouse.up()
    until(page, "len(boxes)", "1")
    row, col, height, width = ast.literal_eval(run(page, "boxes[0]"))
    assert abs(row - 10) <= 2 and abs(col - 20) <= 2 and abs(height - 30) <= 3 and abs(width - 40) <= 3
    assert run(page, "clicks") == "[(30, 40)]", "drawing a box is no click"
    shot(page, "canvas")

    choose(page, "layer", "Land cover")                                            # another layer, faded
    page.wait_for_function("() => !document.querySelector('.oe-canvas input[type=checkbox]').checked")
    before = source(page, 2)
    page.locator(".oe-canvas input[type=checkbox]").check()
    wait_for_change(page, before, 2)
    cover = ClassLayer(sample.labels["land_cover"], like=sample)
    same_pixels(page, 2, cover)
    assert page.locator(".oe-canvas").get_by_text(next(iter(cover.legend)), exact=True).count() == 1
    press(page, "opacity", "ArrowLeft", 8)
    page.wait_for_function("() => Math.abs(document.querySelectorAll('.leaflet-image-layer')[2].style.opacity - .6) < .001")
    press(page, "opacity", "End")
    until(page, "canvas.shown['Land cover'].opacity", "1.0")

    before = source(page, 2)                                                       # left of the divider one layer, right of it the other
    choose(page, "the layer that is seen right of the divider", "right: Land cover")
    wait_for_change(page, before, 2)
    same_colour(page, later, (40, 20))
    same_colour(page, cover, (40, 76))
    before = source(page, 2)
    press(page, "divider", "ArrowRight", 10)
    wait_for_change(page, before, 2)
    shot(page, "swipe")
    assert not errors(page)


def test_a_large_scene_is_drawn_for_the_view_and_what_is_wrong_is_said(lab):
    page = lab.page()
    open_notebook(page, LARGE)
    wait_for_overlay(page)
    assert "Bare array has no place on Earth; give it one" in page.locator(".oe-message").inner_text()
    box, before = map_box(page), source(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    wait_for_change(page, before)
    until(page, "canvas.shown['Steps'].drawn_for is not None", "True")
    shown, whole = (ast.literal_eval(run(page, f"[[float(v) for v in p] for p in {b}]")) for b in ("canvas.shown['Steps'].bounds", "canvas.bounds"))
    assert shown[1][0] - shown[0][0] < .8 * (whole[1][0] - whole[0][0]), "a part only"
    rows, cols = np.mgrid[:3000, :3000]
    values = ((rows // 300 + cols // 300) % 7 + .5 * (rows % 2)).astype(np.float32)
    steps = BandLayer(values, "viridis", "m", name="Steps", crs="EPSG:32632", transform=(10, 0, 3e5, 0, -10, 5.4e6))
    view = ast.literal_eval(run(page, "[[float(v) for v in p] for p in canvas.shown['Steps'].drawn_for]"))
    image, bounds = on_screen(steps, tuple(map(tuple, view)), 1024)
    np.testing.assert_allclose(bounds, shown, atol=1e-9)
    digest = lambda a: hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()
    assert run(page, "__import__('hashlib').sha256(np.ascontiguousarray(canvas.shown['Steps'].image).tobytes()).hexdigest()") == repr(digest(image))
    got = overlay_pixels(page)                                                      # as WebP, which is not exact
    apart = np.abs(got[image[..., 3] > 0].astype(int) - image[image[..., 3] > 0])
    assert got.shape == image.shape and apart.mean() < 4 and np.percentile(apart, 95) < 16
    page.mouse.click(x, y)
    page.wait_for_function("() => document.querySelector('.oe-message').textContent.includes('ZeroDivisionError')")
    before = source(page)
    page.mouse.wheel(0, 300)                                                       # and the map goes on
    wait_for_change(page, before)
    shot(page, "large")
    assert not errors(page)
