"""The embedding explorer without a browser: plain formulas, what was not seen, labels in and out, files at their place, words for what is wrong."""
import json
import threading
import warnings

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from rasterio.transform import Affine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from olmoearth.explorer import Explorer
from olmoearth.explorer_core import Cells, clusters, colours, fit_colours, lassoed, nearest, scatter, series, similarity, smooth_fields, thumbnails
from olmoearth.explorer_probe import Labels, LiveProbe, cells_at, disagreement, fit_like, from_geojson, lonlat_of, to_geojson, uncertainty, write_layer
from olmoearth.maps import Panel
from olmoearth.samples import InputError, Sample, centres

CRS, TRANSFORM = "EPSG:32632", (40.0, 0.0, 300000.0, 0.0, -40.0, 5400000.0)


def placed(values, transform=TRANSFORM, crs=CRS):
    "An array as embed_scene returns it."
    array = xr.DataArray(values, centres(transform, *values.shape[:2]), ("y", "x", "feature"))
    return array.rio.write_crs(crs).rio.write_transform(Affine(*transform))


@pytest.fixture(scope="module")
def values():
    v = smooth_fields(40, 50, 16, seed=3)
    v[5:9, 10:20] = np.nan
    return v


@pytest.fixture(scope="module")
def cells(values):
    return Cells.of(placed(values))


@pytest.mark.parametrize("centre", [True, False])
def test_similarity_is_the_plain_formula(values, centre):
    cells = Cells.of(values, centre)
    x = values.reshape(-1, 16)
    x = x[np.isfinite(x).all(1)].astype(np.float64)
    x = x - x.mean(0) if centre else x
    cos = lambda i: x @ x[i] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[i])
    np.testing.assert_allclose(similarity(cells, [7]), cos(7), atol=1e-5)
    wanted = np.maximum(cos(7), cos(90)) - np.maximum(np.maximum(cos(300), cos(5)), 0)
    np.testing.assert_allclose(similarity(cells, [7, 90], [300, 5]), wanted, atol=1e-5)
    np.testing.assert_allclose(similarity(cells, [7, 90], [300, 5], how="mean"), (cos(7) + cos(90)) / 2 - np.maximum((cos(300) + cos(5)) / 2, 0), atol=1e-5)
    np.testing.assert_allclose(similarity(cells, [], [300]), -np.maximum(cos(300), 0), atol=1e-5)


def test_what_was_not_seen_stays_unseen(cells):
    hole = np.zeros(cells.shape, bool)
    hole[5:9, 10:20] = True
    assert (np.isnan(cells.grid(similarity(cells, [0]))) == hole).all()
    assert ((colours(cells).image[..., 3] == 0) == hole).all()
    assert ((cells.grid(clusters(cells, 4), -1) == -1) == hole).all()
    labels = Labels(cells)
    with pytest.raises(InputError, match="nothing was seen at row 6, column 12; click a place with colour"): labels.click(6, 12, "water")
    assert not hole[tuple(cells.places(nearest(cells, similarity(cells, [0]), 20)).T)].any()
    inside = lonlat_of(cells, [5, 5, 8, 8, 5], [11, 18, 18, 11, 11]).tolist()
    with pytest.raises(InputError, match="holds no cell with data"): labels.area({"type": "Polygon", "coordinates": [inside]}, "water")
    with pytest.raises(InputError, match="no cell of the embedding has data"): Cells.of(np.full((3, 3, 4), np.nan))


def test_the_nearest_places_are_no_neighbours(cells):
    clicked = cells.at(20, 25)
    like = similarity(cells, [clicked])
    best = nearest(cells, like, 10, apart=4, leave=[clicked])
    where = cells.places([clicked, *best])
    apart = np.abs(where[:, None] - where[None]).max(-1) + 99 * np.eye(len(where), dtype=int)
    assert len(best) == 10 and apart.min() > 4 and (np.diff(like[best]) <= 0).all()
    plain = cells.places(np.argsort(-like)[1:11])
    assert np.abs(plain - [20, 25]).max(1).min() <= 4                          # without spreading the neighbours come first
    assert len(nearest(cells, like, 500, apart=8)) < 500                        # no more than there is room for


