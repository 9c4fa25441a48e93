"The prediction map in JupyterLab and Chromium: its picture at its place, a list and a slider that change it, a box that is predicted, words for what is wrong."
import ast

import numpy as np
from browser import (choose, errors, on_map, open_notebook, overlay_pixels, run, screen_pixels, shot, source, until,
                     wait_for_change, wait_for_overlay)

from olmoearth.boxes import blank, box_scores, fill_box
from olmoearth.parts import place_of
from olmoearth.prediction_core import MapLayer, truth_of
from olmoearth.screen import on_screen
from olmoearth.sources import open_scene

SETUP = """import numpy as np
from olmoearth.prediction_map import PredictionMap
from olmoearth.predictors import ProbePredictor
from olmoearth.pretrained import load
from olmoearth.samples import Label
from olmoearth.synthetic import World
scene = World(seed=4, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 96, months=1, modalities=["sentinel2_l2a"])
truth = scene.labels["land_cover"]
half = Label(np.where(np.arange(96)[None] < 64, truth.values.astype(int), -1), truth.classes, (-1,))
import warnings; warnings.simplefilter("ignore")
probe = ProbePredictor.fit(load("sim-nano"), scene, half)"""


def test_a_prediction_is_shown_changed_compared_and_redrawn(lab):   # noqa: F811
    names: dict = {}
    exec(SETUP, names)                                                            # the same here
    scene, probe = names["scene"], names["probe"]
    p, box = blank(open_scene(scene), probe.facts), (0, 0, 96, 96)
    fill_box(p, box, box_scores(open_scene(scene), probe, box))
    truth = truth_of(names["truth"], probe.facts, scene.shape)
    page = lab.page(1280, 1150)
    open_notebook(page, [SETUP, "m = PredictionMap(scene, probe, 'land_cover', height='420px')\nm"])
    wait_for_overlay(page, 0)
    top = int(run(page, "list(m.canvas.shown).index('map')"))

    before = source(page, top)
    page.locator("button:has-text('predict all')").click()                         # work in a thread, back on the map
    wait_for_change(page, before, top)
    image = on_screen(MapLayer(p, "classes"))[0]
    np.testing.assert_array_equal(overlay_pixels(page, top)[image[..., 3] > 0], image[image[..., 3] > 0])
    page.wait_for_function("() => document.querySelector('.oe-scores')?.textContent.includes('labelled px are right')")
    page.wait_for_timeout(500)
    layer = MapLayer(p, "classes")
    for row, col in ((20, 20), (48, 70), (80, 30)):                                # ... at its place on the screen
        x, y = on_map(page, *place_of(layer, row, col), "m.canvas")
        around = layer.draw().image[row - 1:row + 2, col - 1:col + 2, :3].reshape(-1, 3).astype(int)
        assert np.abs(around - screen_pixels(page)[int(y), int(x)].astype(int)).max(1).min() <= 3

    before = source(page, top)
    choose(page, "layer", "confusion, label → map")                                # a list
    wait_for_change(page, before, top)
    image = on_screen(MapLayer(p, "confusion", truth))[0]
    np.testing.assert_array_equal(overlay_pixels(page, top)[image[..., 3] > 0], image[image[..., 3] > 0])
    before = source(page, top)
    choose(page, "class", "cropland")
    wait_for_change(page, before, top)
    shot(page, "prediction_confusion", ".jp-OutputArea-output:has(.oe-canvas)")

    page.locator(".leaflet-draw-draw-rectangle").click()                           # a box: predicted there
    a, b = on_map(page, *place_of(layer, 20, 20), "m.canvas"), on_map(page, *place_of(layer, 59, 69), "m.canvas")
    page.mouse.move(*a); page.mouse.down(); page.mouse.move((a[0] + b[0]) / 2, (a[1] + b[1]) / 2); page.mouse.move(*b); page.mouse.up()
    until(page, "len(m.boxes)", "2")
    what, row, col, height, width = ast.literal_eval(run(page, "m.boxes[1]"))
    assert what == "predict" and abs(row - 20) <= 2 and abs(col - 20) <= 2 and abs(height - 40) <= 3 and abs(width - 50) <= 3
    before = source(page, top)
    page.locator("button:has-text('tiling')").click()
    wait_for_change(page, before, top)
    until(page, "m.layer", "'instability'")
    page.locator("button:has-text('export')").click()
    until(page, "m.canvas.message.startswith('wrote classes.tif')", "True")
    shot(page, "prediction_tiling", ".jp-OutputArea-output:has(.oe-canvas)")

    count = int(run(page, "m.scores.n"))
    run(page, "setattr(m.canvas._ui.map, 'zoom', m.canvas._ui.map.zoom + 2)")       # zoom in: fewer labels are in view
    page.wait_for_function("n => !document.querySelector('.oe-scores').textContent.includes(n)", arg=f"{count:,} labelled")
    until(page, f"m.scores.n < {count}", "True")
    assert not errors(page)


def test_what_does_not_fit_is_said_in_the_widget(lab):   # noqa: F811
    page = lab.page()
    open_notebook(page, [SETUP, "m = PredictionMap(scene, probe, Label(np.zeros((5, 5), int), {0: 'water'}))\nm"])
    page.wait_for_function("() => document.querySelector('.oe-message')?.textContent.includes('read_labels(labels, scene)')")
    page.locator("button:has-text('predict all')").click()
    until(page, "int((m.prediction.read('classes') != 255).sum())", "9216")
    assert not errors(page)
