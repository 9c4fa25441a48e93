"""Polygons drawn by hand, and an explorer that follows a training, in JupyterLab and Chromium."""
from browser import click_map, errors, open_notebook, run, shot, source, until, wait_for_change, wait_for_overlay
from test_browser_explorer import SCENE, at, cells, mode   # noqa: F401 (a fixture)


def draw_polygon(page, ground, corners, canvas="explorer.canvas"):
    "Press the button, click each corner, and the first again."
    page.get_by_role("button", name="polygon", exact=True).click()
    until(page, f"{canvas}._ui.pen.button.value", "True")
    for i, corner in enumerate(corners):
        click_map(page, *at(ground, *corner), canvas)
        until(page, f"len({canvas}._ui.pen.corners)", str(i + 1))
    shot(page, "polygon", ".jp-OutputArea-output .jupyter-widgets")
    click_map(page, *at(ground, *corners[0]), canvas)
    until(page, f"{canvas}._ui.pen.button.value", "False")


def test_a_polygon_drawn_by_hand_is_one_label_and_its_corners_are_none(lab, cells):   # noqa: F811
    page = lab.page(1280, 1200)
    open_notebook(page, [SCENE, 'explorer = Explorer(scene, height="420px")\nseen = []\nexplorer.canvas.on_click(lambda *a: seen.append(a[:2]))\nexplorer'])
    until(page, "explorer.cells is not None", "True")
    wait_for_overlay(page, 1)
    mode(page, "label")
    box = page.locator("input[placeholder='class, e.g. water']")
    def named(name):
        box.fill(name)
        box.press("Enter")
        until(page, "explorer.name", repr(name))
    named("water")
    click_map(page, *at(cells, 8, 21), "explorer.canvas")
    until(page, "len(explorer.labels.marks)", "1")
    assert run(page, "len(seen)") == "1"
    named("field")
    draw_polygon(page, cells, [(28, 28), (28, 42), (42, 42), (42, 28)])
    until(page, "len(explorer.labels.marks)", "2")
    page.wait_for_timeout(600)
    assert run(page, "[m.name for m in explorer.labels.marks]") == "['water', 'field']"
    assert run(page, "len(seen)") == "1", "the corners of a polygon are no clicks"
    assert run(page, "explorer.view") == "'probe'"
    named("wood")
    before = source(page, 1)
    draw_polygon(page, cells, [(5, 5), (5, 15), (15, 10)])                          # a third class changes the map
    wait_for_change(page, before, 1)
    assert not errors(page)


def test_an_explorer_follows_a_training(lab):
    page = lab.page(1280, 1200)
    open_notebook(page, ["""from olmoearth.arms import PICO
from olmoearth.explorer import Explorer
from olmoearth.live import train_live
from olmoearth.loading import Loader
from olmoearth.model import Config, OlmoEarth
from olmoearth.synthetic import World
from olmoearth.trainer import TrainConfig, Trainer
scene = World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 96, months=3, modalities=["sentinel2_l2a", "sentinel1"])
inputs = ("sentinel2_l2a", "sentinel1")
model = OlmoEarth(Config.of("nano", "v1.2", modalities=inputs, inputs=inputs, init="local", band_dropout=0., **PICO), seed=0)
trainer = Trainer(model, Loader([scene] * 8, 4, seed=0, patch_sizes=(4,), sides=(4,), budget=150, check="off", preset="single"), TrainConfig(steps=60, lr=3e-3))
maps = []""", """background = train_live(trainer)
background.pause()
explorer = Explorer(scene, background, height="420px")
explorer"""])
    until(page, "explorer.cells is not None", "True")
    wait_for_overlay(page, 1)
    before, first = source(page, 1), run(page, "explorer.cells.unit[:3].tolist()")
    run(page, "(explorer.follow(background, seconds=.2), background.resume())")
    wait_for_change(page, before, 1)                                                # the map of a model that goes on
    until(page, "background.state", "'done'")
    until(page, "explorer.current is None or explorer.current.ended.is_set()", "True")
    assert run(page, "explorer.cells.unit[:3].tolist()") != first
    assert not errors(page)
