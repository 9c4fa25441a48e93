"""Maps: where pixels land, which colours they get, what is not seen, and that the network is left alone."""
import socket
import warnings

import numpy as np
import pytest
from pyproj import Transformer

from olmoearth.maps import (Panel, class_colours, classes_rgb, clearest, fit_pca, graticule, pca_rgb, picture, place, png_url, reproject_rgba, rgb, show_map, stretch)
from olmoearth.modalities import modality
from olmoearth.samples import InputError, Label, Sample


def scene(size=32, times=3, crs="EPSG:32632"):
    "A small Sentinel-2 sample whose middle date is the clear one."
    values = np.random.default_rng(0).integers(200, 3000, (size, size, times, 12)).astype(np.int16)
    values[:, :, 1] //= 4
    dates = np.array(["2020-01-01", "2020-02-01", "2020-03-01"][:times], "datetime64[D]")
    return Sample({"sentinel2_l2a": values}, dates, crs=crs, transform=(10, 0, 300000, 0, -10, 5400000))


@pytest.mark.parametrize("row,col", [(0, 0), (0, 119), (59, 0), (59, 119), (30, 60)])
@pytest.mark.parametrize("crs,transform", [("EPSG:32632", (10, 0, 300000, 0, -10, 5400000)), ("EPSG:32719", (10, 0, 400000, 0, -10, 6200000)),
                                           ("EPSG:4326", (1e-4, 0, -6.0, 0, -1e-4, 37.5))])
def test_a_pixel_lands_where_pyproj_says(row, col, crs, transform):
    image = np.full((60, 120, 4), 255, np.uint8)
    image[max(0, row - 1):row + 2, max(0, col - 1):col + 2] = 255, 0, 0, 255
    rows, cols = np.nonzero(image[..., 1] == 0)
    a, _, c, _, e, f = transform
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(c + a * (cols.mean() + .5), f + e * (rows.mean() + .5))
    moved, ((south, west), (north, east)) = reproject_rgba(image, crs, transform)
    rows, cols = np.nonzero((moved[..., 3] > 0) & (moved[..., 1] == 0))
    x = west + (cols.mean() + .5) / moved.shape[1] * (east - west)
    y = north + (rows.mean() + .5) / moved.shape[0] * (south - north)
    pixel = abs(a) if crs == "EPSG:4326" else abs(a) / 111320
    assert abs(y - lat) < pixel and abs(x - lon) < pixel / np.cos(np.radians(lat))


def test_reprojection_keeps_colours_and_does_not_invent_ground():
    image = np.zeros((80, 80, 4), np.uint8)
    image[...] = 1, 2, 3, 255
    image[20:30, 20:30, 3] = 0
    moved, _ = reproject_rgba(image, "EPSG:32632", (10, 0, 300000, 0, -10, 5400000))
    seen = moved[..., 3] == 255
    assert set(np.unique(moved[..., 3])) == {0, 255} and (moved[seen] == [1, 2, 3, 255]).all()
    assert not seen[0, 0] and not seen[-1, -1]                       # corners that turning left empty
    hole = moved.shape[0] * 25 // 80, moved.shape[1] * 25 // 80
    assert not seen[hole]


def test_stretch_clips_and_leaves_gaps_out():
    values = np.arange(100.).reshape(10, 10)
    values[0, 0] = 1e9                                               # one bright roof
    values[9, 9] = np.nan
    image = stretch(values)
    assert image[0, 0, 0] == 255 and (image[9, 9] == 0).all() and 120 < image[5, 0, 0] < 135
    assert (stretch(np.full((3, 3, 3), np.nan)) == 0).all()
    assert (stretch(np.where(np.eye(3), np.inf, 1.0))[np.eye(3, dtype=bool), 3] == 0).all()


@pytest.mark.parametrize("thing", [5, None, "my/folder", np.zeros((4, 4, 3))])
def test_rgb_of_what_is_no_sample_is_refused_in_one_line(thing):
    with pytest.raises(InputError, match=r"rgb draws a Sample, not .*; read one: oe.rgb\(oe.read_scene\('FOLDER'\)\)") as caught: rgb(thing)
    assert "\n" not in str(caught.value)


def test_rgb_takes_red_green_blue_of_the_clearest_date_and_hides_gaps():
    s = scene()
    s.arrays["sentinel2_l2a"][:, :, 1, 2] += 20000 * (np.arange(32) > 15)[None].astype(np.int16)   # B04 is band 2
    s.missing["sentinel2_l2a"] = np.zeros((32, 32, 3, 12), bool)
    s.missing["sentinel2_l2a"][3, 4, 1, 2] = True
    assert clearest(s) == 1
    panel = rgb(s)
    assert panel.image[:, 16:, 0].mean() > 200 > 30 > panel.image[:, :16, 0].mean()
    assert (panel.image[3, 4] == 0).all() and panel.image[4, 4, 3] == 255
    assert "2020-02-01" in panel.title and "2020-01-01" in rgb(s, time=0).title


def test_a_date_without_any_pixel_is_never_the_clearest():
    s = scene()
    s.missing["sentinel2_l2a"] = np.zeros((32, 32, 3, 12), bool)
    s.missing["sentinel2_l2a"][:, :, 1] = True
    assert clearest(s) != 1
    s.missing["sentinel2_l2a"][:] = True
    assert (rgb(s).image == 0).all()


