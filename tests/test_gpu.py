"""What only a GPU can show: the answers of the CPU, bf16 near float32, memory that runs out for real, how long a widget waits. `make gpu` runs it, or says why not."""
import time
from statistics import median

import numpy as np
import pytest
import torch

from olmoearth.loading import Loader, collate
from olmoearth.model import Config, OlmoEarth
from olmoearth.pretrained import load
from olmoearth.scenes import embed_scene
from olmoearth.synthetic import World
from olmoearth.trainer import TrainConfig, Trainer

GPU = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPU is None, reason="no GPU (neither CUDA nor MPS) is available here")]
cuda = pytest.mark.skipif(GPU != "cuda", reason="CUDA is not available here")


@pytest.fixture(scope="module")
def samples(): return [World(seed=0).window(128 * k, 0, 32, 32, months=4).select(["sentinel2_l2a", "sentinel1", "landsat"]) for k in range(4)]


@pytest.fixture(autouse=True)
def exact():
    "Products in whole float32, so that the comparison is of the model and not of TF32."
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("version", ["v1", "v1.1", "v1.2", "v1.3"])
def test_the_gpu_gives_the_vectors_of_the_cpu(samples, version):
    model = OlmoEarth(Config.of("nano", version)).eval()
    batch = collate(samples, 4, model.config.preset)
    with torch.inference_mode():
        here = model.embed(batch).numpy()
        there = model.to(GPU).embed(batch.to(torch.device(GPU))).cpu().numpy()
    np.testing.assert_allclose(there, here, atol=2e-4)


def test_bf16_is_near_float32(samples):
    model = load("sim-nano").eval().to(GPU)
    batch = collate(samples, 4, model.config.preset).to(torch.device(GPU))
    with torch.inference_mode():
        exact = model.embed(batch)
        with torch.autocast(GPU, torch.bfloat16): rough = model.embed(batch)
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=-1).min() > .99


def test_a_training_step_learns_the_same(samples):
    def losses(device: str) -> list[float]:
        loader = Loader(samples, batch_size=2, seed=0, patch_sizes=(4,), sides=(4,), workers=0, check="off")
        trainer = Trainer(OlmoEarth(Config.of("nano")), loader, TrainConfig(steps=3, device=device, dtype="float32"))
        return [row["loss"] for row in trainer.fit().rows]
    here, there = losses("cpu"), losses(GPU)
    np.testing.assert_allclose(there, here, rtol=5e-3)


def test_a_scene_is_the_same_from_either(samples):
    model = load("sim-nano")
    a, b = (embed_scene(samples[0], model, device=d, precision="float32", check="off").values for d in ("cpu", GPU))
    np.testing.assert_allclose(b, a, atol=2e-4)


@cuda
def test_memory_that_runs_out_for_real_ends_on_the_cpu():
    from olmoearth.desk import fit_memory
    said: list[str] = []
    free, _ = torch.cuda.mem_get_info()
    def work(batch_size: int, device: torch.device) -> str:
        if device.type == "cuda": torch.empty(free * 2 // (4 if batch_size == 1 else 1), dtype=torch.float32, device=device)      # more than there is, whatever the batch
        return device.type
    assert fit_memory(work, 4, "cuda", lambda text, level: said.append(text)) == "cpu"
    assert [("batches of 2" in said[0]), ("batches of 1" in said[1]), ("on the CPU" in said[2])] == [True] * 3


def test_how_long_a_widget_waits_for_the_model(samples, capsys):
    from olmoearth.passes import embed_windows
    model, times = load("sim-nano").to(GPU).eval(), []
    for _ in range(12):
        start = time.perf_counter()
        embed_windows(samples, model, 4)
        times.append(time.perf_counter() - start)
    with capsys.disabled(): print(f"\n{GPU}: 4 windows of 32 px, 4 dates, 3 sensors embedded in {1e3 * median(times):.1f} ms (median of {len(times)})")
    assert np.isfinite(times).all()
