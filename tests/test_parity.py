"""Our numbers are the released model's numbers. The fixtures hold what the released code computed (`make fixtures`), from the same weights and arrays."""

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "parity"
sys.path.insert(0, str(HERE))

import cases  # noqa: E402
import ours  # noqa: E402

from olmoearth.model import VERSIONS  # noqa: E402

BUILT = cases.SIZES
RUNS = [(v, s, c) for v, s in BUILT for c in cases.cases(s)]


@lru_cache(maxsize=1)
def pair(version, size):
    "Our model and target, and the recorded numbers."
    return ours.build(version, size), dict(np.load(HERE / "fixtures" / f"{version.replace('.', '_')}_{size}.npz"))


def test_every_version_that_is_built_is_compared():
    assert {v for v, _ in BUILT} == set(VERSIONS)


@pytest.mark.parametrize("version, size, case", RUNS, ids=[f"{v}-{s}-{c.name}" for v, s, c in RUNS])
def test_outputs_are_the_released_ones(version, size, case):
    (model, target), recorded = pair(version, size)
    got = ours.run(model, target, version, case, cases.make(case, cases.PRESET[version]))
    expected = {k.split("/")[1]: v for k, v in recorded.items() if k.startswith(case.name + "/")}
    assert set(expected) == set(got)
    for name, want in expected.items():
        have = cases.sample(got[name])
        assert have[0] == want[0], f"{name}: {have[0]} numbers, the released code has {want[0]}"
        np.testing.assert_allclose(have[3:], want[3:], atol=cases.FINE, rtol=0, err_msg=name)
        np.testing.assert_allclose(have[1:3], want[1:3], atol=cases.FINE * want[0] ** 0.5 * 3, rtol=1e-5, err_msg=f"sums of {name}")
    assert expected["tokens"][2] > 100 and expected["decoded"][2] > 100       # not a comparison of zeros


@pytest.mark.parametrize("version, size", BUILT, ids=["-".join(b) for b in BUILT])
def test_names_and_shapes_are_the_released_ones(version, size):
    shapes, recorded = ours.shapes(version, size), np.load(HERE / "fixtures" / f"{version.replace('.', '_')}_{size}.npz")
    assert [cases.checksum(shapes), len(shapes)] == recorded["names"].tolist()


def test_the_comparison_would_notice_a_wrong_weight():
    (model, target), recorded = pair("v1", "nano")
    case, weight = cases.CASES[1], model.encoder.blocks[0].attn.q.bias
    x = cases.make(case, "v1")
    weight.data[0] += 0.05
    try: changed = cases.sample(ours.run(model, target, "v1", case, x)["tokens"])
    finally: weight.data[0] -= 0.05
    assert np.abs(changed[3:] - recorded[f"{case.name}/tokens"][3:]).max() > cases.FINE
