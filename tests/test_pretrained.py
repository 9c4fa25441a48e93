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
from olmoearth.settings import SettingError
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


def test_a_target_that_follows_from_the_seed_takes_no_room_and_is_checked(folder, tmp_path):
    target = FrozenProjection.of(OlmoEarth(SMALL, seed=5).patch_embedding)
    assert not [k for k in load_file(folder / "model.safetensors") if k.startswith("target.")]
    assert load_target(folder).digest() == target.digest()
    half = save(OlmoEarth(SMALL, seed=5), tmp_path / "h", target, half=True)
    assert load_target(half).digest() == target.digest(), "half precision is of the model alone"
    change(folder, target="0" * 16)                          # other last digits: the numbers decide
    assert load_target(folder).digest() == target.digest()
    change(folder, seed=6)
    with pytest.raises(InputError, match="seed 6 is not the one that this model was trained against"): load_target(folder)


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
    for bad in (b"", whole[:-5], b"\xff" + whole[1:], pickle.dumps({"a": 1})):
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
    with pytest.raises(InputError, match="unknown field width; the file was changed"): load(folder)
    change(folder, code="9.9")
    with pytest.raises(InputError, match="written by version 9.9, this is"): load(folder)
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


@pytest.mark.parametrize("change, answer", [
    (lambda c: c.pop("seed"), "seed missing"), (lambda c: c.pop("config"), "config missing"), (lambda c: c.update(seed="0"), "seed missing or of the wrong kind"),
    (lambda c: c["config"].update(depth="4"), "depth is '4', where 4 would be usual"), (lambda c: c["config"].update(wings=2), "unknown field wings; the file was changed")])
def test_a_page_that_someone_changed(tmp_path, change, answer):
    folder = save(OlmoEarth(Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2)), tmp_path / "m")
    page = json.loads((folder / "config.json").read_text())
    change(page)
    (folder / "config.json").write_text(json.dumps(page))
    with pytest.raises(InputError, match=answer): load(folder)


def test_slips_in_the_name_and_the_device(tmp_path):
    folder = save(OlmoEarth(Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2)), tmp_path / "m")
    with pytest.raises(InputError, match="is a file; give the folder"): load(folder / "model.safetensors")
    with pytest.raises(InputError, match="did you mean 'allenai/OlmoEarth-v1_2-Nano'"): load("allenai/OlmoEarth-v1_2-Nanno")
    with pytest.raises(SettingError, match="device 'gpu' is not known"): load(folder, device="gpu")
