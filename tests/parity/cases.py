"""What is compared: inputs, roles and weights that both sides make from the same numbers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from olmoearth.modalities import MAPS, SENSORS, bandsets, modality
from olmoearth.settings import rng
from olmoearth.tokens import BAND_MEAN

FINE = 1e-4                                     # largest difference that is agreement
PRESET = {"v1": "v1", "v1.1": "single", "v1.2": "single", "v1.3": "single"}     # version -> tokenisation
SIZES = [(v, s) for v in ("v1", "v1.1", "v1.2") for s in ("nano", "tiny")] + [("v1", "base"), ("v1.1", "base"), ("v1.2", "base"), ("v1.3", "base")]


@dataclass(frozen=True)
class Case:
    "One comparison: shapes, modalities, and whether data are missing."
    patch: int                      # pixels
    times: int                      # T
    side: int                       # tokens along a side
    sensors: tuple[str, ...]        # what the encoder may read
    maps: tuple[str, ...] = ()      # what is only decoded
    gaps: bool = False              # dates and whole modalities are missing, differently in each sample
    samples: int = 3                # B

    @property
    def name(self) -> str:
        "For the file of fixtures and for messages."
        return f"p{self.patch}_t{self.times}_s{len(self.sensors)}" + ("_gaps" if self.gaps else "")


S2, S1, L8 = SENSORS
CASES = (
    Case(8, 1, 2, (S2,)),
    Case(4, 3, 3, (S2, S1), ("worldcover", "srtm"), gaps=True),
    Case(2, 12, 3, SENSORS, MAPS, gaps=True),
    Case(1, 20, 4, (S2, L8), ("openstreetmap_raster", "srtm"), gaps=True),
    Case(8, 12, 2, (S1,), ("worldcereal",)),
    Case(4, 20, 2, SENSORS, MAPS),
    Case(2, 1, 4, (L8, S1), ("cdl", "wri_canopy_height_map"), gaps=True),
    Case(1, 3, 3, SENSORS, ("worldcover",), gaps=True),
)
FEW = (CASES[1], CASES[2], CASES[5])            # for the base size


def cases(size: str) -> tuple[Case, ...]:
    "The cases that a size is compared on."
    return FEW if size == "base" else CASES


@dataclass
class Inputs:
    "Arrays of one case."
    values: dict[str, np.ndarray]   # modality -> (B, H, W, T, C) float32, scaled
    missing: dict[str, np.ndarray]  # modality -> (B, H, W, T, C) bool
    roles: dict[str, np.ndarray]    # modality -> (V, B, h, w, T, bandsets) int64; the last view shows every sensor token
    dates: np.ndarray               # (B, T) datetime64[D]

    @property
    def timestamps(self) -> np.ndarray:
        "(B, T, 3) int64: day, month from 0, year."
        months = self.dates.astype("datetime64[M]")
        day = (self.dates - months.astype("datetime64[D]")).astype(int) + 1
        return np.stack([day, months.astype(int) % 12, months.astype(int) // 12 + 1970], -1)


def gone(case: Case, name: str) -> np.ndarray:
    "(B, h, w, T) bool: tokens without data. Sample 0 lacks a date, sample 1 two dates and one modality, sample 2 a corner of one date."
    t = case.times if modality(name).has_time else 1
    out = np.zeros((case.samples, case.side, case.side, t), bool)
    if not case.gaps: return out
    order = case.sensors + case.maps
    if t > 1: out[0, :, :, order.index(name) % t] = True
    if t > 2: out[1, :, :, [0, t - 1]] = True
    if name == order[-1] or len(case.sensors) > 1 and name == case.sensors[-1]: out[1] = True
    if name == order[0]: out[2, 0, 0, -1] = True
    return out


def roles(case: Case, name: str, n: int, lost: np.ndarray) -> np.ndarray:
    "(V, B, h, w, T, n) roles: two maskings, and one that shows all."
    u = rng(0, "parity roles", case.name, name, n).random((2, *lost.shape, n))
    drawn = np.where(u < 0.45, 0, np.where(u < 0.8, 2, 1)) if name in case.sensors else np.where(u < 0.6, 2, 1)
    shown = np.full(lost.shape + (n,), 0 if name in case.sensors else 1)[None]
    out = np.concatenate([drawn, shown])
    if name == case.sensors[0]: out[:2, :, -1, -1, 0, 0], out[:2, :, -1, 0, 0, 0] = 0, 2     # every sample has one of each
    return np.where(lost[None, ..., None], 3, out)


def make(case: Case, preset: str) -> Inputs:
    "The arrays of a case."
    start = np.datetime64("2021-03-17") + np.arange(case.samples)[:, None] * 153
    out = Inputs({}, {}, {}, start + np.arange(case.times)[None] * 30)
    for name in case.sensors + case.maps:
        lost, m = gone(case, name), modality(name)
        wide = lost.repeat(case.patch, 1).repeat(case.patch, 2)                                  # (B, H, W, T)
        draw = rng(0, "parity pixels", case.name, name)
        x = draw.random((*wide.shape, m.n_bands), np.float32)
        if name in case.maps:                                                                    # few classes, so that targets repeat
            of_patch = draw.integers(0, 5, lost.shape).repeat(case.patch, 1).repeat(case.patch, 2)
            x = np.broadcast_to((of_patch[..., None] / 5).astype(np.float32), x.shape).copy()
        out.missing[name] = np.broadcast_to(wide[..., None], x.shape).copy()
        out.values[name] = np.where(out.missing[name], np.float32(BAND_MEAN), x)
        out.roles[name] = roles(case, name, len(bandsets(name, preset)), lost)
    return out


def weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    "A tensor for every released name, from (seed, name) alone; scaled so that each part is felt in the output."
    return {k: tensor(k, s, seed) for k, s in shapes.items() if not k.endswith("month_embed.weight")}


def tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    "One of them."
    u = rng(seed, "parity weights", name).random(shape, np.float32) * 2 - 1
    if "channel_embeddings" in name or name.endswith(("mask_token", "learned_query")): return u * 0.5
    if name.endswith("rope_mixed_freqs"): return u * 0.2
    if len(shape) > 1: return u * np.float32((3 / np.prod(shape[1:])) ** 0.5)                    # deviation 1 / sqrt(inputs)
    return 1 + u * 0.2 if "norm" in name and name.endswith("weight") else u * 0.1


def sample(x: np.ndarray, n: int = 120) -> np.ndarray:
    "Every k-th number of an array, at most n, behind its length, its sum and its sum of squares."
    x = np.asarray(x, np.float64).reshape(-1)
    step = max(1, -(-x.size // n))
    return np.concatenate([[x.size, x.sum(), (x ** 2).sum()], x[::step]]).astype(np.float32)


def checksum(shapes: dict[str, tuple[int, ...]]) -> int:
    "One number for a list of names and shapes."
    return zlib.crc32("\n".join(f"{k} {tuple(s)}" for k, s in sorted(shapes.items())).encode())
