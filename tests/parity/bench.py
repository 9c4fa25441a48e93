"""Ours and theirs in one process, turn by turn: medians, ratios, peak memory. Run by nbs/experiments/bench.ipynb in the separate environment."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

import cases
import official
import ours
from olmoearth.losses import instance_contrastive, patch_discrimination
from olmoearth.masking import cross_modality, mask_views
from olmoearth.model import Config
from olmoearth.modalities import MAPS, SENSORS
from olmoearth.official_weights import from_official
from olmoearth.settings import rng, torch_generator
from olmoearth.tokens import token_missing
from olmoearth_pretrain.datatypes import OlmoEarthSample
from olmoearth_pretrain.nn.flexi_vit import TokensAndMasks
from olmoearth_pretrain.train.loss import InfoNCELoss, ModalityPatchDiscriminationLoss, ModalityPatchDiscriminationLossVec
from olmoearth_pretrain.train.masking import ModalityCrossRandomMaskingStrategy
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

ABSENT = -99999.0     # how the released code marks a missing value


def scene(patch: int, maps: bool, gaps: bool, samples: int = 8, side: int = 6, times: int = 4) -> tuple[cases.Case, cases.Inputs]:
    "Arrays of one batch; with gaps, half of the (sensor, date) pairs are missing: few in the first sample, most in the last."
    case = cases.Case(patch, times, side, SENSORS, MAPS if maps else (), samples=samples)
    x = cases.make(case, "v1")
    if gaps:
        u = rng(0, "bench gaps").random((samples, len(SENSORS), times))
        share = np.linspace(0.1, 0.9, samples)
        gone = u.reshape(samples, -1).argsort(1).argsort(1) < np.round(share * len(SENSORS) * times)[:, None]
        for i, name in enumerate(SENSORS):
            lost = gone.reshape(u.shape)[:, i]                                                   # (B, T)
            x.missing[name] |= lost[:, None, None, :, None]
            x.roles[name] = np.where(lost[None, :, None, None, :, None], 3, x.roles[name])
    return case, x


class Theirs:
    "The released code doing each task."
    def __init__(self, size: str, case: cases.Case, x: cases.Inputs, loss: str = "loop"):
        self.case, self.x = case, x
        self.model = official.build("v1", size, drop_path=0.1)
        official.fill(self.model)
        self.adam = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], 1e-4, weight_decay=0.02)
        self.strategy = ModalityCrossRandomMaskingStrategy(0.5, 0.5, allow_encoding_decoding_same_bandset=True, only_decode_modalities=list(MAPS))
        self.sample = OlmoEarthSample(timestamps=torch.from_numpy(x.timestamps), **{k: torch.from_numpy(np.where(x.missing[k], np.float32(ABSENT), v))
                                                                                     for k, v in x.values.items()})
        self.masked = official.masked_sample(case, x, 2)
        self.loss = {"loop": ModalityPatchDiscriminationLoss, "vec": ModalityPatchDiscriminationLossVec}[loss]()

    def encode(self) -> torch.Tensor:
        "Every token is there: the path without masks."
        self.model.eval()
        with torch.no_grad(): return self.model.encoder(self.masked, patch_size=self.case.patch, fast_pass=True)["tokens_and_masks"].sentinel1

    def encode_gaps(self) -> torch.Tensor:
        "Missing tokens are taken out."
        self.model.eval()
        with torch.no_grad(): return self.model.encoder(self.masked, patch_size=self.case.patch)["tokens_and_masks"].sentinel1

    def mask(self) -> tuple[MaskedOlmoEarthSample, MaskedOlmoEarthSample]:
        "The two maskings of a step."
        return self.mask_once(), self.mask_once()

    def mask_once(self) -> MaskedOlmoEarthSample:
        "One masking, from pixels that say what is missing."
        got = self.strategy.apply_mask(self.sample, self.case.patch)
        return MaskedOlmoEarthSample(**{k: v for k, v in got._asdict().items() if v is not None})

    def step(self) -> torch.Tensor:
        "One step of pretraining: two maskings, both views, loss, backward, AdamW."
        self.model.train()
        losses, pooled = [], []
        full = lambda z: TokensAndMasks(**{k: v for k, v in z._asdict().items() if v is not None})
        for view in self.mask():
            _, decoded, p, _, _ = self.model(view, self.case.patch)
            with torch.no_grad():
                target = self.model.target_encoder(view.unmask(), patch_size=self.case.patch, token_exit_cfg={k: 0 for k in self.x.values})
            losses.append(self.loss.compute(full(decoded), full(target["tokens_and_masks"])))
            pooled.append(p)
        loss = sum(losses) / 2 + InfoNCELoss(weight=0.1).compute(*pooled)
        loss.backward()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return loss.detach()


class Ours:
    "Our code doing the same."
    def __init__(self, size: str, case: cases.Case, x: cases.Inputs):
        self.case, self.batch = case, ours.batch(case, x)
        names = {k: tuple(v.shape) for k, v in official.build("v1", size).state_dict().items()}
        self.model, self.target = from_official({k: torch.from_numpy(v) for k, v in cases.weights(names).items()}, Config.of(size))
        self.adam = torch.optim.AdamW(self.model.parameters(), 1e-4, weight_decay=0.02, fused=True)   # as our trainer does
        self.layout, self.generator = self.model.layout(self.batch), torch_generator(0, "bench")

    def encode(self) -> torch.Tensor:
        "Every token is there."
        self.model.eval()
        with torch.no_grad(): return self.model.encode(self.batch).of("sentinel1")

    encode_gaps = encode

    def mask(self) -> torch.Tensor:
        "The two maskings of a step, from pixels that say what is missing."
        return mask_views(cross_modality, self.layout, token_missing(self.batch, self.layout), self.generator)

    def step(self) -> torch.Tensor:
        "One step of pretraining."
        self.model.train()
        missing = token_missing(self.batch, self.layout)
        roles = mask_views(cross_modality, self.layout, missing, self.generator)
        out = self.model(self.batch, roles)
        loss = patch_discrimination(out.answers, self.target(self.batch, self.layout), roles.flatten(0, 1), self.layout).total
        loss = loss + 0.1 * instance_contrastive(*out.pooled.unflatten(0, (2, -1))).total
        loss.backward()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return loss.detach()


def interleave(a: Callable[[], object], b: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    "Seconds of both, A B B A A B ..., after one call of each that is thrown away."
    a(), b()
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats):
        for which in ((0, 1), (1, 0))[i % 2]:
            start = time.perf_counter()
            (a, b)[which]()
            times[which].append(time.perf_counter() - start)
    return times


def bench(sizes: list[str], patches: list[int], repeats: int) -> list[dict]:
    "Every task of every size and patch; the base size is timed on inference alone."
    rows = []
    for size in sizes:
        for patch in patches:
            plain, holes = scene(patch, False, False), scene(patch, False, True)
            pairs = {"inference, all visible": ([k(size, *plain) for k in (Ours, Theirs)], "encode"),
                     "inference, half missing": ([k(size, *holes) for k in (Ours, Theirs)], "encode_gaps")}
            if size != "base":
                whole = scene(patch, True, True)
                both = [k(size, *whole) for k in (Ours, Theirs)]
                pairs |= {"pretraining step": (both, "step"), "masking": (both, "mask")}
            for task, ((mine, theirs), method) in pairs.items():
                n = repeats * 3 if method == "mask" else repeats
                t = interleave(getattr(mine, method), getattr(theirs, method), n)
                rows.append({"task": task, "size": size, "patch": patch, "ours": median(t[0]), "theirs": median(t[1]), "ratio": median(t[1]) / median(t[0]),
                             "ours_all": t[0], "theirs_all": t[1]})
                print(f"{task:26}{size:6}patch {patch}  ours {1e3 * rows[-1]['ours']:9.1f} ms  theirs {1e3 * rows[-1]['theirs']:9.1f} ms  {rows[-1]['ratio']:6.2f} x",
                      flush=True)
            if size == "nano":   # the two agree, or the race means nothing
                (mine, theirs), _ = pairs["inference, all visible"]
                assert torch.allclose(mine.encode(), theirs.encode()[..., 0, :], atol=cases.FINE)
    return rows


def held() -> dict[str, int]:
    "Memory of this process now and at its peak, kB."
    text = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {k: int(text[k].split()[0]) for k in ("VmRSS", "VmHWM")}


def memory_of(who: str, size: str, patch: int) -> None:
    "Peak of three steps above what the process held before, printed in MB. Linux only: the peak is reset through /proc."
    runner = {"ours": Ours, "theirs": Theirs}[who](size, *scene(patch, True, True))
    Path("/proc/self/clear_refs").write_text("5")
    before = held()["VmRSS"]
    for _ in range(3): runner.step()
    print(json.dumps({"step": (held()["VmHWM"] - before) / 1024, "process": held()["VmHWM"] / 1024}))


def memory(sizes: list[str], patches: list[int], threads: int) -> list[dict]:
    "Peak memory of the pretraining step, each in a process of its own."
    rows = []
    for size in (s for s in sizes if s != "base"):
        for patch in patches:
            got = {}
            for who in ("ours", "theirs"):
                done = subprocess.run([sys.executable, __file__, "--memory-of", who, "--sizes", size, "--patches", str(patch), "--threads", str(threads)],
                                      capture_output=True, text=True, check=True)
                got[who] = json.loads(done.stdout.splitlines()[-1])
            rows.append({"task": "peak memory of the step", "size": size, "patch": patch, "ours": got["ours"]["step"], "theirs": got["theirs"]["step"],
                         "ratio": got["ours"]["step"] / got["theirs"]["step"], "ours_process": got["ours"]["process"],
                         "theirs_process": got["theirs"]["process"]})
            print(f"{'peak memory of the step':26}{size:6}patch {patch}  ours {rows[-1]['ours']:9.0f} MB  theirs {rows[-1]['theirs']:9.0f} MB  "
                  f"{rows[-1]['ratio']:6.2f} of theirs", flush=True)
    return rows


def main() -> None:
    "Command line."
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--sizes", default="nano,tiny,base")
    p.add_argument("--patches", default="4,8")
    p.add_argument("--repeats", type=int, default=9)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", default="")
    p.add_argument("--memory-of", default="")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    sizes, patches = a.sizes.split(","), [int(v) for v in a.patches.split(",")]
    if a.memory_of: return memory_of(a.memory_of, sizes[0], patches[0])
    rows = bench(sizes, patches, a.repeats) + memory(sizes, patches, a.threads)
    if a.out: Path(a.out).write_text(json.dumps({"torch": torch.__version__, "threads": a.threads, "repeats": a.repeats, "rows": rows}))


if __name__ == "__main__": main()