def test_thumbnails_are_cut_where_the_cell_lies(cells):
    row, col = np.indices((160, 200)).astype(np.uint8)
    picture = Panel(np.dstack([row, col, row * 0]), crs=CRS, transform=(10, 0, 300000, 0, -10, 5400000))
    shown = thumbnails(picture, cells, cells.number[[20, 0, 39], [25, 0, 49]], 8)
    assert [t.image[4, 4, :2].tolist() for t in shown] == [[82, 102], [4, 4], [156, 196]]      # the rim moves the square inwards
    with pytest.raises(InputError, match="different places"): thumbnails(Panel(picture.image, crs=CRS, transform=(10, 0, 900000, 0, -10, 5400000)), cells, [0], 8)


def test_series_has_gaps_and_units():
    sample = Sample({"sentinel1": np.full((4, 4, 3, 2), -12., np.float32)}, np.array(["2020-01-01", "2020-02-01", "2020-03-01"], "datetime64[D]"))
    sample.arrays["sentinel1"][1, 2, 1] = np.nan
    seen = series(sample, 1, 2)["sentinel1"]
    assert seen.unit == "dB" and np.isnan(seen.values[1]).all() and (seen.values[[0, 2]] == -12).all() and len(seen.times) == 3
    with pytest.raises(InputError, match="lies outside the scene of 4 x 4 px; click inside it"): series(sample, 4, 0)


def test_the_lasso_takes_the_cells_of_its_points(cells):
    fit = fit_colours(cells)
    cloud = scatter(cells, fit, 300)
    assert lassoed(cells, fit, cloud, [5])[cloud.index[5]] and not lassoed(cells, fit, cloud, [5])[cloud.index[6]]
    parts = [lassoed(cells, fit, cloud, range(i, 300, 3)) for i in range(3)]
    assert (np.sum(parts, 0) == 1).all()                                        # every cell belongs to one point


def test_labels_travel_through_geojson(cells, tmp_path):
    labels = Labels(cells)
    labels.click(2, 3, "water")
    labels.area({"type": "Polygon", "coordinates": [lonlat_of(cells, [19.5, 19.5, 24.5, 24.5, 19.5], [29.5, 33.5, 33.5, 29.5, 29.5]).tolist()]}, "field")
    path = tmp_path / "labels.geojson"
    path.write_text(json.dumps(to_geojson(labels)))
    back = from_geojson(path, cells)
    assert [(m.name, m.index) for m in back.marks] == [(m.name, m.index) for m in labels.marks] and len(back.marks[1].index) == 20
    assert (cells_at(cells, lonlat_of(cells, [0, 39], [0, 49])) == [[0, 0], [39, 49]]).all()
    page = to_geojson(labels)
    page["features"].append({"type": "Feature", "properties": {"class": "far"}, "geometry": {"type": "Point", "coordinates": [9.5, 10.]}})
    with pytest.warns(UserWarning, match="1 of 3 labels lie outside the scene"): assert len(from_geojson(page, cells).marks) == 2
    page["features"] = page["features"][2:]
    with pytest.raises(InputError, match="none of the 1 labels lies on a cell with data; give labels of this place, longitude first"): from_geojson(page, cells)
    with pytest.raises(InputError, match="write_crs"): to_geojson(Labels(Cells.of(np.asarray(smooth_fields(6, 6, 4)))))
    with pytest.raises(InputError, match="cannot be read as GeoJSON"): from_geojson(tmp_path / "none.geojson", cells)


def test_large_polygons_count_with_a_spread_of_their_cells():
    cells = Cells.of(placed(smooth_fields(60, 60, 8)))
    mark = Labels(cells).area({"type": "Polygon", "coordinates": [lonlat_of(cells, [-.5, -.5, 59.5, 59.5, -.5], [-.5, 59.5, 59.5, -.5, -.5]).tolist()]}, "all")
    assert len(mark.index) == 200 and np.ptp(cells.places(mark.index), axis=0).min() > 50


def some_labels(cells, n=20, seed=0):
    r, labels = np.random.default_rng(seed), Labels(cells)
    for i in r.choice(len(cells), n, replace=False): labels.click(*map(int, cells.places([i])[0]), f"kind {i % 3}")
    return labels


