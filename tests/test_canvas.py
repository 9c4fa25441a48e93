"""Layers, canvas and desk without a browser: place, size, faults, memory, and that no port is opened."""
import asyncio
import json
import socket
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from olmoearth.canvas import Canvas
from olmoearth.desk import Desk, DeviceChooser, fit_memory
from olmoearth.layers import BandLayer, ClassLayer, PanelLayer, PcaLayer, RGBLayer, VectorLayer, layers_of
from olmoearth.maps import Panel, rgb
from olmoearth.parts import bounds_of, of_file, of_xarray, pixel_at, place_of, window_in
from olmoearth.samples import InputError, Label, Sample
from olmoearth.screen import blend, image_url, on_screen
from olmoearth.sources import write_store
from olmoearth.stacks import write_geotiffs
from olmoearth.synthetic import World

UTM = {"crs": "EPSG:32632", "transform": (10, 0, 300000, 0, -10, 5400000)}
CLASSES = {0: "land", 1: "water"}


@pytest.fixture(scope="module")
def sample():
    return World(seed=0, clouds=0, missing_time=0, missing_modality=0).window(0, 0, 96, months=3, modalities=["sentinel2_l2a", "srtm"])


@pytest.mark.parametrize("seed", range(8))
def test_a_strided_window_covers_its_pixels_exactly_and_lies_where_they_do(seed):
    r = np.random.default_rng(seed)
    h, w = r.integers(5, 90, 2)
    row, col = int(r.integers(0, h)), int(r.integers(0, w))
    window = (row, col, int(r.integers(1, h - row + 1)), int(r.integers(1, w - col + 1)))
    values = np.arange(h * w).reshape(h, w)
    layer = BandLayer(values, lo=0, hi=255, **UTM)
    panel = layer.draw(window, size := int(r.integers(1, 60)))
    rows, cols = panel.image.shape[:2]
    a, _, c, _, e, f = panel.transform
    assert max(rows, cols) <= size
    assert np.isclose(c, 300000 + 10 * window[1]) and np.isclose(f, 5400000 - 10 * window[0])
    assert np.isclose(a * cols, 10 * window[3]) and np.isclose(e * rows, -10 * window[2])
    i, j = int(r.integers(rows)), int(r.integers(cols))                            # the middle of a cell lies in the pixel that was taken
    lat, lon = place_of(panel_grid(panel), i, j)
    taken = layer.numbers.read(layer_window(layer, window), (rows, cols))[i, j, 0]
    assert values[pixel_at(layer, lat, lon)] == taken


def panel_grid(panel): return PanelLayer(panel, "panel")


def layer_window(layer, window):
    from olmoearth.parts import inside
    return inside(window, layer.shape)


@pytest.mark.parametrize("place", [UTM, {"crs": "EPSG:32719", "transform": (20, 0, 400000, 0, -20, 6200000)}, {"crs": "EPSG:4326", "transform": (1e-4, 0, -6.0, 0, -1e-4, 37.5)},
                                   {"crs": "EPSG:32632", "transform": (8, 3, 300000, 3, -8, 5400000)}])
def test_places_and_pixels_are_inverse_and_the_picture_lies_there(place):
    values = np.zeros((70, 50))
    values[60, 12] = 1
    layer = BandLayer(values, lo=0, hi=1, cmap="gray", **place)
    for pixel in ((0, 0), (69, 49), (60, 12)): assert pixel_at(layer, *place_of(layer, *pixel)) == pixel
    image, ((south, west), (north, east)) = on_screen(layer)
    rows, cols = np.nonzero((image[..., 0] > 200) & (image[..., 3] > 0))
    y = lambda v: np.arctanh(np.sin(np.radians(v)))
    lat, lon = place_of(layer, 60, 12)
    assert abs((y(north) - y(lat)) / (y(north) - y(south)) * image.shape[0] - rows.mean() - .5) < 1.6
    assert abs((lon - west) / (east - west) * image.shape[1] - cols.mean() - .5) < 1.6
    assert window_in(layer, ((lat - 1e-7, lon - 1e-7), (lat + 1e-7, lon + 1e-7)))[2:] <= (3, 3)
    assert window_in(layer, ((lat + 5, lon + 5), (lat + 6, lon + 6))) is None


