"""Released folders: bad ones are refused with their reason, good ones arrive bit by bit."""

import json
import pickle

import pytest
import torch

from olmoearth import official_weights
from olmoearth.model import Config, OlmoEarth
from olmoearth.modalities import MAPS, SENSORS, UnknownName, bandsets
from olmoearth.official_weights import (
    MODELS, config_from_official, fetch, find_release, from_official, load_official, models_table, name_map, official_config, read_official,
    save_official, to_official, version_of)
from olmoearth.samples import InputError
from olmoearth.targets import FrozenProjection

SMALL = Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2)


@pytest.fixture(scope="module")
def model():
    return OlmoEarth(SMALL, seed=3)


@pytest.fixture
def folder(model, tmp_path):
    return save_official(model, tmp_path / "saved")


def same(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


def test_every_weight_of_model_and_target_is_mapped_once(model):
    entries = name_map(model)
    target = FrozenProjection.of(model.patch_embedding)
    assert [e.ours for e in entries if not e.ours.startswith("target.")] == list(model.state_dict())
    assert {e.ours.removeprefix("target.") for e in entries if e.ours.startswith("target.")} == set(target.state_dict())
    assert len({e.theirs for e in entries}) == len(entries)


def test_no_two_weights_are_exchanged(model):
    "Give every number of the model its own value, and look for each after the way there and back."
    marked = OlmoEarth(SMALL)
    start = 0
    for p in marked.parameters():
        p.data = torch.arange(start, start + p.numel(), dtype=torch.float32).reshape(p.shape)
        start += p.numel()
    assert same(from_official(to_official(marked), SMALL)[0], marked)


def test_kernels_have_the_released_shape(model):
    state = to_official(model)
    for name in SENSORS + MAPS:
        for i, b in enumerate(bandsets(name)):
            assert state[f"encoder.patch_embeddings.per_modality_embeddings.{name}.{name}__{i}.proj.weight"].shape == (32, len(b.bands), 8, 8)


def test_modalities_without_pixels_have_a_plain_matrix():
    config = Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2, modalities=("sentinel1", "era5_10", "latlon"), inputs=("sentinel1",))
    model = OlmoEarth(config, seed=1)
    state = to_official(model)
    assert state["encoder.patch_embeddings.per_modality_embeddings.era5_10.era5_10__0.weight"].shape == (32, 6)
    assert same(from_official(state, config)[0], model)


@pytest.mark.parametrize("safetensors", [False, True])
def test_folder_round_trip_with_a_target_of_its_own(model, tmp_path, safetensors):
    target = FrozenProjection.of(OlmoEarth(SMALL, seed=9).patch_embedding)
    found = read_official(save_official(model, tmp_path, target, safetensors))
    assert same(found.model, model) and found.target.digest() == target.digest() and not found.model.training
    assert (tmp_path / "weights.safetensors").exists() == safetensors and not list(tmp_path.glob("*.part"))
    assert found.model.config == SMALL


def test_a_target_is_not_taken_from_the_model_where_the_file_has_another(model):
    state = to_official(model, FrozenProjection.of(OlmoEarth(SMALL, seed=9).patch_embedding))
    assert from_official(state, SMALL)[1].digest() != FrozenProjection.of(model.patch_embedding).digest()


def test_missing_unexpected_and_misshapen_weights_are_all_listed(model):
    state = to_official(model)
    del state["encoder.norm.bias"]
    state["encoder.blocks.0.attn.rope_mixed_freqs"] = torch.zeros(3, 2, 8)
    with pytest.raises(InputError, match="(?s)do not fit v1 nano.*missing: encoder.norm.bias.*unexpected: encoder.blocks.0.attn.rope_mixed_freqs"):
        from_official(state, SMALL)
    with pytest.raises(InputError, match=r"shape of decoder.output.bias: \(7,\) in the file, \(32,\) in the model"):
        from_official(to_official(model) | {"decoder.to_output_embed.bias": torch.zeros(7)}, SMALL)


def test_a_missing_target_is_an_error(model):
    state = {k: v for k, v in to_official(model).items() if not k.startswith("target_encoder.patch")}
    with pytest.raises(InputError, match="missing: target_encoder.patch_embeddings"): from_official(state, SMALL)


def test_heads_of_training_alone_are_dropped_as_the_released_code_does(model):
    state = to_official(model) | {"supervision_head.0.weight": torch.ones(2, 2), "location_token_distillation_head.1.bias": torch.ones(3)}
    again, _ = from_official(state, model.config)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_another_month_table_is_refused(model):
    key = "decoder.composite_encodings.month_embed.weight"
    with pytest.raises(InputError, match="table of months"): from_official(to_official(model) | {key: torch.zeros(12, 8)}, SMALL)


def test_old_position_tables_are_dropped_as_the_released_code_does(model):
    state = to_official(model) | {"encoder.composite_encodings.pos_embed": torch.zeros(12, 8)}
    assert same(from_official(state, SMALL)[0], model)