def test_pca_colours_do_not_depend_on_the_sign_or_the_order_of_pixels():
    x = np.random.default_rng(1).normal(size=(12, 10, 16)) * np.linspace(4, 1, 16)
    x[2, 3] = np.nan
    panel = pca_rgb(x)
    assert (panel.image[2, 3] == 0).all() and (panel.image[..., 3] == 255).sum() == 119
    flipped = pca_rgb(x[::-1, ::-1]).image[::-1, ::-1]
    assert np.abs(panel.image.astype(int) - flipped).max() <= 1
    np.testing.assert_allclose(fit_pca(-x).axes, fit_pca(x).axes, atol=1e-9)
    fit = fit_pca(x)
    assert (np.diff(fit.share) <= 0).all() and fit.share.sum() <= 1 + 1e-9
    assert (pca_rgb(np.ones((4, 4, 8))).image[..., :3] == 128).all()   # all alike: mid grey
    with pytest.raises(InputError, match="an embedding map is"): pca_rgb(np.zeros((4, 8)))
    with pytest.raises(InputError, match="there are 0 of 8"): pca_rgb(np.full((4, 4, 8), np.nan))


@pytest.mark.parametrize("name", ["worldcover", "cdl"])
def test_class_colours_differ_and_mean_the_same_everywhere(name):
    classes = dict(modality(name).classes)
    colours = class_colours(classes)
    assert list(colours) == sorted(classes)
    if name == "worldcover": assert len(set(colours.values())) == len(classes)
    assert class_colours({1: "water"})[1] == class_colours({80: "Permanent water bodies"})[80]


def test_classes_legend_holds_what_is_there_and_the_unlabelled_is_not_seen():
    label = Label(np.array([[0, 1], [-1, 7]]), {0: "land", 1: "water", 2: "snow", 9: "nothing"}, ignore=(0,))
    panel = classes_rgb(label)
    assert list(panel.legend) == ["water"]
    assert panel.image[..., 3].tolist() == [[0, 255], [0, 0]]
    assert (classes_rgb(label.values, {1: "x"}, {1: "#0102ff"}).image[0, 1] == [1, 2, 255, 255]).all()
    with pytest.raises(InputError, match=r"a class map is \(H, W\)"): classes_rgb(np.zeros((2, 2, 1)), {0: "x"})


def test_place_of_samples_arrays_and_cells():
    rioxarray = pytest.importorskip("rioxarray")
    import xarray as xr
    from rasterio.transform import Affine
    assert rioxarray is not None and place(np.zeros((2, 2))) == (None, None)
    da = xr.DataArray(np.zeros((8, 8)), dims=("y", "x")).rio.write_crs("EPSG:32632").rio.write_transform(Affine(40, 0, 300000, 0, -40, 5400000))
    assert place(da) == ("EPSG:32632", (40, 0, 300000, 0, -40, 5400000))
    assert classes_rgb(np.zeros((8, 8), int), {0: "x"}, like=scene()).transform[0] == 40
    assert classes_rgb(np.zeros((8, 8), int), {0: "x"}, like=da).transform[0] == 40
    assert place(xr.DataArray(np.zeros((2, 2)), dims=("y", "x"))) == (None, None)


def test_picture_is_a_figure_with_titles_legend_and_credit(tmp_path):
    panels = [rgb(scene()), (np.zeros((4, 4, 3), np.uint8), "black", {"water": "#0000ff"}), np.zeros((4, 4, 4), np.uint8)]
    figure = picture(panels, credit="somebody")
    assert [a.get_title() for a in figure.axes] == ["Sentinel-2, 2020-02-01", "black", ""]
    assert figure.axes[1].get_legend().get_texts()[0].get_text() == "water"
    assert figure._supxlabel.get_text() == "somebody"
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="nothing to show"): picture([])


def test_panels_that_are_no_pictures_are_refused():
    for wrong in (np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 5), np.uint8)):
        with pytest.raises(InputError, match="a picture is"): Panel(wrong)


def test_graticule_covers_the_place_with_round_lines():
    box = ((-33.52, -70.63), (-33.48, -70.58))
    lines = [f["geometry"]["coordinates"] for f in graticule(box)["features"]]
    xs, ys = {a[0] for a, b in lines if a[0] == b[0]}, {a[1] for a, b in lines if a[1] == b[1]}
    assert min(xs) < -70.63 and max(xs) > -70.58 and min(ys) < -33.52 and max(ys) > -33.48
    assert all(abs(v * 100 - round(v * 100)) < 1e-6 for v in xs | ys)


def test_map_opens_without_the_network(monkeypatch):
    leafmap = pytest.importorskip("leafmap.leafmap")
    def refuse(*args, **kwargs): raise AssertionError("the network was asked")
    for name in ("connect", "connect_ex", "sendto"): monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)               # no port is opened
    s = scene()
    m = show_map([rgb(s), pca_rgb(s.arrays["sentinel2_l2a"][:, :, 0].astype(float)).__class__(rgb(s, 0), "first date")], opacity=.4, credit="somebody")
    assert isinstance(m, leafmap.Map)
    assert [layer.name for layer in m.layers] == ["graticule", "Sentinel-2, 2020-02-01", "first date"]
    assert [layer.opacity for layer in m.layers[1:]] == [1.0, .4]
    assert all(layer.url.startswith("data:image/png;base64,") for layer in m.layers[1:])
    (south, west), (north, east) = m.layers[1].bounds
    lon, lat = s.lonlat()
    assert south < lat < north and west < lon < east
    assert m.layers[1].url == png_url(reproject_rgba(rgb(s))[0])


def test_without_leafmap_the_static_picture_is_given_and_the_extra_named(monkeypatch):
    from matplotlib.figure import Figure
    monkeypatch.setitem(__import__("sys").modules, "leafmap.leafmap", None)
    monkeypatch.setitem(__import__("sys").modules, "leafmap", None)
    with pytest.warns(UserWarning, match=r"olmoearth\[maps\].*static picture"): result = show_map([rgb(scene())])
    assert isinstance(result, Figure)


def test_a_panel_without_a_place_cannot_go_on_a_map():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"use picture\("): show_map([rgb(scene(crs=None))])