def test_probes_agree_with_scikit_learn_however_the_labels_came(cells):
    labels, probe = some_labels(cells), LiveProbe(cells)
    marks = list(labels.marks)
    for n in (5, 6, 7, 20):                                                     # one by one and many at once
        labels.marks[:] = marks[:n]
        probe.update(labels)
    index, y = labels.pairs()
    theirs = KNeighborsClassifier(3, metric="cosine", algorithm="brute", weights=lambda d: np.exp((d.min(1, keepdims=True) - d) / .1)).fit(cells.unit[index], y)
    np.testing.assert_allclose(probe.knn().T, theirs.predict_proba(cells.unit), atol=1e-3)
    z = (cells.unit - cells.unit.mean(0)) / cells.unit.std(0)
    theirs = LogisticRegression(C=1, class_weight="balanced", max_iter=3000, tol=1e-7).fit(z[index].astype(np.float64), y).predict_proba(z)
    np.testing.assert_allclose(probe.logistic().T, theirs, atol=.01)
    labels.undo()                                                               # taken back: as if it had never been
    probe.update(labels)
    fresh = LiveProbe(cells)
    fresh.update(labels)
    np.testing.assert_array_equal(probe.knn(), fresh.knn())
    for p in (probe.knn(), probe.logistic()):
        np.testing.assert_allclose(p.sum(0), 1, atol=1e-5)
        for how in ("entropy", "margin"): assert 0 <= uncertainty(p, how).min() and uncertainty(p, how).max() <= 1 + 1e-5


def test_a_cell_named_again_counts_as_it_was_named_last(cells):
    labels, probe = some_labels(cells, 6), LiveProbe(cells)
    probe.update(labels)
    row, col = map(int, cells.places(labels.marks[0].index)[0])
    labels.click(row, col, "other")
    probe.update(labels)
    i = cells.at(row, col)
    assert labels.names[probe.knn()[:, i].argmax()] == "other" and (labels.pairs()[0] == i).sum() == 1
    assert labels.names[probe.logistic()[:, i].argmax()] == "other"


def test_one_class_and_places_outside_are_said_with_the_fix(cells):
    labels = Labels(cells)
    with pytest.raises(InputError, match="there are no labels; click a place and name it"): LiveProbe(cells).update(labels)
    labels.click(1, 1, "water")
    with pytest.raises(InputError, match="all labels are water; a map needs two classes: label another one"): LiveProbe(cells).update(labels)
    with pytest.raises(InputError, match="outside the 40 x 50 cells of the scene; click inside it"): labels.click(40, 0, "water")
    with pytest.raises(InputError, match="type its name first"): labels.click(1, 1, " ")