def test_truncated_empty_and_foreign_files(folder):
    path = folder / "weights.pth"
    whole = path.read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="cut short|damaged"): load_official(folder)
    path.write_bytes(b"<html>404 not found</html>")
    with pytest.raises(InputError, match="damaged or no checkpoint"): load_official(folder)
    torch.save({"model": {"a": torch.ones(1)}}, path)
    with pytest.raises(InputError, match="not names and tensors"): load_official(folder)


class Attack:
    "Runs code when it is unpickled."
    def __init__(self, flag): self.flag = str(flag)
    def __reduce__(self): return (open, (self.flag, "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["torch", "pickle"])
def test_code_in_a_file_is_not_run(folder, tmp_path, how):
    flag = tmp_path / "it-ran"
    how({"encoder.norm.weight": Attack(flag)}, folder / "weights.pth")
    with pytest.raises(InputError, match="none of it was run"): load_official(folder)
    assert not flag.exists()


def test_truncated_safetensors(model, tmp_path):
    save_official(model, tmp_path, safetensors=True)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="cut short"): load_official(tmp_path)


def test_damaged_and_absent_pages(folder):
    page = folder / "config.json"
    text = page.read_text()
    page.write_text(text[:50])
    with pytest.raises(InputError, match="not JSON"): load_official(folder)
    page.write_text("{}")
    with pytest.raises(InputError, match="no released configuration"): load_official(folder)
    page.unlink()
    with pytest.raises(InputError, match="config.json beside weights.pth"): load_official(folder)
    page.write_text(text)
    (folder / "weights.pth").unlink()
    with pytest.raises(InputError, match="none of weights.pth"): load_official(folder)


def test_a_version_that_is_not_built_says_so(folder, monkeypatch):
    card = json.loads((folder / "config.json").read_text())
    monkeypatch.setattr(official_weights, "VERSIONS", {"v1": {}})
    card["model"]["encoder_config"]["position_encoding"] = "rope_3d_mixed"
    with pytest.raises(InputError, match="describes v1.2; this package builds v1"): config_from_official(card)


def test_versions_are_told_apart():
    assert version_of({}) == "v1" and version_of({"patch_embed_hidden_sizes": [64], "position_encoding": "absolute"}) == "v1.1"
    assert version_of({"patch_embed_hidden_sizes": [64], "position_encoding": "rope_3d_mixed"}) == "v1.2"
    assert version_of({"position_encoding": "rope_3d_mixed", "attention_pooler_config": {"pooler_dim": 768}}) == "v1.3"


@pytest.mark.parametrize("key, value", [("num_register_tokens", 4), ("qk_norm", True), ("max_patch_size", 16)])
def test_settings_that_change_the_model_are_refused(key, value):
    card = official_config(SMALL)
    card["model"]["encoder_config"][key] = value
    with pytest.raises(InputError, match=f"encoder_config.{key} = {value}"): config_from_official(card)


@pytest.mark.parametrize("release", MODELS, ids=lambda r: r.name)
def test_the_page_of_every_released_model_reads_back(release):
    config = Config.of(release.size, release.version)
    assert config_from_official(json.loads(json.dumps(official_config(config)))) == config


def test_the_page_keeps_sizes_modalities_and_inputs():
    config = Config.of("tiny", modalities=SENSORS + ("worldcover", "era5_10"), inputs=("sentinel2_l2a", "era5_10"), drop_path=0.2)
    assert config_from_official(json.loads(json.dumps(official_config(config)))) == config


@pytest.mark.parametrize("release", MODELS, ids=lambda r: r.name)
def test_every_name_in_every_spelling(release):
    dotted = release.name.replace("_", ".")
    for name in (release.name, release.repo, dotted, f"allenai/{dotted}", dotted.upper(), dotted.removeprefix("OlmoEarth-")): assert find_release(name) is release


def test_unknown_names_list_the_known_ones():
    for name in ("OlmoEarth-v2-Nano", "v1", "OlmoEarth-v1_3-Nano", ""):
        with pytest.raises(UnknownName, match="OlmoEarth-v1_2-Small"): find_release(name)


def test_offline_settings_forbid_the_network(monkeypatch, tmp_path):
    monkeypatch.setenv("OLMOEARTH_OFFLINE", "true")
    monkeypatch.setattr(official_weights, "cached", lambda r: None)
    with pytest.raises(InputError, match="settings say offline"): load_official("OlmoEarth-v1-Nano")


def test_a_cached_model_needs_no_network(monkeypatch, tmp_path, model):
    "A cache as the hub lays it out, and a hub that fails the test when it is asked."
    import huggingface_hub
    home = tmp_path / "models--allenai--OlmoEarth-v1-Nano"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    save_official(model, home / "snapshots" / "abc")
    find = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, f: find(repo, f, cache_dir=tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: pytest.fail("asked the network"))
    assert same(load_official("allenai/OlmoEarth-v1-Nano"), model)
    assert next(r for r in models_table() if r["name"] == "OlmoEarth-v1-Nano")["cached"] == "yes"


def test_a_failed_download_says_what_to_do(monkeypatch):
    import huggingface_hub
    def fail(*a): raise ConnectionError("no route to host\nand more")
    monkeypatch.setattr(official_weights, "cached", lambda r: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match="ConnectionError: no route to host.*by hand"): fetch(find_release("v1-nano"))
