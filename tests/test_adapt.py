"Adapting a model: the target's bytes, the starting model, what is measured and what cannot be, faults in one line."
import dataclasses
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from olmoearth.adapt import Change, adapt, app, blocks, hold_out, probe_changes
from olmoearth.datasets import example_scene
from olmoearth.model import Config, OlmoEarth
from olmoearth.pretrained import load, load_target, read_card, save
from olmoearth.samples import InputError
from olmoearth.stacks import write_geotiffs
from olmoearth.targets import FrozenProjection


@pytest.fixture(scope="module")
def scene():
    return example_scene("simulated").at_times([3, 6]).crop(0, 0, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A fresh Nano with its target. The model has moved since, as one that was trained."
    model = OlmoEarth(Config.of("nano", "v1.2", init="centred", band_dropout=0.0), seed=0)
    target = FrozenProjection.of(model.patch_embedding)
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return save(model, tmp_path_factory.mktemp("model") / "start", target=target, seed=0)


def bytes_of(target): return {k: v.numpy().tobytes() for k, v in target.state_dict().items()}


def test_the_target_stays_and_the_model_moves(folder, scene, tmp_path):
    before, card = bytes_of(load_target(folder)), (folder / "model.safetensors").read_bytes()
    result = adapt(folder, scene, steps=6, lr=1e-3)
    assert bytes_of(result.target) == before and len(result.history) == 6 and not any("no target came" in n for n in result.notes)
    kept = result.save(tmp_path / "adapted")
    assert bytes_of(load_target(kept)) == before and read_card(kept)["target"] == read_card(folder)["target"]
    assert any((a != b).any() for a, b in zip(load(kept).parameters(), load(folder).parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(load(kept).parameters(), result.model.cpu().parameters(), strict=True))
    assert (folder / "model.safetensors").read_bytes() == card                                            # the start is as it was
    facts = read_card(kept)["facts"]
    assert facts["start"] == str(folder) and facts["recipe"]["steps"] == 6 and facts["report"] == result.words


def test_the_target_of_the_first_day_is_used_and_not_one_of_today(folder, scene):
    assert adapt(folder, dataclasses.replace(scene, labels={}), steps=1).target.digest() != FrozenProjection.of(load(folder).patch_embedding).digest()


def test_a_model_in_memory_is_copied_and_gets_a_target(folder, scene):
    model = load(folder)
    before = [p.clone() for p in model.parameters()]
    result = adapt(model, dataclasses.replace(scene, labels={}), steps=3, lr=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) and result.model is not model
    assert result.target.digest() == FrozenProjection.of(model.patch_embedding).digest() and any("no target came with the model" in n for n in result.notes)


def test_the_same_seed_is_the_same_result(folder, scene):
    bare = dataclasses.replace(scene, labels={})
    a, b, c = (adapt(folder, bare, steps=3, lr=1e-3, seed=s) for s in (0, 0, 1))
    same = lambda x, y: all(torch.equal(p, q) for p, q in zip(x.model.parameters(), y.model.parameters(), strict=True))
    assert same(a, b) and a.words == b.words and not same(a, c)


def test_labels_are_used_for_the_probes_alone(folder, scene):
    with_labels, without = adapt(folder, scene, steps=3), adapt(folder, dataclasses.replace(scene, labels={}), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(with_labels.model.parameters(), without.model.parameters(), strict=True))
    assert [c.what for c in with_labels.changes] == ["simulated: 20 nearest neighbours", "simulated: linear probe", "pretext loss on held-out blocks, share of chance"]
    assert [c.what for c in without.changes] == ["pretext loss on held-out blocks, share of chance"] and "no labels, so no probe could be made" in without.words[-1]
    one = dataclasses.replace(scene, labels={"land_cover": dataclasses.replace(scene.labels["land_cover"], values=np.ones((64, 64), int))})
    assert any("no probe could be made: the training blocks hold 1 class" in n for n in adapt(folder, one, steps=1).notes)


def test_maps_are_not_learned_from(folder, scene):
    sensors = [k for k in scene.modalities if k in Config().inputs]
    a, b = (adapt(folder, dataclasses.replace(s, labels={}), steps=2) for s in (scene, scene.select(sensors)))
    assert "worldcover" in scene.modalities and all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_training_helps_on_what_was_held_out(scene):
    model = OlmoEarth(Config.of("nano", "v1.2", init="centred", band_dropout=0.0), seed=0)
    change = adapt(model, dataclasses.replace(scene, labels={}), steps=40, lr=1e-3).changes[-1]
    assert change.after < change.before and change.verdict == "better" and change.high < 0


def test_one_sensor_one_date_one_block(folder, scene):
    small = dataclasses.replace(scene, labels={}).select(["sentinel1"]).at_times([0]).crop(0, 0, 16, 16)
    result = adapt(folder, small, steps=2)
    assert result.changes == [] and any("a single block" in n for n in result.notes)
    both = adapt(folder, [small, dataclasses.replace(scene, labels={}).select(["sentinel2_l2a"])], steps=2)
    assert len(both.changes) == 1 and sum("no labels" in n for n in both.notes) == 2


def test_blocks_with_gaps_are_left_out(scene):
    gone = scene.select(["sentinel2_l2a"])
    mask = np.zeros(gone.arrays["sentinel2_l2a"].shape, bool)
    mask[:32] = True
    some = dataclasses.replace(gone, missing={"sentinel2_l2a": mask})
    assert len(blocks(gone, ["sentinel2_l2a"], 16)) == 4 and len(blocks(some, ["sentinel2_l2a"], 16)) == 2
    mask[:, :, 1] = False                                                                                 # the other date has all
    assert len(blocks(some, ["sentinel2_l2a"], 16)) == 4
    mask[:] = True
    with pytest.raises(InputError, match="lacks a quarter of its pixels"): blocks(some, ["sentinel2_l2a"], 16)
    for n in range(1, 20):
        train, aside = hold_out([scene] * n)
        assert len(train) + len(aside) == n and train and bool(aside) == (n > 1)


def test_verdicts_and_probes_of_noise():
    assert str(Change("linear probe", 61.2, 62.0, -0.6, 2.1)) == "linear probe 61.2 -> 62.0 % (difference +0.8, interval -0.6 .. +2.1): within noise"
    assert Change("", 1, 2, float("nan"), float("nan")).verdict == "no interval"
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, (48, 48))
    for change in probe_changes(draw.standard_normal((48, 48, 8)), draw.standard_normal((48, 48, 8)), labels): assert change.verdict == "within noise"
    with pytest.raises(InputError): probe_changes(np.zeros((16, 16, 2)), np.zeros((16, 16, 2)), np.full((16, 16), -1))


def test_the_command(folder, scene, tmp_path):
    write_geotiffs(scene, tmp_path / "scene")
    call = lambda *words: CliRunner().invoke(app, ["adapt", *map(str, words)])
    done = call("--scene", tmp_path / "scene", "--model", folder, "--steps", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0 and "linear probe" in done.output and "pretext loss" in done.output, done.output + done.stderr
    assert load(tmp_path / "out") and json.loads((tmp_path / "out/config.json").read_text())["target"]
    write_geotiffs(scene.crop(0, 0, 12, 12), tmp_path / "tiny")
    write_geotiffs(dataclasses.replace(scene.select(["worldcover"])), tmp_path / "maps")
    for words, answer in (([], "name a scene"), (["--scene", tmp_path / "none", "--model", folder], "there is no 'none'"),
                          (["--scene", tmp_path / "tiny", "--model", folder], "a crop needs 16"),
                          (["--scene", tmp_path / "maps", "--model", folder], "the model reads sentinel2_l2a"),
                          (["--scene", tmp_path / "scene", "--model", "sim-nanoo"], "no model 'sim-nanoo'"),
                          (["--scene", tmp_path / "scene", "--model", folder, "--out", folder], "choose another folder"),
                          (["--scene", tmp_path / "scene", "--model", folder, "--offset", "7"], "write 0 or 1000")):
        done = call(*words)
        assert done.exit_code == 1 and answer in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
