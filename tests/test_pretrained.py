"Pretrained: round trip, names, strictness, damaged files, no code in weights."
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from olmoearth import pretrained
from olmoearth.model import Config, OlmoEarth
from olmoearth.pretrained import find_model, known_models, load, load_target, read_card, save
from olmoearth.samples import InputError
from olmoearth.targets import FrozenProjection

SMALL = Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2, modalities=("sentinel2_l2a", "sentinel1", "srtm"), inputs=("sentinel2_l2a", "sentinel1"))


@pytest.fixture
def folder(tmp_path):
    model = OlmoEarth(SMALL, seed=5)
    return save(model, tmp_path / "m", FrozenProjection.of(model.patch_embedding), recipe={"lr": .1}, data="abc")


def change(folder, **card):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | card))


def test_round_trip_of_an_unusual_model(folder):
    model = load(folder)
    assert model.config == SMALL and model.seed == 5 and not model.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), OlmoEarth(SMALL, seed=5).state_dict().values(), strict=True))
    card = read_card(folder)
    assert card["facts"] == {"recipe": {"lr": .1}, "data": "abc"} and card["seed"] == 5
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json"}


def test_target_is_the_saved_one_not_a_new_one(folder, tmp_path):
    other = FrozenProjection.of(OlmoEarth(SMALL, seed=9).patch_embedding)
    f = save(OlmoEarth(SMALL, seed=5), tmp_path / "n", other)
    assert load_target(f).digest() == other.digest() == read_card(f)["target"] != load_target(folder).digest()
    assert not list(load_target(f).parameters())


def test_names(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="no model 'mine'.*known names are"): load("mine")
    save(OlmoEarth(SMALL), tmp_path / "cache" / "models" / "mine")
    assert "mine" in known_models() and load("mine").config == SMALL
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no config.json"): find_model(tmp_path / "empty")


def test_misfits_are_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.mask_token"]
    tensors["stranger"] = torch.zeros(1)
    tensors["encoder.norm.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError) as e: load(folder)
    for line in ("missing: decoder.mask_token", "unexpected: stranger", r"shape of encoder.norm.weight: (7,) in the file, (32,) in the model"): assert line in str(e.value)


def test_damaged_files(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for bad in (b"", whole[:-5], b"\x80" + whole[1:], pickle.dumps({"a": 1})):
        (folder / "model.safetensors").write_bytes(bad)
        with pytest.raises(InputError, match="damaged or cut short"): load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="incomplete"): load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"): load(folder)


def test_weights_run_no_code(folder, tmp_path):
    mark = tmp_path / "ran"
    class Evil:
        def __reduce__(self): return Path.touch, (mark,)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError): load(folder)
    assert not mark.exists()


def test_other_format_or_version(folder):
    change(folder, format="olmoearth-2")
    with pytest.raises(InputError, match="expected 'olmoearth-1'"): load(folder)
    change(folder, format="olmoearth-1", config={"width": 3})
    with pytest.raises(InputError, match="another version"): load(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="expected 'olmoearth-1'"): load(folder)


def test_half(tmp_path):
    model = OlmoEarth(SMALL, seed=1)
    f = save(model, tmp_path / "h", half=True)
    for k, v in load(f).state_dict().items():
        assert v.dtype == model.state_dict()[k].dtype and torch.allclose(v, model.state_dict()[k], atol=1e-3)


def test_a_save_that_fails_leaves_the_old_model(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="plain JSON"): save(OlmoEarth(SMALL, seed=8), folder, recipe=object())
    assert (folder / "model.safetensors").read_bytes() == before and read_card(folder)["seed"] == 5


def test_code_version_follows_the_code(monkeypatch, tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.setattr(pretrained, "PACKAGE", tmp_path)
    one = pretrained.code_version()
    (tmp_path / "a.py").write_text("x = 2")
    assert pretrained.code_version() != one
