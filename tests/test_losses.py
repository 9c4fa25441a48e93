"Losses: gradients against plain loops, scopes, padding, memory in parts, dropped twins."
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from olmoearth import losses
from olmoearth.losses import SCOPES, columns, instance_contrastive, patch_discrimination
from olmoearth.samples import InputError
from olmoearth.settings import torch_generator
from olmoearth.tokens import Layout, Role

LAYOUT = Layout.of(sentinel2_l2a=(2, 2, 3), landsat=(2, 2, 3), sentinel1=(2, 2, 3), srtm=(2, 2, 1), worldcover=(2, 2, 1))
N, D, B, V = len(LAYOUT), 12, 4, 2


@pytest.fixture
def data():
    g = torch_generator(0, "test losses")
    role = torch.randint(0, 4, (V * B, N), generator=g).to(torch.int8)
    role[1, columns(LAYOUT, "sentinel1")] = Role.ENCODE
    role[5] = Role.MISSING
    return torch.randn(V * B, N, D, generator=g), torch.randn(B, N, D, generator=g), role


def naive(prediction, target, role, scope, tau=.1, drop=()):
    "Token by token: who competes is asked of each pair. Means over tokens, samples, views; a sum over modalities."
    total, views = 0., len(prediction) // len(target)
    slices, names = LAYOUT.slice_id, [LAYOUT.names[i] for i in LAYOUT.modality_id]
    for name in LAYOUT.names:
        view_means = []
        for v in range(views):
            sample_means = []
            for b in range(len(target)):
                row, each, skip = v * len(target) + b, [], False
                for i in range(N):
                    if role[row, i] != Role.DECODE or names[i] != name: continue
                    rivals, hidden = [], 0
                    for b2 in range(len(target)) if scope == "batch" else [b]:
                        for j in range(N):
                            if role[v * len(target) + b2, j] != Role.DECODE: continue
                            if scope == "modality" and names[j] != name or scope == "bandset" and slices[j] != slices[i]: continue
                            if (b2, j) == (b, i): me = len(rivals)
                            hidden += 1
                            if name in drop and names[j] in drop and (b2, j) != (b, i) and F.cosine_similarity(target[b2, j], target[b, i], dim=0) > .999: continue
                            rivals.append(target[b2, j])
                    skip = skip or (name in drop and len(rivals) == 1 and hidden > 1)
                    score = F.cosine_similarity(prediction[row, i][None], torch.stack(rivals), dim=-1) / tau
                    each.append(2 * tau * (score.logsumexp(0) - score[me]))
                if each and not skip: sample_means.append(torch.stack(each).mean())
            if sample_means: view_means.append(torch.stack(sample_means).mean())
        if view_means: total = total + torch.stack(view_means).sum() / views
    return total


@pytest.mark.parametrize("scope", SCOPES)
def test_value_and_gradient_against_loops(data, scope):
    prediction, target, role = data
    a, b = (prediction.clone().requires_grad_() for _ in range(2))
    ours, theirs = patch_discrimination(a, target, role, LAYOUT, scope=scope).total, naive(b, target, role, scope)
    ours.backward(); theirs.backward()
    assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(a.grad, b.grad, atol=1e-6)


def test_dropped_twins_against_loops(data):
    prediction, target, role = data
    at = columns(LAYOUT, "worldcover")
    target[:, at.start + 1] = target[:, at.start] * 3                      # twins in direction
    target[2, at] = target[2, at.start]                                    # a map of one class: nothing to tell apart, not scored
    role[2, at] = Role.DECODE
    ours = patch_discrimination(prediction, target, role, LAYOUT, drop_same=("worldcover", "srtm"))
    assert torch.allclose(ours.total, naive(prediction, target, role, "modality", drop=("worldcover", "srtm")), atol=1e-5)
    assert not torch.allclose(ours.terms["worldcover"], patch_discrimination(prediction, target, role, LAYOUT).terms["worldcover"], atol=1e-4)
    one = torch.full((1, N), int(Role.ENCODE)); one[0, at] = Role.DECODE
    got = patch_discrimination(prediction[2:3], target[2:3], one, LAYOUT, drop_same=("worldcover",))
    assert got.terms == {} and got.total == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_in_parts_is_the_same(data, scope, monkeypatch):
    prediction, target, role = data
    def run():
        p = prediction.clone().requires_grad_()
        loss = patch_discrimination(p, target, role, LAYOUT, scope=scope)
        loss.total.backward()
        return loss.total.detach(), p.grad
    whole = run()
    monkeypatch.setattr(losses, "_PAIRS", 1)
    parts = run()
    assert torch.allclose(whole[0], parts[0], atol=1e-6) and torch.allclose(whole[1], parts[1], atol=1e-7)