def said(path="/proc/self/io"):
    try: return int(Path(path).read_text().split("rchar:")[1].split()[0])
    except OSError: pytest.skip("this system does not count what is read")


def test_a_large_file_is_read_through_its_overviews(tmp_path):
    import rasterio.shutil
    side = 4096
    values = np.random.default_rng(0).integers(0, 255, (side, side)).astype(np.uint8)
    how = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "crs": UTM["crs"], "transform": rasterio.Affine(*UTM["transform"])}
    with rasterio.open(tmp_path / "flat.tif", "w", **how) as dst:
        dst.write(values, 1)
    rasterio.shutil.copy(tmp_path / "flat.tif", tmp_path / "big.tif", driver="COG", overview_resampling="nearest")
    size = (tmp_path / "big.tif").stat().st_size
    before = said()
    layer = BandLayer(of_file(tmp_path / "big.tif", keep=512))
    layer.draw(size=400)
    layer.draw((1000, 1000, 2900, 2900), size=300)                                 # from the coarse copy
    assert said() - before < .15 * size
    before = said()
    part = layer.draw((1024, 2048, 256, 256), size=1024)
    assert part.image.shape == (256, 256, 4) and said() - before < .1 * size
    assert layer.read(1030, 2050) == f"{values[1030, 2050]}"


def test_a_large_store_is_never_in_memory_as_a_whole(tmp_path):
    import xarray as xr
    import zarr
    side = 4096
    array = zarr.create_array(str(tmp_path / "big.zarr"), name="height", shape=(side, side), chunks=(256, 256), dtype="float32", dimension_names=["y", "x"])
    for i in range(0, side, 256): array[i:i + 256] = np.add.outer(np.arange(i, i + 256), np.arange(side)).astype(np.float32)
    da = xr.open_zarr(tmp_path / "big.zarr", consolidated=False, chunks=None)["height"]
    BandLayer(of_xarray(da[:9, :9], UTM["crs"])).draw()                            # what is imported does not count
    tracemalloc.start()
    panel = BandLayer(of_xarray(da, UTM["crs"], keep=512)).draw(size=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert panel.image.shape == (512, 512, 4) and peak < side * side * 4 / 2       # what zarr reads at a time, and the coarse copy
    layer = BandLayer(of_xarray(da, UTM["crs"], keep=256), lo=0, hi=1)
    before = said()
    layer.draw((1024, 1024, 200, 200))
    assert said() - before < 256 * 256 * 4 * 2                                     # one chunk


def test_one_call_opens_samples_datasets_folders_stores_and_files(tmp_path, sample):
    wanted = rgb(sample, 0).image
    store = write_store(sample, tmp_path / "scene.zarr")
    folder = write_geotiffs(sample, tmp_path / "scene")
    for thing in (sample, sample.to_xarray(), store, folder):
        lowest = layers_of(thing)[0].at(0)
        assert isinstance(lowest, RGBLayer) and lowest.times == tuple(map(str, sample.times)) and lowest.crs == sample.crs
        np.testing.assert_array_equal(lowest.draw().image, wanted)
        np.testing.assert_allclose(lowest.transform, sample.transform)
    names = [x.name for x in layers_of(sample)]
    assert names == ["Sentinel-2", "Elevation", "Land cover", "Crop"] == [x.name for x in layers_of(folder)]
    assert layers_of(sample)[1].read(3, 4) == f"{sample.arrays['srtm'][3, 4, 0, 0]:.4g} m"
    assert [type(x) for x in layers_of([rgb(sample), sample.to_xarray()["srtm"].isel(static_srtm=0, band_srtm=0)])] == [PanelLayer, BandLayer]


def test_a_map_of_classes_brings_its_names_and_colours(tmp_path):
    how = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "dtype": "uint8", "crs": UTM["crs"], "transform": rasterio.Affine(*UTM["transform"])}
    with rasterio.open(tmp_path / "classes.tif", "w", **how) as dst:
        dst.write(np.eye(4, dtype=np.uint8), 1)
        dst.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255)})
        dst.update_tags(classes=json.dumps(CLASSES))
    layer = layers_of(tmp_path / "classes.tif")[0]
    assert isinstance(layer, ClassLayer) and layer.read(0, 0) == "water" and layer.legend == {"land": "#010203", "water": "#040506"}
    assert layer.draw().image[1, 0].tolist() == [1, 2, 3, 255]


