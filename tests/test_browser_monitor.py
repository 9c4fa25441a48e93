"The training monitor in JupyterLab and Chromium: curves that grow, buttons that act on the run, a film that moves, a folder that opens."
import numpy as np
from browser import errors, open_notebook, overlay_pixels, press, run, shot, source, until, wait_for_change, wait_for_overlay

SETUP = """from olmoearth.loading import Loader
from olmoearth.logs import Log
from olmoearth.model import Config, OlmoEarth
from olmoearth.monitor import Monitor
from olmoearth.synthetic import World
from olmoearth.trainer import TrainConfig, Trainer
from olmoearth.watch import HealthWatch
world = World(seed=1, clouds=0, missing_time=0, missing_modality=0)
tiles = [world.window(0, 64 * i, 64, months=2, modalities=["sentinel2_l2a", "sentinel1", "worldcover"]) for i in range(4)]
scene = world.window(128, 0, 96, months=2, modalities=["sentinel2_l2a", "sentinel1"])
small = Config(dim=48, depth=2, heads=4, decoder_depth=1, inputs=("sentinel2_l2a", "sentinel1"))
trainer = Trainer(OlmoEarth(small, seed=0), Loader(tiles, 4, seed=0, patch_sizes=(4,), sides=(4,), workers=0), TrainConfig(steps=400, device="cpu", dtype="float32"),
                  [HealthWatch(every=5), Log("jsonl", "kept")])"""


def test_a_run_is_watched_paused_and_stopped(lab):   # noqa: F811
    page = lab.page(1280, 1800)
    open_notebook(page, [SETUP, "m = Monitor(trainer, scene=scene, every=10, refresh=.5, start=False, check='off')\nm"])
    wait_for_overlay(page)
    button = lambda name: page.locator(f"button:has-text('{name}')").first
    assert button("pause").is_disabled()
    picture = "() => [...document.querySelectorAll('.jp-OutputArea-output img.widget-image')][0]?.src"
    empty = page.evaluate(picture)
    button("resume").click()                                                       # starts it
    until(page, "len(m.film.frames) >= 3", "True")
    page.wait_for_function("s => [...document.querySelectorAll('.jp-OutputArea-output img.widget-image')][0].src !== s", arg=empty)
    button("pause").click()
    until(page, "m.live.state", "'paused'")
    step = run(page, "m.live.step")
    page.wait_for_timeout(1200)
    assert run(page, "m.live.step") == step, "it stands still"
    page.wait_for_function("s => document.body.textContent.includes(`step ${s} of 400, paused`)", arg=step)
    top = int(run(page, "list(m.canvas.shown).index('film')"))
    wait_for_overlay(page, top)
    newest = overlay_pixels(page, top)
    before = source(page, top)
    press(page, "frame", "Home")                                                   # back to the first frame
    wait_for_change(page, before, top)
    until(page, "m.at", "0")
    assert (overlay_pixels(page, top)[..., :3] != newest[..., :3]).any() and np.isfinite(newest).all()
    assert run(page, "bool((m.canvas.shown['film'].layer.draw().image == m.film.panels()[0].image).all())") == "True"
    assert page.locator(".oe-gauges").inner_text().count("not measured") == 0
    shot(page, "monitor", ".jp-OutputArea-output:has(.oe-canvas)")
    button("resume").click()
    until(page, f"m.live.step > {step}", "True")
    button("stop").click()
    until(page, "m.live.state", "'stopped'")
    page.wait_for_function("() => document.body.textContent.includes('stopped by hand')")
    assert not errors(page)


def test_a_finished_run_opens_from_its_folder_and_a_wrong_one_is_said(lab):   # noqa: F811
    page = lab.page()
    open_notebook(page, [SETUP.replace("steps=400", "steps=12") + "\ntrainer.fit();", "m = Monitor('kept')\nm"])
    page.wait_for_function("() => document.querySelectorAll('.jp-OutputArea-output img.widget-image').length >= 1 && document.body.textContent.includes('12 steps kept')")
    assert page.locator("button:has-text('pause')").first.is_disabled()
    open_notebook(page, [SETUP, "m = Monitor('nothing')\nm"])
    page.wait_for_function("() => document.querySelector('.oe-message')?.textContent.includes('give the folder of a run')")
    assert not errors(page)