def test_disagreement_sees_neighbours_and_nothing_else(cells, values):
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0].astype(np.float32)
    turned = Cells.of(placed(3 * values @ turn))
    assert disagreement(cells, cells).max() == 0 and disagreement(cells, turned).mean() < .01
    mixed = np.random.default_rng(0).permutation(np.nan_to_num(values).reshape(-1, 16)).reshape(values.shape)      # has nothing to do with it
    assert abs(disagreement(cells, Cells.of(placed(mixed)), 256, 16).mean() - (1 - 16 / 256)) < .02
    coarse = Cells.of(placed(values[::2, ::2], (80., 0, 300000., 0, -80., 5400000.)))
    assert np.nanmean(disagreement(cells, coarse)) < .5
    np.testing.assert_allclose(colours(turned, fit_like(turned, cells, fit_colours(cells))).image, colours(cells).image, atol=8)
    with pytest.raises(InputError, match="share no place"): disagreement(cells, Cells.of(placed(values, (40., 0, 900000., 0, -40., 5400000.))))
    with pytest.raises(InputError, match="reproject_match"): disagreement(cells, Cells.of(placed(values, crs="EPSG:32633")))


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_layers_open_at_their_place(cells, tmp_path, suffix):
    kinds, like = clusters(cells, 4), similarity(cells, [0])
    paths = [write_layer(tmp_path / f"kinds{suffix}", kinds, cells, "kinds", {i: f"kind {i}" for i in range(4)}), write_layer(tmp_path / f"like{suffix}", like, cells, "like"),
             write_layer(tmp_path / f"pca{suffix}", colours(cells), cells, "pca")]
    def opened(path):
        if suffix == ".zarr": return xr.open_dataset(path, engine="zarr", consolidated=False, decode_coords="all", mask_and_scale=False)["layer"]
        return rioxarray.open_rasterio(path).squeeze(drop=True).transpose("y", "x", ...)
    a, b, c = map(opened, paths)
    for d in (a, b, c): assert d.rio.crs.to_string() == CRS and tuple(d.rio.transform())[:6] == TRANSFORM
    assert (a.values == np.where(cells.number >= 0, cells.grid(kinds, -1), 255)).all() and json.loads(a.attrs["classes"]) == {str(i): f"kind {i}" for i in range(4)}
    np.testing.assert_array_equal(b.values, cells.grid(like))
    np.testing.assert_array_equal(c.values, colours(cells).image)
    if suffix == ".tif":
        with rasterio.open(paths[0]) as src: assert src.nodata == 255 and src.colormap(1)[0][3] == 255
    with pytest.raises(InputError, match="exists; remove it"): write_layer(paths[0], kinds, cells)
    with pytest.raises(InputError, match="end it with .tif or .zarr"): write_layer(tmp_path / "x.png", kinds, cells)
    with pytest.raises(InputError, match="has no place"): write_layer(tmp_path / f"y{suffix}", np.zeros(36), Cells.of(smooth_fields(6, 6, 4)))
    assert not list(tmp_path.glob("*draft*"))


def test_the_explorer_says_what_is_wrong_and_goes_on(values):
    explorer = Explorer(placed(values), height="300px")
    where = lambda r, c: tuple(lonlat_of(explorer.cells, r, c)[0][::-1])
    explorer.mode = "positive"
    explorer.canvas.click(*where(6, 12))
    assert "nothing was seen at row 6" in explorer.canvas.message and explorer.view == "PCA" and not explorer.wanted
    explorer.canvas.click(*where(20, 25))
    assert explorer.view == "similarity" and explorer.canvas.shown["embedding"].layer.read(20, 25) == "similarity 1.00"
    assert explorer.canvas.shown["embedding"].layer.read(6, 12) == "nothing seen"
    explorer.mode, explorer.name = "label", "water"
    explorer.canvas.click(*where(20, 25))
    assert "one more class and there is a map" in explorer.canvas.message and explorer.view == "similarity"
    explorer.name = "field"
    explorer.canvas.click(*where(30, 5))
    assert explorer.view == "probe" and explorer.canvas.shown["embedding"].layer.read(30, 5).startswith("field")
    explorer.undo()
    assert explorer.names == ["water"] and explorer.view == "PCA"
    explorer.undo(); explorer.undo()
    explorer.guard(explorer.undo)()
    assert "nothing to take back" in explorer.canvas.message and not explorer.wanted
    assert explorer.picture().axes


def test_the_embedding_can_be_stopped_and_memory_may_run_out(monkeypatch):
    import torch

    from olmoearth import explorer_parts
    from olmoearth.synthetic import World
    scene = World(seed=0, missing_modality=0).window(0, 0, 64, months=2, modalities=("sentinel2_l2a",))
    sizes, real = [], explorer_parts.embed_scene
    def short(*args, **options):
        sizes.append(options["batch_size"])
        if options["batch_size"] > 2: raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **options)
    monkeypatch.setattr(explorer_parts, "embed_scene", short)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explorer = Explorer(scene, wait=True)
    assert sizes == [16, 8, 4, 2] and explorer.cells.shape == (16, 16)
    gate, load = threading.Event(), explorer_parts.model_of
    monkeypatch.setattr(explorer_parts, "model_of", lambda m: (gate.wait(30), load(m))[1])
    again = Explorer(scene)                                                     # in a thread, as without a notebook
    with pytest.raises(InputError, match="the embedding is not there yet; wait for the progress bar"): again.layer("PCA")
    again.cancel()
    gate.set()
    assert again.current.wait(60) and again.cells is None and again.canvas.message == "stopped"
