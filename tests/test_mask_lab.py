"""The mask lab without a browser: settings, state, errors that are said."""
import json

import numpy as np
import pytest
import torch

from olmoearth.mask_lab import COPIES, MaskLab, copies
from olmoearth.masking import _STRATEGIES, random_mask, strategy
from olmoearth.panels import copyable
from olmoearth.samples import Sample
from olmoearth.synthetic import World
from olmoearth.tokens import Role


@pytest.fixture(scope="module")
def sample(): return World(seed=2, missing_modality=0).window(0, 0, 32, year=2019, months=4, modalities=["sentinel2_l2a", "landsat"])


@pytest.fixture
def mine():
    before = dict(_STRATEGIES)
    yield
    _STRATEGIES.clear()
    _STRATEGIES.update(before)


def test_a_lab_comes_back_from_its_state(sample):
    lab = MaskLab(sample, strategy="cross_modality", options={"base": "space", "min_encode": 1}, patch_size=8, times=3, seed=5)
    lab.set(image=("landsat", 1), time=2, shows="copies")
    again = MaskLab.from_state(sample, json.loads(json.dumps(lab.state)))
    assert again.state == lab.state and torch.equal(again.mask.role, lab.mask.role)
    assert again.panel().title == lab.panel().title == "could be copied from: Landsat 8/9 30 m, 2019-03-15"
    lab.set(times=1)
    assert lab.date == 0 and lab.time == 2 and lab.canvas.level == "info"      # the date that was chosen waits


@pytest.mark.parametrize("change, said", [
    ({"strategy": "nobody"}, "unknown mask strategy 'nobody'"), ({"sead": 3}, "there is no sead; there are strategy, options"),
    ({"shows": "all"}, "shows='all'; use one of mask"), ({"patch_size": 99}, "patch_size=99"),
    ({"times": 9}, "the sample has 4 dates"), ({"shows": "loss"}, "press the button first"), ({"image": ("sentinel1", 0)}, "no bandset 0 of sentinel1")])
def test_what_does_not_fit_is_said_and_the_lab_goes_on(sample, change, said):
    lab = MaskLab(sample, strategy="space")
    mask = lab.mask
    lab.set(**change)
    assert lab.canvas.level == "error" and said in lab.canvas.message and lab.mask is mask
    lab.set(strategy="time", shows="mask", image=("landsat", 0), times=2, patch_size=4)
    assert lab.canvas.level == "info" and lab.mask is not mask


def test_bad_input_is_said(sample):
    lab = MaskLab("no/such/folder")
    assert "there is no 'no/such/folder'" in lab.canvas.message
    lab.set(seed=3)
    lab.refresh()
    assert lab.canvas.level == "error" and lab.mask is None
    for wrong in (Sample({}, []), Sample({"sentinel1": np.full((8, 8, 1, 2), np.nan, np.float32)}, ["2020-01-01"])): assert MaskLab(wrong).canvas.level == "error"
    assert "no model 'nobody'" in MaskLab(sample, "nobody").canvas.message
    lab = MaskLab(sample)
    lab.ask("loss")
    assert "the loss needs a model" in lab.canvas.message


def test_a_sample_without_a_place_has_pictures(sample):
    bare = Sample(sample.arrays, sample.times)
    lab = MaskLab(bare, strategy="space")
    assert lab.mask is not None and sum(bool(a.get_title()) for a in lab.picture().axes) == len(lab.mask.cut.layout.slices)


def test_a_strategy_is_followed(sample, mine):
    def own(layout, missing, generator, encode_ratio: float = .2): return random_mask(layout, missing, generator, encode_ratio)
    lab = MaskLab(sample, strategy=own)
    assert lab.settings.strategy == "own" and "own" in _STRATEGIES
    before = lab.mask
    lab.refresh()
    assert lab.mask is before                                                  # nothing new
    @strategy("own")
    def other(layout, missing, generator): raise ValueError("not yet")
    lab.refresh()
    assert "'own' raised ValueError: not yet" in lab.canvas.message and lab.mask is before
    lab.say("something else")
    lab.refresh()
    assert lab.canvas.message == "something else"                              # said once
    strategy("own")(own)
    lab.refresh()
    assert lab.canvas.level == "info"


def test_copies_name_every_hidden_token_on_the_ground(sample):
    lab = MaskLab(sample, strategy="random", options={"encode_ratio": .05, "decode_ratio": .5})
    found, kinds = copies(lab.mask), copyable(lab.mask.role, lab.mask.cut.layout)
    assert ((found >= 0) == (lab.mask.role[0] == Role.DECODE).numpy()).all() and set(found) <= {-1, *COPIES}
    assert ((found == 3) == ((lab.mask.role[0] == Role.DECODE) & ~kinds["either"][0]).numpy()).all()


def test_memory_that_runs_out_is_said(sample, monkeypatch):
    import olmoearth.mask_lab as home
    lab = MaskLab(sample, "sim-nano", window=(0, 0, 16, 16), times=1, strategy="random")
    monkeypatch.setattr(home, "token_loss", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    assert lab.ask("loss").wait(60) and lab.canvas.level == "error" and "memory of this machine is too small" in lab.canvas.message
    monkeypatch.undo()
    assert lab.ask("loss").wait(60) and lab.shows == "loss" and "loss" in lab._words(*np.argwhere(lab.mask.states("sentinel2_l2a") == Role.DECODE)[0], 0)


def test_the_experiment_of_a_lab_is_written(sample, tmp_path):
    lab = MaskLab(sample, strategy="space", options={"encode_ratio": .25})
    path = lab.write(tmp_path / "mine.ipynb")
    assert path.exists() and "olmoearth run" in lab.canvas.message and "encode_ratio = 0.25" in path.read_text()
    assert lab.write(tmp_path / "mine.txt") is None and lab.canvas.level == "error"