@pytest.mark.parametrize("make,words", [
    (lambda: layers_of(Sample({}, np.zeros(0, "datetime64[D]"))), "the sample is empty"),
    (lambda: layers_of("nowhere.tif"), "there is no 'nowhere.tif'"),
    (lambda: layers_of(np.zeros((3, 3))), "BandLayer"),
    (lambda: layers_of({"type": "FeatureCollection", "features": []}), "holds no feature"),
    (lambda: VectorLayer({"type": "Point", "coordinates": [500000, 5400000]}), "to_crs"),
    (lambda: BandLayer(np.zeros((0, 3))), "a pixel or more"),
    (lambda: BandLayer(np.full((3, 3), np.nan), name="Height"), "Height: every pixel is missing"),
    (lambda: ClassLayer(np.zeros((3, 3)), {7: "x"}), "no pixel has one of the classes 7"),
    (lambda: ClassLayer(np.zeros((3, 3))), "needs names"),
    (lambda: BandLayer(np.zeros((3, 3)), **UTM).draw((9, 9, 2, 2)), "lie beside"),
    (lambda: bounds_of(BandLayer(np.zeros((3, 3)), name="Bare")), "Bare has no place on Earth; give it one"),
    (lambda: on_screen(BandLayer(np.zeros((3, 3)), name="Bare")), "Bare has no place on Earth; give it one"),
])
def test_bad_input_is_named_with_the_fix(make, words):
    with pytest.raises(InputError, match=words): make()


def test_a_date_without_pixels_is_said_and_the_others_are_shown(sample):
    missing = np.zeros(sample.arrays["sentinel2_l2a"].shape, bool)
    missing[:, :, 1] = True
    from dataclasses import replace
    canvas = Canvas(RGBLayer(replace(sample, missing={"sentinel2_l2a": missing}), 0))
    canvas.at(str(sample.times[1]))
    assert "every pixel is missing; choose another date" in canvas.message and canvas.level == "error"
    canvas.at(str(sample.times[2]))
    assert canvas.seen().image.any()


def test_two_grids_are_shown_each_at_its_place_and_clicks_are_told_in_the_lowest():
    low = BandLayer(np.arange(100.).reshape(10, 10), name="low", unit="m", **UTM)
    high = ClassLayer(np.ones((30, 20), int), CLASSES, "high", crs="EPSG:32633", transform=(4, 0, -137000, 0, -4, 5420000))
    high.transform = near(high, low)
    canvas, clicks = Canvas([low, high]), []
    canvas.on_click(lambda *at: clicks.append(at[:2]))
    lat, lon = place_of(high, 12, 9)
    canvas.click(lat, lon)
    assert clicks == [pixel_at(low, lat, lon)]
    said = canvas.readout(lat, lon)
    assert "high: water" in said and f"low: {low.read(*clicks[0])}" in said
    assert canvas.shown["low"].bounds != canvas.shown["high"].bounds
    canvas.click(0, 0)
    assert clicks == clicks[:1] and "lies beside low" in canvas.message


def near(layer, other):
    "The transform that brings a grid of another zone over a layer."
    from rasterio.warp import transform
    lat, lon = place_of(other, 3, 3)
    x, y = transform("EPSG:4326", layer.crs, [lon], [lat])[:2]
    return (4.0, 0.0, x[0], 0.0, -4.0, y[0])


