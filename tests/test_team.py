"Several processes: two real ones learn what one would; whole or sharded, stopped and resumed."
import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from team_of_two import CASES, make, result

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "What two processes found, each for itself."
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    run = f"torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port {port}".split()
    command = [sys.executable, "-m", *run, str(HERE / "team_of_two.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, *(torch.load(folder / f"found-{r}.pt", weights_only=True) for r in (0, 1))


def apart(a, b):
    """Largest difference of weights. The bias of keys is left out: a softmax does not feel it, so its gradient is rounding alone, which Adam makes as large as any."""
    return max(float((v - b["weights"][k]).abs().max()) for k, v in a["weights"].items() if not k.endswith("attn.k.bias"))


@pytest.fixture(scope="module")
def one():
    found = {}
    for name in ("accumulate", "bands", "heads"):
        t = make(**CASES[name]); t.fit()
        found[name] = result(t)
    return found | {"shard": found["heads"]}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_would(two, one, name):
    "With drop path, band dropout, modalities that some samples lack, a loss with weights, a momentum target, accumulation; whole and sharded weights."
    _, a, b = two
    start = result(make(**CASES[name] | {"shard": False, "steps": 0}))
    assert a["processes"] == 2 and apart(a[name], b[name]) == 0
    assert apart(start, one[name]) > 3e-4 and apart(a[name], one[name]) < 1e-5, apart(a[name], one[name])
    for mine, whole in zip(a[name]["rows"], one[name]["rows"], strict=True):
        assert mine.keys() == whole.keys()
        near = lambda x, y: math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-5) or math.isnan(x) and math.isnan(y)         # no share where nothing was asked
        assert all(near(mine[k], whole[k]) for k in whole if k != "seconds")
    assert a[name]["digest"] == b[name]["digest"]
    if name not in ("heads", "shard"): assert a[name]["digest"] == one[name]["digest"] == start["digest"]     # frozen; those two move with the weights


def test_one_process_stops_both_and_both_resume(two):
    _, a, b = two
    assert [x["stopped"]["step"] for x in (a, b)] == [2, 2] and [x["stopped"]["stopped"] for x in (a, b)] == ["as asked"] * 2
    assert all(torch.equal(v, a["accumulate"]["weights"][k]) for k, v in a["resumed"]["weights"].items()) and a["resumed"]["digest"] == a["accumulate"]["digest"]


def test_one_process_opens_what_two_wrote_in_parts(two):
    folder, a, _ = two
    t = make(**CASES["heads"], steps=5)
    assert t.resume(folder / "longer.pt") and t.step == 4
    t.fit()
    assert apart(a["longer"], result(t)) < 1e-5 and math.isclose(t.history.rows[-1]["loss"], a["longer"]["rows"][-1]["loss"], rel_tol=1e-5)
    assert sorted(p.name for p in folder.glob("*.p*t")) == sorted([*(f"{k}.pt" for k in CASES), "found-0.pt", "found-1.pt", "half.pt", "longer.pt"])


def test_what_cannot_be_shared_is_answered_in_words(two):
    for found in two[1:]:
        scope, group, rows = found["errors"]
        assert "use scope='sample'" in scope and "use contrast_group=2, or a batch_size that is a multiple of 64" in group and "a multiple of 2 and drop_last=True" in rows
