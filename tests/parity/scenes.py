"""A scene from disk to disk, ours and a plain loop over the released encoder: km2 a second, and the memory of ours by the size of the scene. Run by nbs/experiments/bench.ipynb."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import zarr

import cases
import official
from bench import Bare, held, interleave
from olmoearth.loading import collate
from olmoearth.model import Config
from olmoearth.official_weights import from_official
from olmoearth.samples import Sample
from olmoearth.scenes import embed_scene
from olmoearth.sources import Source, open_scene, write_store
from olmoearth.synthetic import World
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.data.normalize import NormalizerV1
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

PATCH, WINDOW, BATCH, BLOCK = 8, 64, 16, 256


@lru_cache(maxsize=64)
def _tile(world: World, row: int, col: int, side: int) -> Sample: return world.window(row, col, side, months=1).select(["sentinel2_l2a"])


def _window(world: World, row: int, col: int, height: int, width: int) -> Sample:
    "A part of the simulated Earth: one date of Sentinel-2, in square windows of 128 px. It comes again after 1,024 px, or larger scenes would take an hour to make."
    side, again = 128, 8
    rows = range(row // side, -(-(row + height) // side)), range(col // side, -(-(col + width) // side))
    tiles = [[_tile(world, r % again * side, c % again * side, side) for c in rows[1]] for r in rows[0]]
    whole = np.concatenate([np.concatenate([t.arrays["sentinel2_l2a"] for t in line], 1) for line in tiles], 0)
    joined = replace(tiles[0][0], arrays={"sentinel2_l2a": whole}, missing={}, labels={})
    return joined.crop(row - rows[0][0] * side, col - rows[1][0] * side, height, width)


def make(folder: Path, side: int) -> Path:
    "A simulated scene of side x side pixels in a Zarr store."
    path = folder / f"scene{side}.zarr"
    if path.exists(): return path
    reader = partial(_window, World(seed=0, clouds=0, missing_time=0, missing_modality=0))
    first = reader(0, 0, 8, 8)
    return write_store(Source((side, side), first.modalities, first.times, first.crs, first.transform, f"simulated {side}", first.attrs, reader), path)


class Loop:
    "What one would write with the released encoder: read a row of windows, normalise, encode in batches, average, write."
    def __init__(self, scene: Path, out: Path):
        self.scene, self.out = scene, out
        self.model = official.build("v1", "nano")
        official.fill(self.model)
        self.model.eval()
        self.normalise = NormalizerV1()

    def __call__(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        group = zarr.open_group(self.scene, mode="r")
        image, date = group["sentinel2_l2a"], open_scene(self.scene).times[0].astype(object)
        h, w = image.shape[0] // PATCH, image.shape[1] // PATCH
        cells = zarr.open_group(self.out, mode="w").create_array("embedding", shape=(h, w, 128), chunks=(BLOCK // PATCH, BLOCK // PATCH, 128), dtype="float32")
        for top in range(0, image.shape[0], BLOCK):
            for left in range(0, image.shape[1], BLOCK):
                block = image[top:top + BLOCK, left:left + BLOCK]                                                # (BLOCK, BLOCK, 1, 12)
                n = BLOCK // WINDOW
                tiles = block.reshape(n, WINDOW, n, WINDOW, 1, 12).transpose(0, 2, 1, 3, 4, 5).reshape(-1, WINDOW, WINDOW, 1, 12)
                parts = [self.encode(tiles[i:i + BATCH], date) for i in range(0, len(tiles), BATCH)]
                side = WINDOW // PATCH
                v = np.concatenate(parts).reshape(n, n, side, side, 128).transpose(0, 2, 1, 3, 4).reshape(n * side, n * side, 128)
                cells[top // PATCH:top // PATCH + n * side, left // PATCH:left // PATCH + n * side] = v

    def encode(self, tiles: np.ndarray, date: object) -> np.ndarray:
        "(n, side, side, D) of (n, WINDOW, WINDOW, 1, 12)."
        x = torch.from_numpy(self.normalise.normalize(Modality.SENTINEL2_L2A, tiles.astype(np.float32))).float()
        days = torch.tensor([date.day, date.month - 1, date.year])[None, None].expand(len(x), 1, 3)
        sample = MaskedOlmoEarthSample(timestamps=days, sentinel2_l2a=x, sentinel2_l2a_mask=torch.zeros(*x.shape[:4], 3))
        with torch.inference_mode():
            tokens = self.model.encoder(sample, patch_size=PATCH, fast_pass=True)["tokens_and_masks"].sentinel2_l2a          # (n, side, side, 1, 3, D)
        return tokens.mean((3, 4)).numpy()


class Ours:
    "embed_scene, with the same weights, windows and batches."
    def __init__(self, scene: Path, out: Path):
        self.scene, self.out = scene, out
        names = {k: tuple(v.shape) for k, v in official.build("v1", "nano").state_dict().items()}
        self.model, _ = from_official({k: torch.from_numpy(v) for k, v in cases.weights(names).items()}, Config.of("nano"))
        self.model.eval()

    def __call__(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        embed_scene(self.scene, self.model, self.out, patch_size=PATCH, window=WINDOW, batch_size=BATCH, block=BLOCK, check="off", progress=False)


class Floor:
    "The matrix products and attentions of the same windows, on arrays that are already there; nothing is read or written."
    def __init__(self, ours: Ours):
        source = open_scene(ours.scene)
        self.batches = (source.shape[0] // WINDOW) * (source.shape[1] // WINDOW) / BATCH
        self.model, self.batch = ours.model, collate([source.read(0, 0, WINDOW, WINDOW)] * BATCH, PATCH, "v1")
        self.layout = self.model.layout(self.batch)
        self.bare = Bare.__new__(Bare)
        self.bare.config, self.bare.heads, d = self.model.config, self.model.config.heads, self.model.config.dim
        self.bare.every = self.bare._rows((self.model.default_role(self.batch, self.layout) == 0).sum(1).tolist())
        self.bare.weights = {shape: torch.randn(*shape) for shape in ((d, d), (d, 4 * d), (4 * d, d))}

    def __call__(self) -> None:
        for _ in range(round(self.batches)): self.bare.encode()


def speed(folder: Path, side: int, repeats: int) -> dict:
    "km2 a second of both, turn by turn."
    scene = make(folder, side)
    ours, loop = Ours(scene, folder / "ours.zarr"), Loop(scene, folder / "loop.zarr")
    t = interleave([ours, loop, Floor(ours)], repeats)
    a, b = (zarr.open_group(folder / f"{n}.zarr", mode="r")["embedding"][:] for n in ("ours", "loop"))
    assert np.abs(a - b).max() < cases.FINE, np.abs(a - b).max()                                 # the two agree, or the race means nothing
    area = (side / 100) ** 2
    row = {"side": side, "km2": area, "ours": area / median(t[0]), "theirs": area / median(t[1]), "floor": area / median(t[2]), "ratio": median(t[1]) / median(t[0]),
           "ours_all": t[0], "theirs_all": t[1]}
    print(f"{side} px: ours {row['ours']:.2f} km2/s, plain loop {row['theirs']:.2f}, floor {row['floor']:.2f}; {row['ratio']:.2f} x", flush=True)
    return row


def memory_of(scene: str, out: str) -> None:
    "Embed in this process, and print its peak memory in MB."
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    Ours(Path(scene), Path(out))()
    print(json.dumps({"MB": held()["VmHWM"] / 1024, "seconds": time.perf_counter() - start}))


def main() -> None:
    "Command line."
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--race", default="1024,2048", help="sides of the scenes in the race")
    p.add_argument("--sides", default="1024,2048,4096", help="of the scenes whose memory is measured")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--folder", default="", help="where scenes are kept; empty: a temporary one")
    p.add_argument("--out", default="")
    p.add_argument("--memory-of", nargs=2, default=())
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.memory_of: return memory_of(*a.memory_of)
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(a.folder or tmp)
        folder.mkdir(parents=True, exist_ok=True)
        memory = []
        for side in (int(v) for v in a.sides.split(",") if v):
            command = [sys.executable, __file__, "--threads", str(a.threads), "--memory-of", str(make(folder, side)), str(folder / "memory.zarr")]
            got = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            memory.append({"side": side, **got})
            print(f"{side} px: peak {got['MB']:.0f} MB, {got['seconds']:.0f} s", flush=True)
        rows = [speed(folder, int(side), a.repeats) for side in a.race.split(",")]
    if a.out: Path(a.out).write_text(json.dumps({"torch": torch.__version__, "threads": a.threads, "repeats": a.repeats, "speed": rows, "memory": memory}))


if __name__ == "__main__": main()