def test_a_box_is_told_in_pixels_and_cut_at_the_rim():
    layer = BandLayer(np.zeros((40, 60)), lo=0, hi=1, name="low", **UTM)
    canvas, boxes, shapes = Canvas(layer), [], []
    canvas.on_box(lambda *at: boxes.append(at))
    canvas.on_draw(shapes.append)
    ring = [place_of(layer, r, c)[::-1] for r, c in ((5, 7), (5, 99), (20, 99), (20, 7))]
    canvas.drawn({"type": "Polygon", "coordinates": [ring]})
    assert boxes[0][:2] == (5, 7) or np.abs(np.array(boxes[0][:2]) - (5, 7)).max() <= 1
    assert boxes[0][1] + boxes[0][3] == 60 and shapes[0]["type"] == "Polygon"
    canvas.drawn({"type": "Polygon", "coordinates": [[(0, 0), (1, 0), (1, 1), (0, 1)]]})
    assert len(boxes) == 1 and "lies beside low" in canvas.message


def test_a_layer_is_replaced_in_place_and_its_place_in_the_order_stays(sample):
    canvas = Canvas([RGBLayer(sample), ClassLayer(sample.labels["land_cover"], like=sample, name="A")])
    canvas.set("A", opacity=.3)
    canvas.show(ClassLayer(Label(np.zeros((96, 96), int), CLASSES), like=sample), "A")
    assert list(canvas.shown) == ["Sentinel-2", "A"] and canvas.shown["A"].opacity == .3 and canvas.shown["A"].layer.legend == {"land": canvas.shown["A"].layer.palette[0]}
    canvas.hide("A")
    with pytest.raises(InputError, match="no layer 'A'; there are 'Sentinel-2'"): canvas.hide("A")


def test_state_is_json_and_gives_the_same_picture(sample):
    canvas = Canvas(sample)
    canvas.at("2020-02-15")
    canvas.set("Elevation", on=True, opacity=.5)
    canvas.swipe("Elevation", .3)
    again = Canvas.from_state(sample, json.loads(json.dumps(canvas.state)))
    assert again.state == canvas.state
    np.testing.assert_array_equal(again.seen().image, canvas.seen().image)


def test_small_pictures_are_exact_and_large_ones_are_short():
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 4)).astype(np.uint8)
    noise[..., 3] = 255
    assert image_url(noise).startswith("data:image/webp") and image_url(noise, classes=True).startswith("data:image/png") and image_url(noise[:99]).startswith("data:image/png")
    assert len(image_url(noise)) < .5 * len(image_url(noise, classes=True))


def test_blending_hides_what_is_transparent():
    box = ((0.0, 0.0), (1.0, 1.0))
    red, none = np.full((8, 8, 4), (255, 0, 0, 255), np.uint8), np.zeros((8, 8, 4), np.uint8)
    assert (blend([(red, box, 1.0), (none, box, 1.0)], box, 8).image == red).all()
    assert (blend([(none, box, 1.0)], box, 8).image[..., 3] == 0).all()


def test_vectors_of_many_values_are_coloured_strip_by_strip():
    x = np.random.default_rng(0).normal(size=(60, 50, 16)).astype(np.float32)
    x[3, 4] = np.nan
    from olmoearth.maps import fit_pca, pca_rgb
    fit = fit_pca(x)
    np.testing.assert_array_equal(PcaLayer(x, fit).draw().image, pca_rgb(x, fit).image)


def test_a_canvas_opens_no_port_and_asks_nothing_of_the_network(monkeypatch, sample):
    psutil = pytest.importorskip("psutil")
    for module in ("leafmap.leafmap", "ipyleaflet"): pytest.importorskip(module)
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a) or [])
    here = lambda: {(c.laddr, c.status) for c in psutil.Process().net_connections("inet")}
    before = here()
    canvas = Canvas(sample)
    assert canvas.panel is canvas.panel
    canvas.at("2020-02-15")
    canvas.set("Land cover", on=True)
    canvas.swipe("Land cover", .4)
    canvas.show(Panel(np.zeros((4, 4, 3), np.uint8), "more", {}, *UTM.values()))
    assert Desk(canvas).box is not None
    assert here() == before and not asked
    assert not [x for x in canvas._ui.map.layers if "Tile" in type(x).__name__]


