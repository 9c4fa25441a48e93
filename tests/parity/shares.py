"""Mask shares: our strategies of v1 and of v1.1 against the released ones, over many samples, within three standard errors."""

from __future__ import annotations

import sys

import cases
import numpy as np
import official  # noqa: F401  silences the released code
import torch

from olmoearth.masking import cross_modality, random_time_with_decode
from olmoearth.modalities import MAPS, SENSORS
from olmoearth.settings import torch_generator
from olmoearth.tokens import Layout
from olmoearth_pretrain.datatypes import OlmoEarthSample
from olmoearth_pretrain.train.masking import MaskingStrategy, ModalityCrossRandomMaskingStrategy, RandomTimeWithDecodeMaskingStrategy

SIDE, TIMES, ROLES = 2, 2, ("encode", "target", "decode", "missing")
MAPS_USED = MAPS[:2]


def data(samples: int) -> tuple[OlmoEarthSample, torch.Tensor, Layout]:
    "A batch of one-pixel patches where every fourth sample lacks radar and every third the first map; and the same as missing tokens."
    names = SENSORS + MAPS_USED
    case = cases.Case(1, TIMES, SIDE, SENSORS, MAPS_USED, samples=samples)
    x = cases.make(case, "v1")
    lost = {k: np.zeros(samples, bool) for k in names}
    lost[SENSORS[1]][::4], lost[MAPS_USED[0]][::3] = True, True
    layout = Layout.of(**{k: (SIDE, SIDE, 1 if k in MAPS_USED else TIMES) for k in names})
    values = {k: torch.from_numpy(np.where(lost[k][:, None, None, None, None], np.float32(-99999), v)) for k, v in x.values.items()}
    missing = torch.stack([torch.from_numpy(lost[s.modality]) for s in layout.slices], 1)[:, layout.slice_id]
    return OlmoEarthSample(timestamps=torch.from_numpy(x.timestamps), **values), missing, layout


def shares(role: torch.Tensor, layout: Layout) -> np.ndarray:
    "(samples, slices, 4) share of each role in each slice."
    return torch.stack([torch.stack([(role[:, s.start:s.stop] == r).float().mean(1) for r in range(4)], 1) for s in layout.slices], 1).numpy()


V1 = ModalityCrossRandomMaskingStrategy(0.5, 0.5, allow_encoding_decoding_same_bandset=True, only_decode_modalities=list(MAPS_USED))
V1_1 = RandomTimeWithDecodeMaskingStrategy(0.5, 0.5, random_ratio=0.5, only_decode_modalities=list(MAPS_USED))
PAIRS = {"v1": (cross_modality, V1), "v1.1": (random_time_with_decode, V1_1)}


def released(strategy: MaskingStrategy, sample: OlmoEarthSample, layout: Layout) -> torch.Tensor:
    "(B, N) roles from a released strategy."
    got = strategy.apply_mask(sample, 1)
    return torch.cat([getattr(got, f"{s.modality}_mask")[..., s.bandset].flatten(1) for s in layout.slices], 1)


def compare(name: str, n: int) -> float:
    "Draw and print; the largest difference in standard errors."
    size = min(2000, n)
    sample, missing, layout = data(size)
    ours, theirs = PAIRS[name]
    mine, others = [], []
    for i in range(-(-n // size)):
        mine.append(shares(ours(layout, missing, torch_generator(0, "shares", i), only_decode=MAPS_USED), layout))
        others.append(shares(released(theirs, sample, layout), layout))
    a, b = np.concatenate(mine), np.concatenate(others)                                           # (n, slices, 4)
    gap, error = a.mean(0) - b.mean(0), np.sqrt((a.var(0) + b.var(0)) / len(a))
    print(f"{name}, {len(a)} samples; share of tokens, ours / released, and the difference in standard errors")
    worst = 0.0
    for s, g, e, p, q in zip(layout.slices, gap, error, a.mean(0), b.mean(0), strict=True):
        z = np.divide(g, e, out=np.where(np.abs(g) > 1e-6, np.inf, 0.0), where=e > 1e-9)
        worst = max(worst, float(np.abs(z).max()))
        print(f"  {s.modality + ' ' + str(s.bandset):26}" + "".join(f"  {r} {u:.4f} / {v:.4f} ({w:+.1f})" for r, u, v, w in zip(ROLES, p, q, z, strict=True)))
    print(f"largest: {worst:.2f} standard errors")
    return worst


def main(n: int) -> None:
    "Both recipes; fails where a share lies more than three standard errors apart."
    np.random.seed(0)  # noqa: NPY002  the released code draws from it
    torch.manual_seed(0)
    if max(compare(name, n) for name in PAIRS) > 3: sys.exit("a share differs by more than three standard errors")


if __name__ == "__main__": main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