def test_other_groups_change_nothing(data):
    prediction, target, role = data
    def landsat(prediction, target, scope):
        p = prediction.clone().requires_grad_()
        loss = patch_discrimination(p, target, role, LAYOUT, scope=scope, weights={k: float(k == "landsat") for k in LAYOUT.names})
        loss.total.backward()
        return loss.total.detach(), p.grad[:, columns(LAYOUT, "landsat")]
    others = ~LAYOUT.where("landsat")
    for scope, moves in (("modality", False), ("bandset", False), ("sample", True), ("batch", True)):
        p, t = prediction.clone(), target.clone()
        p[:, others] += 1; t[:, others] -= 1
        same = [torch.equal(x, y) for x, y in zip(landsat(prediction, target, scope), landsat(p, t, scope), strict=True)]
        assert same == [not moves] * 2


def test_bandset_scope_ignores_the_other_bandset(data):
    prediction, target, role = data
    first = next(s for s in LAYOUT.slices if s.modality == "landsat")
    def own(target, scope):
        p = prediction.clone().requires_grad_()
        patch_discrimination(p, target, role, LAYOUT, scope=scope).total.backward()
        return p.grad[:, first.start:first.stop]
    moved = target.clone(); moved[:, first.stop:columns(LAYOUT, "landsat").stop] += 1
    assert torch.equal(own(target, "bandset"), own(moved, "bandset")) and not torch.equal(own(target, "modality"), own(moved, "modality"))


def test_length_of_vectors_does_not_matter(data):
    prediction, target, role = data
    a, b = patch_discrimination(prediction, target, role, LAYOUT).total, patch_discrimination(5 * prediction, .1 * target, role, LAYOUT).total
    assert torch.allclose(a, b, atol=1e-5)


def test_chance_is_what_equal_scores_give(data):
    _, target, role = data
    g = patch_discrimination(torch.zeros(V * B, N, D), target, role, LAYOUT)          # no direction: every cosine is 0
    assert all(torch.allclose(g.terms[k], g.chance[k], atol=1e-5) for k in g.terms) and len(g.terms) == 5
    assert all(abs(v - 1) < 1e-4 for v in g.share().values())


def test_nothing_to_decode_is_zero_and_finite(data):
    prediction, target, role = data
    p = prediction.clone().requires_grad_()
    role = torch.full_like(role, int(Role.ENCODE))
    loss = patch_discrimination(p, target, role, LAYOUT)
    assert loss.total == 0 and loss.terms == {}
    role[3, 5] = Role.DECODE                                                           # one token alone has no rival
    loss = patch_discrimination(p, target, role, LAYOUT)
    loss.total.backward()
    assert loss.total == 0 and torch.isfinite(p.grad).all()


def test_garbage_where_nobody_decodes_is_not_read(data):
    prediction, target, role = data
    bad = prediction.clone(); bad[role != Role.DECODE] = torch.nan
    bad.requires_grad_()
    loss = patch_discrimination(bad, target, role, LAYOUT)
    loss.total.backward()
    assert torch.isfinite(loss.total) and torch.isfinite(bad.grad[role == Role.DECODE]).all()


def test_half_precision_is_scored_in_single(data):
    prediction, target, role = data
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = patch_discrimination(prediction.bfloat16(), target, role, LAYOUT).total
    assert half.dtype == torch.float32 and torch.allclose(half, patch_discrimination(prediction, target, role, LAYOUT).total, atol=.02)