def test_widgets_follow_the_canvas_and_the_canvas_the_widgets(sample):
    pytest.importorskip("ipyleaflet")
    canvas = Canvas(sample)
    assert canvas.panel is canvas.panel
    ui = canvas._ui
    url = canvas.shown["Sentinel-2"].overlay.url
    ui.dates.value = next(t for t in ui.dates.options if t != ui.dates.value)
    assert canvas.shown["Sentinel-2"].overlay.url != url and canvas.time == ui.dates.value
    ui.which.value = "Land cover"
    assert ui.on.value is False and canvas.shown["Land cover"].overlay.opacity == 0
    ui.on.value = True
    ui.opacity.value = .4
    assert canvas.shown["Land cover"].overlay.opacity == .4 and "Land cover" in canvas.readout(*place_of(canvas.ground, 3, 3))
    ui.right.value = "Land cover"
    assert canvas.swiped == "Land cover" and ui.stick is not None and ui.divider in ui.row.children
    canvas.hide("Land cover")
    assert ui.stick is None and "Land cover" not in ui.which.options
    canvas.show(VectorLayer({"type": "Point", "coordinates": [4.79, 50.79]}, "Point"))
    canvas.show(ClassLayer(sample.labels["land_cover"], like=sample), "Point")       # another kind under the same name
    assert type(canvas.shown["Point"].overlay).__name__ == "ImageOverlay"


def test_out_of_memory_halves_batches_then_takes_the_cpu():
    tried, told = [], []
    def f(batch, device):
        tried.append((batch, device.type))
        if device.type != "cpu": raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return batch
    assert fit_memory(f, 8, "meta", lambda text, level: told.append((text, level))) == 8
    assert tried == [(8, "meta"), (4, "meta"), (2, "meta"), (1, "meta"), (8, "cpu")]
    assert len(told) == 4 and "batches of 4" in told[0][0] and "CPU" in told[-1][0] and {level for _, level in told} == {"warning"}
    with pytest.raises(RuntimeError, match="another"): fit_memory(lambda b, d: (_ for _ in ()).throw(RuntimeError("another")), 8, "meta")


def finished(job): assert job.wait(20), "the work does not end"


def test_work_tells_stops_and_gives_way(sample):
    desk, got = Desk(sample), []
    assert desk.box is desk.box
    started = threading.Event()
    def slow(progress, cancelled):
        started.set()
        while not cancelled(): time.sleep(.005)
        return "late"
    first = desk.work(slow, got.append)
    started.wait(20)
    second = desk.work(lambda progress, cancelled: progress(3, "there") or "new", got.append, 3)
    finished(first), finished(second)
    assert got == ["new"] and desk._row.layout.display == "none"
    third = desk.work(slow, got.append)
    desk.cancel()
    finished(third)
    assert got == ["new"] and desk.canvas.message == "stopped"
    def bad(progress, cancelled): raise InputError("the label lies outside; draw it inside")
    finished(desk.work(bad, got.append))
    assert desk.canvas.message == "the label lies outside; draw it inside" and desk.canvas.level == "error"
    finished(desk.work(lambda p, c: 1, lambda result: 1 / 0))
    assert desk.canvas.message.startswith("ZeroDivisionError")


def test_work_is_awaited_where_a_loop_runs_and_waiting_there_is_refused(sample):
    desk, got, gate = Desk(sample), [], threading.Event()
    def slow(progress, cancelled):
        while not gate.is_set() and not cancelled(): time.sleep(.005)
        return "there"
    async def cell():
        work = desk.work(slow, got.append)
        begun = time.monotonic()
        for seconds in (None, 5):
            with pytest.raises(InputError, match="write: await work"): work.wait(seconds)
        assert time.monotonic() - begun < 2 and got == []
        ticks = []
        async def other():
            while not got: ticks.append(await asyncio.sleep(.005)); len(ticks) == 5 and gate.set()
        both = asyncio.gather(work, other())                                        # the loop goes on meanwhile
        assert (await asyncio.wait_for(both, 20))[0] == "there" and got == ["there"] and len(ticks) >= 5
        assert work.wait() is True and await work == "there"                        # it has ended: nothing to wait for
        with pytest.raises(ZeroDivisionError): await desk.work(lambda progress, cancelled: 1 / 0)
        assert desk.canvas.level == "error"
        gate.clear()
        stopped = desk.work(slow, got.append)
        desk.cancel()
        assert await asyncio.wait_for(stopped, 20) is None and desk.canvas.message == "stopped" and got == ["there"]
        gate.set()
        there = asyncio.get_running_loop().run_in_executor(None, desk.work(slow).wait, 20)   # another thread may wait
        assert await there is True
    asyncio.run(cell())
    async def later(work): return await asyncio.wait_for(work, 20)
    assert asyncio.run(later(desk.work(slow))) == "there"                           # work of a script, awaited in a loop


