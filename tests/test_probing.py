"Probing during a run: changes nothing, says nothing of its own, and finds its beginning again."
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trainer import SMALL, make, same

from olmoearth.health import overfitting
from olmoearth.model import OlmoEarth
from olmoearth.probes import place_means
from olmoearth.probing import ProbeWatch, find_label, labelled_cells, probe_tiles
from olmoearth.samples import InputError, Label
from olmoearth.synthetic import World
from olmoearth.trainer import Checkpoint
from olmoearth.watch import HealthWatch

TILES = [World(seed=0, clouds=0., missing_time=0, missing_modality=0).window(716160 + 1600 * i, -7936 - 1600 * j, 32, 2020, 3, ("sentinel2_l2a", "sentinel1", "worldcover"))
         for i in range(3) for j in range(2)]
WATCH = {"every": 3, "min_cells": 3}


@pytest.fixture(scope="module")
def plain():
    t = make()
    t.fit()
    return t


def test_a_run_with_the_probe_ends_in_the_same_weights(plain):
    torch.manual_seed(3); before = torch.get_rng_state()
    t = make([ProbeWatch(TILES, **WATCH)])
    t.fit()
    assert same(t, plain) and torch.equal(torch.get_rng_state(), before)
    assert [r["step"] for r in t.history.rows if "probe" in r] == [3, 6, 7], "every third step, and the last"
    assert [r["loss"] for r in t.history.rows] == [r["loss"] for r in plain.history.rows]


def test_baseline_is_the_untrained_model_and_the_gain_counts_from_it():
    t = make([watch := ProbeWatch(TILES, **WATCH)])
    t.fit()
    first, last = watch.measure(OlmoEarth(SMALL, seed=1)), watch.measure(t.model)
    assert watch.baseline == first
    row = t.history.rows[-1]
    for k in ("knn", "linear"): assert (row[f"probe/{k}"], row[f"probe/{k}/gain"], row[f"probe/{k}/accuracy"]) == (last[k], last[k] - first[k], last[f"{k}/accuracy"])
    assert row["probe"] == pytest.approx((last["knn"] + last["linear"]) / 2) and all(0 <= v <= 1 for v in last.values())


def test_a_resumed_run_keeps_its_first_probe(tmp_path):
    whole = make([a := ProbeWatch(TILES, **WATCH), Checkpoint(tmp_path / "a.pt", every=5)])
    whole.fit()
    torch.save(torch.load(tmp_path / "a.pt", weights_only=True), tmp_path / "b.pt")
    t = make([b := ProbeWatch(TILES, **WATCH)])
    assert t.resume(tmp_path / "b.pt")
    t.fit()
    assert b.baseline == pytest.approx({k: a.baseline[k] for k in b.baseline}) and set(b.baseline) == {"knn", "linear"}


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_the_model_stays(training):
    model = OlmoEarth(SMALL, seed=1).train(training)
    score = probe_tiles(model, TILES, min_cells=3)
    assert model.training is training and probe_tiles(model, TILES, min_cells=3) == score


def test_labels_in_the_wrong_order_score_as_chance():
    "The probe must be able to fail: classes that have nothing to do with the pixels."
    draw = np.random.default_rng(0)
    noise = [replace(s, labels={"coin": Label(draw.integers(2, size=(8, 8)).repeat(4, 0).repeat(4, 1), {0: "a", 1: "b"})}) for s in TILES]
    def tone(s):
        "Cells whose red is above the median of the tile."
        v = s.arrays["sentinel2_l2a"][:, :, 0, 2].reshape(8, 4, 8, 4).mean((1, 3))
        return Label((v > np.median(v)).astype(int).repeat(4, 0).repeat(4, 1), {0: "a", 1: "b"})
    bright = [replace(s, labels={"tone": tone(s)}) for s in TILES]
    model = OlmoEarth(SMALL, seed=1)
    coin, red = (probe_tiles(model, t, label=k) for t, k in ((noise, "coin"), (bright, "tone")))
    assert abs(coin["knn/accuracy"] - .5) < .12 and red["linear/accuracy"] > .65


