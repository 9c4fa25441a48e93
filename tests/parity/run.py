"""Compare with the released code, number by number; `--record` writes the fixtures that `make test` checks without it."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import cases
import official
import ours
from olmoearth.model import VERSIONS
from olmoearth.official_weights import read_official, save_official
from olmoearth_pretrain_minimal import load_model_from_path

HERE = Path(__file__).parent
OUTPUTS = ("tokens", "all", "pooled", "decoded", "target", "patch_loss", "patch_loss_dropped", "instance_loss")


def fixture(version: str, size: str) -> Path:
    "Where the numbers of one model are kept."
    return HERE / "fixtures" / f"{version.replace('.', '_')}_{size}.npz"


def round_trip(version: str, size: str) -> float:
    "Write our model, open it with the released loader, which is strict; largest difference of a weight."
    model, target = ours.build(version, size)
    with tempfile.TemporaryDirectory() as folder:
        theirs = load_model_from_path(save_official(model, folder, target)).state_dict()
        again = read_official(folder)
    mine = {k: torch.from_numpy(v) for k, v in cases.weights({k: tuple(v.shape) for k, v in theirs.items()}).items() if not unread(k)}
    assert again.target.digest() == target.digest()
    return max(float((theirs[k] - v).abs().max()) for k, v in mine.items())


def unread(name: str) -> bool:
    "Whether a weight belongs to the part of the released target that nothing reads."
    return name.startswith("target_encoder.") and ".patch_embeddings." not in name


def compare(version: str, size: str, record: bool) -> dict[str, float]:
    "Largest differences of one model over all cases; empty where ours does not build the version yet."
    model = official.build(version, size)
    shapes = official.fill(model)
    kept: dict[str, np.ndarray] = {"names": np.array([cases.checksum(shapes), len(shapes)])}
    mine = ours.build(version, size, shapes) if version in VERSIONS else None
    if mine: assert ours.shapes(version, size) == shapes, f"names or shapes differ: {set(ours.shapes(version, size).items()) ^ set(shapes.items())}"
    worst: dict[str, float] = {}
    for case in cases.cases(size):
        x = cases.make(case, cases.PRESET[version])
        theirs = official.run(model, version, case, x)
        kept |= {f"{case.name}/{k}": cases.sample(v) for k, v in theirs.items()}
        if mine is None: continue
        got = ours.run(*mine, version, case, x)
        here = {k: float(np.abs(got[k] - v).max()) for k, v in theirs.items()}
        print(f"  {version:5}{size:6}{case.name:15}" + "".join(f"{here[k]:10.1e}" for k in OUTPUTS), flush=True)
        worst = {k: max(v, worst.get(k, 0.)) for k, v in here.items()}
    if record:
        fixture(version, size).parent.mkdir(exist_ok=True)
        np.savez_compressed(fixture(version, size), **kept)
    else:
        old = np.load(fixture(version, size))
        assert set(old) == set(kept), f"fixtures of {version} {size} are out of date; run make fixtures"
        for k, v in kept.items(): np.testing.assert_allclose(old[k], v, rtol=1e-4, atol=1e-3, err_msg=f"{version} {size} {k}: run make fixtures")
    return worst


def main(record: bool, only: list[str]) -> None:
    "Every version and size; fails where a difference exceeds the limit."
    print("largest absolute difference, fp32; limit", cases.FINE)
    print(" " * 28 + "".join(f"{k[:9]:>10}" for k in OUTPUTS))
    bad, later = [], []
    for version, size in cases.SIZES:
        if only and f"{version}-{size}" not in only: continue
        start = time.perf_counter()
        worst = compare(version, size, record)
        if worst:
            trip = round_trip(version, size)
            print(f"  {version:5}{size:6}{'worst':15}" + "".join(f"{worst[k]:10.1e}" for k in OUTPUTS) + f"   released loader: strict, {trip:.0e}"
                  f"   {time.perf_counter() - start:.0f} s")
            if trip or max(worst.values()) > cases.FINE: bad.append(f"{version} {size}")
        else: later.append(f"{version} {size}")
    if later: print("  recorded, not built by this package:", ", ".join(later))
    if bad: sys.exit(f"differs: {', '.join(bad)}")


if __name__ == "__main__": main("--record" in sys.argv, [a for a in sys.argv[1:] if not a.startswith("-")])