def test_the_device_chooser_names_memory():
    chooser = DeviceChooser("cpu")
    assert [name for _, name in chooser.widget.options][0] == "cpu" and "GB" in chooser.widget.options[0][0]
    chooser.refresh()
    assert chooser.device.type == "cpu"


def test_the_same_picture_through_hvplot(sample):
    pytest.importorskip("hvplot")
    plot = Canvas(RGBLayer(sample)).hv(200)
    assert type(plot).__name__ == "RGB" and [str(d) for d in plot.kdims] == ["lon", "lat"]


def test_the_scale_bar_counts_metres_on_the_ground(sample):
    fig = Canvas(RGBLayer(sample)).picture()
    axis = fig.axes[0]
    bar = next(line for line in axis.lines if line.get_linewidth() == 3)
    metres = float(axis.texts[0].get_text().split()[0])
    wide = axis.images[0].get_array().shape[1]
    across = 960 * 1.03                                                           # 96 px of 10 m; the grid is turned by 2 degrees
    assert abs(np.ptp(bar.get_xdata()) / wide * across - metres) < .04 * metres


def test_corners_of_a_polygon_are_no_clicks():
    clicks, shapes = [], []
    canvas = Canvas(World(seed=0, clouds=0).window(0, 0, 64, months=1, modalities=["sentinel2_l2a"]))
    canvas.on_click(lambda *at: clicks.append(at[:2]))
    canvas.on_draw(shapes.append)
    (south, west), (north, east) = canvas.bounds
    ui = (canvas.panel, canvas._ui)[1]
    hand = lambda x, y: ui._interaction(type="click", coordinates=[south + y * (north - south), west + x * (east - west)])
    hand(.5, .5)
    assert len(clicks) == 1 and ui.pen.button in ui.row.children
    ui.pen.button.value = True
    for corner in ((.2, .2), (.8, .2), (.8, .8)): hand(*corner)
    assert len(ui.pen.sketch) == 2 and len(ui.pen.sketch[1].locations) == 3 and not shapes
    hand(.2001, .2)                                                                # near the first: closed
    assert len(clicks) == 1 and not ui.pen.button.value and not ui.pen.sketch and not ui.pen.corners
    [ring] = shapes[0]["coordinates"]
    assert len(ring) == 4 and ring[0] == ring[-1] and shapes[0]["type"] == "Polygon"
    ui.pen.button.value = True
    for corner in ((.1, .1), (.9, .1)): hand(*corner)
    ui.pen.button.value = False                                                    # two corners are none
    assert len(shapes) == 1 and canvas.level == "warning" and "three corners or more" in canvas.message
    ui.pen.button.value = True
    for corner in ((.1, .1), (.9, .1), (.5, .9)): hand(*corner)
    ui.pen.button.value = False                                                    # as the keyboard closes it
    assert len(shapes) == 2
    hand(.5, .5)
    assert len(clicks) == 2


def test_the_line_under_the_map_goes_with_what_is_shown():
    label = lambda code: ClassLayer(Label(np.full((20, 20), code), dict(CLASSES), (-1,)), name="cover", **UTM)
    canvas = Canvas(label(0))
    ui = canvas.panel and canvas._ui
    ui._read(*place_of(canvas.ground, 5, 5))
    assert "land" in ui.under.value
    canvas.show(label(1), "cover")                                 # the cursor has not moved
    assert "water" in ui.under.value and "land" not in ui.under.value
    canvas.set("cover", on=False)
    assert "water" not in ui.under.value
