"""Exported files: any number of samples, gaps, every sensor, and what is refused."""
import json

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from olmoearth.experiments import app
from olmoearth.export import SceneEncoder, check_onnx, export_onnx, export_torch
from olmoearth.loading import collate
from olmoearth.model import Config, OlmoEarth
from olmoearth.modalities import SENSORS
from olmoearth.pretrained import save
from olmoearth.samples import InputError, day_index
from olmoearth.synthetic import World


@pytest.fixture(scope="module")
def nano() -> OlmoEarth:
    return OlmoEarth(Config.of("nano"), seed=3).eval()


@pytest.fixture(scope="module")
def files(nano, tmp_path_factory):
    "One ONNX file of all sensors at patch 8, and the module it was made from."
    path = tmp_path_factory.mktemp("onnx") / "nano.onnx"
    export_onnx(nano, path, SENSORS, side=16, times=2, patch_size=8, licence="CC0-1.0", source="test")
    return path, SceneEncoder(nano, SENSORS, 16, 2, 8)


def inputs(samples, names=SENSORS):
    days = day_index(np.stack([s.times for s in samples]))
    return {"days": days} | {k: np.stack([np.where(s.mask(k), np.float32(np.nan), s.arrays[k].astype(np.float32)) for s in samples]) for k in names}


def windows(n, size=16, months=2, **rates):
    world = World(seed=1, missing_modality=0, **rates)
    return [world.window(300 * i, 40, size, 2021, months=months, modalities=SENSORS) for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_onnx_takes_any_number_of_samples_and_says_what_embed_says(files, nano, n):
    samples = windows(n, clouds=0.4)
    got = onnxruntime.InferenceSession(str(files[0])).run(None, inputs(samples))[0]
    with torch.no_grad(): expected = nano.embed(collate(samples, 8)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_sample_without_pixels_is_nan_and_touches_no_other(files):
    samples = inputs(windows(2))
    run = onnxruntime.InferenceSession(str(files[0]))
    whole = run.run(None, samples)[0]
    for k in SENSORS: samples[k][1] = np.nan
    got = run.run(None, samples)[0]
    assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got[0], whole[0], atol=1e-5)


def test_the_page_in_the_file(files):
    page = onnxruntime.InferenceSession(str(files[0])).get_modelmeta().custom_metadata_map
    facts = json.loads(page["inputs"])
    assert page["licence"] == "CC0-1.0" and page["format"] == "olmoearth-export-1"
    assert list(facts) == ["days", *SENSORS] and facts["sentinel2_l2a"]["bands"][0] == "B02" and facts["sentinel1"]["unit"] == "dB"
    assert facts["landsat"]["shape"] == ["batch", 16, 16, 2, 11]


def test_a_file_of_another_model_is_caught(files):
    other = SceneEncoder(OlmoEarth(Config.of("nano"), seed=4), SENSORS, 16, 2, 8)
    with pytest.raises(InputError, match="differs from the model"): check_onnx(files[0], other)


@pytest.mark.parametrize("version, patch, times", [("v1", 1, 1), ("v1.1", 2, 3), ("v1.2", 8, 20), ("v1.3", 4, 12)])
def test_the_table_equals_the_lists(version, patch, times):
    model = OlmoEarth(Config.of("nano", version), seed=0).eval()
    samples = windows(2, 8, min(times, 12), clouds=0.5, missing_time=0.3)
    samples = [s.at_times(np.sort(np.resize(np.arange(s.n_times), times))) for s in samples]   # twenty dates of a year of twelve: some twice
    given = {k: torch.from_numpy(v) for k, v in inputs(samples).items()}
    with torch.no_grad():
        got = SceneEncoder(model, SENSORS, 8, times, patch)(given.pop("days"), *given.values())
        expected = model.embed(collate(samples, patch, model.config.preset))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0, equal_nan=True)


def test_pt2_of_the_newest_version(tmp_path):
    model = OlmoEarth(Config.of("nano", "v1.3"), seed=0).eval()
    path = export_torch(model, tmp_path / "a.pt2", ("sentinel1",), side=8, times=3, patch_size=4, licence="CC0-1.0")
    run, samples = torch.export.load(path).module(), windows(3, 8, 3)
    given = {k: torch.from_numpy(v) for k, v in inputs(samples, ("sentinel1",)).items()}
    with torch.no_grad():
        expected = model.embed(collate([s.select(["sentinel1"]) for s in samples], 4, "single"))
        torch.testing.assert_close(run(*given.values()), expected, atol=1e-4, rtol=0)


def test_the_command(nano, tmp_path):
    save(nano, tmp_path / "m")
    call = lambda *words: CliRunner().invoke(app, ["export", str(tmp_path / "m"), *words])
    assert "--licence" in call(str(tmp_path / "a.pt2")).output
    assert ".onnx or .pt2" in call(str(tmp_path / "a.tflite")).output
    assert "not read by this model" in call(str(tmp_path / "a.pt2"), "--licence", "CC0-1.0", "--sensors", "srtm").output
    done = call(str(tmp_path / "a.pt2"), "--licence", "CC0-1.0", "--sensors", "sentinel1", "--side", "8")
    assert done.exit_code == 0 and (tmp_path / "a.pt2").stat().st_size > 1e6