def test_places_get_their_own_mean_and_gaps_do_not_count():
    x = np.zeros((4, 4, 2)); x[::2, ::2] = 5.; x[0, 0] = np.nan
    means = place_means([x, x], 2)
    assert means.shape == (2, 2, 2) and np.allclose(means[0, 0], 5) and np.allclose(means[1, 1], 0)
    assert np.allclose(place_means([np.full((2, 2, 3), np.nan)], 2), 0)


def test_missing_pixels_of_the_map_are_no_class():
    s = TILES[0]
    gaps = np.zeros(s.arrays["worldcover"].shape, bool); gaps[:16] = True
    cells, classes = labelled_cells(replace(s, missing={**s.missing, "worldcover": gaps}), np.indices((8, 8)).transpose(1, 2, 0).astype(float))
    assert len(classes) and cells[:, 0].min() >= 4 and (classes >= 0).all()
    assert find_label(replace(s, arrays={**s.arrays}), "worldcover").ignore == (-1,)


def test_faults_are_said():
    model = OlmoEarth(SMALL, seed=1)
    with pytest.raises(InputError, match="give two or more"): probe_tiles(model, TILES[:1])
    with pytest.raises(InputError, match="no classes named 'soil'"): probe_tiles(model, TILES, label="soil")
    with pytest.raises(InputError, match="a smaller min_cells"): probe_tiles(model, TILES, min_cells=10_000)
    with pytest.raises(InputError, match="every=0"): ProbeWatch(TILES, every=0)
    with pytest.raises(InputError, match="use one or both of knn, linear"): ProbeWatch(TILES, kinds=("svm",))
    with pytest.raises(InputError, match="use one or both"): ProbeWatch(TILES, kinds=())


@pytest.mark.parametrize("first", [True, False])
def test_a_probe_that_does_not_gain_is_found_wherever_the_watch_stands(first):
    class Made(ProbeWatch):
        "Writes the rows of a run whose probe does not gain."
        def on_start(self, trainer): pass
        def on_step(self, trainer):
            trainer.history.rows[-1].update({"held/share": 1 - .03 * trainer.step, "probe": .5, "probe/gain": 0.})
    watch, made = HealthWatch(every=50), Made(TILES)
    with pytest.warns(UserWarning, match="overfitting"): make([watch, made] if first else [made, watch]).fit()
    assert [f.name for f in watch.findings] == ["overfitting"]


def test_overfitting_counts_from_chance_and_ignores_a_waver():
    rows = lambda held, gain: [{"step": i + 1, "held/share": h, "probe": .5 + g, "probe/gain": g} for i, (h, g) in enumerate(zip(held, gain, strict=True))]
    assert overfitting(rows([1.2, 1.1, 1.05, 1.0], [0.] * 4)) is None
    assert overfitting(rows([1.2, 1.1, 1.0, .9], [.1, .05, .004, .002])) is not None
    assert overfitting(rows([1.2, 1.1, 1.0, .9], [.0, .0, .004, .02])) is None
    assert "from 0.500 to 0.502" in overfitting(rows([1., .9, .9, .9], [0., 0., 0., .002])).reason


def test_what_embedding_leaves_behind_serves_a_training():
    "Index tensors are kept from call to call; embedding runs in inference mode, where autograd would refuse them later."
    from olmoearth.scenes import collate, embed_scene
    model, scene = make().model, TILES[0]
    small = scene.crop(0, 0, 24, 16)
    embed_scene(small, model, patch_size=8, window=24, check="off")
    loss = model.embed(collate([small.select([m for m in small.modalities if m in model.config.inputs])], 8, model.config.preset)).nan_to_num().sum()
    loss.backward()
    assert torch.isfinite(loss)