def test_shapes_that_disagree(data):
    prediction, target, role = data
    for bad in ((prediction[:, :3], target, role), (prediction[:7], target, role[:7]), (prediction, target[..., :3], role)):
        with pytest.raises(InputError, match="disagree"): patch_discrimination(*bad, LAYOUT)
    with pytest.raises(InputError, match="use one of"): patch_discrimination(prediction, target, role, LAYOUT, scope="planet")


def test_info_nce_against_loops():
    g = torch_generator(0, "nce")
    a, b = torch.randn(10, 6, generator=g), torch.randn(10, 6, generator=g)
    def plain(a, b):
        s = torch.stack([torch.stack([F.cosine_similarity(x, y, dim=0) for y in b]) for x in a]) / .1
        return torch.stack([s[i].logsumexp(0) - s[i, i] for i in range(len(a))]).mean()
    assert torch.allclose(instance_contrastive(a, b).total, plain(a, b), atol=1e-5)
    assert torch.allclose(instance_contrastive(a, b, group=5).total, (plain(a[:5], b[:5]) + plain(a[5:], b[5:])) / 2, atol=1e-5)
    assert torch.allclose(instance_contrastive(a, b, symmetric=True).total, (plain(a, b) + plain(b, a)) / 2, atol=1e-5)
    assert math.isclose(float(instance_contrastive(a, b, group=5).chance["instance"]), math.log(5), rel_tol=1e-6)


PEAK = """
import sys, time, torch
from pathlib import Path
from olmoearth import losses
from olmoearth.tokens import Layout, Role
losses._PAIRS = int(sys.argv[1])
def run(b, n):
    made = torch.randn(b, n, 32, requires_grad=True), torch.randn(b, n, 32), torch.full((b, n), int(Role.DECODE)), Layout.of(sentinel1=(n, 1, 1))
    losses.patch_discrimination(*made, drop_same=("sentinel1",)).total.backward()
run(1, 100)
most = lambda: int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])   # kB; not inherited, as ru_maxrss is
before = most()
begin = time.perf_counter()
run(8, 2250)
print(most() - before, time.perf_counter() - begin)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_tokens_take_little_memory():
    "Eight samples of 2,250 hidden tokens: 40 million pairs, of which a fifth or less may be there at once."
    def peak(pairs):
        done = subprocess.run([sys.executable, "-c", PEAK, str(pairs)], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[0])
    parts, whole = peak(losses._PAIRS), peak(2 ** 40)
    assert whole > 8 * 2250 ** 2 * 4 / 1024 and parts < whole / 4, (parts, whole)


def test_a_joint_batch_is_the_mean_over_its_parts(data):
    "Two processes with half of the samples each, played one after the other: mean loss and gradient are those of the whole."
    prediction, target, role = data
    views = lambda x, s: x.unflatten(0, (V, B))[:, s].flatten(0, 1)
    p = prediction.clone().requires_grad_()
    whole = patch_discrimination(p, target, role, LAYOUT); whole.total.backward()
    halves, counts, got = [slice(0, 2), slice(2, 4)], [], []
    with losses.together(2, lambda n: counts.append(n) or n):
        for s in halves: patch_discrimination(views(prediction, s), target[s], views(role, s), LAYOUT)
    q = prediction.clone().requires_grad_()
    with losses.together(2, lambda _: counts[0] + counts[1]):
        for s in halves: got.append(patch_discrimination(views(q, s), target[s], views(role, s), LAYOUT))
    (sum(g.total for g in got) / 2).backward()
    assert torch.allclose(sum(g.total for g in got) / 2, whole.total, atol=1e-6) and torch.allclose(p.grad, q.grad, atol=1e-7)
    for k in whole.terms:
        assert all(torch.allclose(sum(part(g)[k] for g in got) / 2, part(whole)[k], atol=1e-6) for part in (lambda x: x.terms, lambda x: x.chance))
