"The model in the box: there without a network, small, whole, and what its card says it is."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import olmoearth
from olmoearth.adapt import adapt
from olmoearth.arms import labelled_scenes
from olmoearth.model import OlmoEarth
from olmoearth.pretrained import PACKAGE, describe, first_target, known_models, load, load_target, read_card
from olmoearth.probes import centre_by_position, checkerboard, score
from olmoearth.samples import InputError
from olmoearth.scenes import embed_scene
from olmoearth.synthetic import World

HOME = PACKAGE / "weights/sim-nano"


def test_it_is_in_the_package_and_small():
    assert known_models()["sim-nano"] == HOME
    assert sum(f.stat().st_size for f in HOME.iterdir()) < 6e6 and {f.name for f in HOME.iterdir()} == {"model.safetensors", "config.json"}
    assert json.loads((HOME / "config.json").read_text())["half"]


def test_the_whole_model_comes_with_its_target():
    model, target = load("sim-nano"), load_target("sim-nano")
    assert (model.config.size, model.config.version, model.config.dim, model.config.depth, model.config.decoder_depth) == ("nano", "v1.2", 128, 4, 4)
    assert target.digest() == first_target(model.config, model.seed).digest(), "the projection is that of its first weights"
    assert any(not torch.equal(a, b) for a, b in zip(model.decoder.state_dict().values(), OlmoEarth(model.config, model.seed).decoder.state_dict().values(), strict=True))


def test_the_card_says_what_was_measured():
    card = read_card("sim-nano")
    facts = card["facts"]
    assert load_target("sim-nano") is not None and card["target"] and card["target_numbers"]      # which is an error where the numbers are others than those on the card
    assert {"data", "recipe", "probes", "curve"} <= set(facts)
    assert "recipe: steps" in describe("sim-nano") and "| step |" in describe("sim-nano")


def test_the_card_tells_the_truth():
    "The figures of the card are those that the shipped weights give; half precision moves them by little."
    scenes, said = labelled_scenes(), read_card("sim-nano")["facts"]["probes"]
    if not scenes: pytest.skip("the real scenes are not at hand")
    for name, (scene, labels) in scenes.items():
        x, train = embed_scene(scene, load("sim-nano"), check="off").values, checkerboard(labels.shape)
        assert score(centre_by_position(x), labels, train, "knn").macro_f1 == pytest.approx(said[f"real/{name}/knn"], abs=2)
        assert score(x, labels, train, "linear").macro_f1 == pytest.approx(said[f"real/{name}/linear"], abs=2)


def test_adapt_begins_with_it_and_leaves_its_target():
    scene = World(seed=3, clouds=0, missing_time=0, missing_modality=0).window(716160, -7936, 64, 2020, 1, ("sentinel2_l2a", "sentinel1"))
    found = adapt("sim-nano", replace(scene, labels={}), steps=2)
    assert found.target.digest() == load_target("sim-nano").digest() and np.isfinite(embed_scene(scene, found.model, check="off").values).all()


def test_it_answers_for_what_it_does_not_read():
    scene = World(seed=3).window(716160, -7936, 32, 2020, 1, ("worldcover",))
    with pytest.raises(InputError, match="the model reads"): embed_scene(scene, olmoearth.load("sim-nano"), check="off")
