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
from torch.nn.functional import scaled_dot_product_attention

import cases
import official
import ours
from olmoearth.losses import instance_contrastive, patch_discrimination
from olmoearth.masking import cross_modality, mask_views
from olmoearth.model import Config
from olmoearth.modalities import MAPS, SENSORS
from olmoearth.official_weights import from_official
from olmoearth.settings import pick_dtype, rng, torch_generator
from olmoearth.tokens import Role, token_missing
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


class Bare:
    "The matrix products and attentions that our model cannot do without, on arrays that are already there: a floor for its time."
    def __init__(self, ours: Ours):
        self.config = c = ours.model.config
        self.heads, d = c.heads, c.dim
        inner, position = ours.layout.select(c.inputs)
        self.every = self._rows((ours.model.default_role(ours.batch, ours.layout) == Role.ENCODE).sum(1).tolist())
        roles = ours.mask().flatten(0, 1)
        self.seen, self.asked = (self._rows((roles == r).sum(1).tolist()) for r in (Role.ENCODE, Role.DECODE))
        self.weights = {shape: torch.randn(*shape) for shape in ((d, d), (d, 4 * d), (4 * d, d))}

    def _rows(self, counts: list[int]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        n = sum(counts)
        return counts, torch.randn(n, self.config.dim), torch.randn(n, 4 * self.config.dim)

    def _products(self, rows: tuple, narrow: int, wide: bool, backward: bool) -> None:
        d, by_width = self.config.dim, {x.shape[1]: x for x in rows[1:]}
        for shape in [(d, d)] * narrow + ([(d, 4 * d), (4 * d, d)] if wide else []):
            x, y, w = by_width[shape[0]], by_width[shape[1]], self.weights[shape]
            x @ w
            if backward: y @ w.T, x.T @ y

    def _attend(self, asks: tuple, gives: tuple, backward: bool) -> None:
        q, k = (x[1].detach().requires_grad_(backward).unflatten(1, (self.heads, -1)) for x in (asks, gives))
        for a, b in zip(q.split(asks[0]), k.split(gives[0]), strict=True):
            if not len(a) or not len(b): continue
            out = scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (a, b, b)))
            if backward: torch.autograd.grad(out, (a, b), out.detach())

    def encode(self) -> None:
        "Inference."
        with torch.no_grad():
            for _ in range(self.config.depth): self._products(self.every, 4, True, False); self._attend(self.every, self.every, False)

    encode_gaps = encode

    def step(self) -> None:
        "Forward and backward of encoder and decoder."
        for _ in range(self.config.depth): self._products(self.seen, 4, True, True); self._attend(self.seen, self.seen, True)
        for _ in range(self.config.decoder_depth):
            self._products(self.asked, 2, True, True); self._products(self.seen, 2, False, True); self._attend(self.asked, self.seen, True)

    def flops(self) -> float:
        "Of one inference: two for each multiplication and addition of a product."
        d, counts = self.config.dim, self.every[0]
        return self.config.depth * (24 * d * d * sum(counts) + 4 * d * sum(n * n for n in counts))


def rate() -> float:
    "Products of square matrices of 2048, FLOP/s."
    a = torch.randn(2048, 2048)
    start = time.perf_counter()
    a @ a
    return 2 * 2048 ** 3 / (time.perf_counter() - start)


def interleave(arms: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    "Seconds of each, A B C C B A A B C ..., after one call of each that is thrown away."
    for f in arms: f()
    times: list[list[float]] = [[] for _ in arms]
    for i in range(repeats):
        for which in range(len(arms))[::1 if i % 2 == 0 else -1]:
            start = time.perf_counter()
            arms[which]()
            times[which].append(time.perf_counter() - start)
    return times


def lower(f: Callable[[], object]) -> Callable[[], object]:
    "The same in bfloat16 where autocast allows it."
    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16): return f()
    return run


def bench(sizes: list[str], patches: list[int], repeats: int, bf16: bool) -> list[dict]:
    "Every task of every size and patch; the base size is timed on inference alone, and a third as often. With bf16, inference and step once more in it."
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
            if bf16: pairs |= {f"{task}, bf16": pairs[task] for task in ("inference, all visible", "pretraining step") if task in pairs}
            for task, (both, method) in pairs.items():
                half = task.endswith("bf16")
                n = repeats * 3 if method == "mask" else max(3, repeats // 3) if size == "base" else repeats
                bare = None if method == "mask" or half else Bare(both[0])
                rates: list[float] = []
                arms = [lower(getattr(who, method)) if half else getattr(who, method) for who in (*both, *([bare] if bare else []))]
                t = interleave(arms + [lambda rates=rates: rates.append(rate())], n)
                row = {"task": task, "size": size, "patch": patch, "ours": median(t[0]), "theirs": median(t[1]), "ratio": median(t[1]) / median(t[0]),
                       "ours_all": t[0], "theirs_all": t[1], "rate": median(rates)}
                if bare: row |= {"floor": median(t[2])} | ({} if method == "step" else {"flops": bare.flops()})
                rows.append(row)
                print(f"{task:26}{size:6}patch {patch}  ours {1e3 * row['ours']:9.1f} ms  theirs {1e3 * row['theirs']:9.1f} ms  {row['ratio']:6.2f} x"
                      + (f"  floor {1e3 * row['floor']:9.1f} ms" if bare else ""), flush=True)
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
    p.add_argument("--bf16", choices=("auto", "yes", "no"), default="auto", help="auto: where this processor gains by it")
    p.add_argument("--out", default="")
    p.add_argument("--memory-of", default="")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    sizes, patches = a.sizes.split(","), [int(v) for v in a.patches.split(",")]
    if a.memory_of: return memory_of(a.memory_of, sizes[0], patches[0])
    bf16 = a.bf16 == "yes" or a.bf16 == "auto" and pick_dtype("auto", torch.device("cpu")) is torch.bfloat16
    rows = bench(sizes, patches, a.repeats, bf16) + memory(sizes, patches, a.threads)
    if a.out: Path(a.out).write_text(json.dumps({"torch": torch.__version__, "threads": a.threads, "repeats": a.repeats, "rows": rows}))


if __name__ == "__main__": main()
