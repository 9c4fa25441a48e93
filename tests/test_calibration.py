"Calibration: what must hold for any classifier, any draw and any number of blocks."
import warnings

import numpy as np
import pytest

from olmoearth.calibration import (
    Conformal, Interval, brier, conformal_quantile, covered, fit_temperature, nll, reliability, softmax, split_blocks, strangeness,
)
from olmoearth.checks import InputWarning
from olmoearth.samples import InputError
from olmoearth.settings import rng
from olmoearth.splits import blocks_of


def drawn(n, k, seed, factor=1.):
    r = rng(seed, "test")
    logits = r.normal(0, 2, (n, k))
    return factor * logits, (softmax(logits).cumsum(-1) > r.random((n, 1))).argmax(-1)


@pytest.mark.parametrize("factor", [.2, .5, 1., 3., 8.])
def test_temperature_is_found_and_is_the_minimum(factor):
    logits, y = drawn(20_000, 4, 0, factor)
    t = fit_temperature(logits, y)
    assert t == pytest.approx(factor, rel=.05)
    assert nll(logits, y, t) <= min(nll(logits, y, v * t) for v in (.8, .95, 1.05, 1.25))
    assert (softmax(logits, t).argmax(-1) == logits.argmax(-1)).all()


def test_temperature_ignores_unknown_classes_and_large_numbers():
    logits, y = drawn(5000, 4, 1, 2.)
    assert fit_temperature(np.concatenate([logits, logits[:100]]), np.concatenate([y, np.full(100, -1)])) == fit_temperature(logits, y)
    assert fit_temperature(logits + 1e6, y) == pytest.approx(fit_temperature(logits, y), rel=1e-3)
    assert np.isfinite(softmax(np.array([1e5, -1e5]))).all() and fit_temperature(1e4 * np.eye(3), np.array([0, 1, 2])) >= .05
    with pytest.raises(InputError, match="no calibration cell has a class"): fit_temperature(logits, np.full(5000, -1))


@pytest.mark.parametrize("n, coverage", [(9, .9), (19, .9), (50, .8), (99, .95), (37, .7)])
def test_coverage_is_exactly_that_of_a_rank(n, coverage):
    "k of n + 1: not one per cent below, for whatever the scores are."
    k = int(np.ceil(round((n + 1) * coverage, 9)))
    scores = rng(0, "rank").permutation(n) ** 3.
    assert conformal_quantile(scores, coverage) == np.sort(scores)[k - 1]
    hits = [rng(s, "new").random() <= conformal_quantile(rng(s, "old").random(n), coverage) for s in range(3000)]
    assert np.mean(hits) == pytest.approx(k / (n + 1), abs=.025)


def test_blocks_are_covered_whatever_happens_inside_them():
    "Blocks of very different size and strangeness: a cell of a new block is covered as stated, on average over many maps."
    hits = []
    for seed in range(1500):
        r = rng(seed, "blocks")
        sizes = r.integers(1, 60, 16)
        level = r.exponential(1, 16) * r.choice([1, 10], 16)
        scores = [level[i] + .1 * r.random(n) for i, n in enumerate(sizes)]
        q = conformal_quantile(np.concatenate(scores[:15]), .8, np.repeat(np.arange(15), sizes[:15]), "blocks")
        hits.append((scores[15] <= q).mean())
    assert np.mean(hits) >= .8 - 2 * np.std(hits) / np.sqrt(len(hits))


def test_rotation_mends_the_bias_of_few_blocks():
    means = {"cells": [], "rotate": []}
    for seed in range(400):
        r = rng(seed, "bias")
        v = r.normal(0, 2, (40, 1)) + r.normal(0, 1, (40, 30))
        for pool in means: means[pool].append((v[10:] <= conformal_quantile(v[:10].ravel(), .9, np.repeat(np.arange(10), 30), pool)).mean())
    assert np.mean(means["cells"]) < .89 and abs(np.mean(means["rotate"]) - .9) < .015


@pytest.mark.parametrize("kind", ["lac", "aps"])
def test_sets(kind):
    logits, y = drawn(3000, 6, 2)
    p = softmax(logits)
    fitted = Conformal.fit(p[:1000], y[:1000], .9, kind)
    sets = fitted.sets(p[1000:])
    assert covered(sets, y[1000:]).mean() == pytest.approx(.9, abs=.03)
    order = np.argsort(-p[1000:], -1)
    ranked = np.take_along_axis(sets, order, -1)
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()                                    # likelier classes go in first
    full = fitted.sets(p[1000:], "top")
    assert full.any(-1).all() and (full >= sets).all() and (full.sum(-1) == np.maximum(sets.sum(-1), 1)).all()
    if kind == "aps": assert sets.any(-1).all()
    wider = Conformal.fit(p[:1000], y[:1000], .97, kind).sets(p[1000:])
    assert (wider >= sets).all()
    shuffled = rng(0, "columns").permutation(6)
    np.testing.assert_array_equal(fitted.sets(p[1000:][:, shuffled]), sets[:, shuffled])
    image = fitted.sets(p[:600].reshape(20, 30, 6))
    np.testing.assert_array_equal(image.reshape(-1, 6), fitted.sets(p[:600]))
    assert not fitted.sets(np.full((2, 6), np.nan), "top").any()


def test_calibrated_on_the_same_numbers_covers_them():
    for seed in range(20):
        logits, y = drawn(60, 3, seed)
        p = softmax(logits)
        for kind in ("lac", "aps"): assert covered(Conformal.fit(p, y, .8, kind).sets(p), y).mean() >= .8


def test_a_class_that_is_not_known_is_never_covered():
    logits, y = drawn(2000, 3, 3)
    p = softmax(logits)
    unknown = np.where(np.arange(2000) % 20 == 0, -1, y)                                # 5 %
    sets = Conformal.fit(p[:1000], unknown[:1000], .9).sets(p[1000:])
    assert covered(sets, unknown[1000:]).mean() == pytest.approx(.9, abs=.03)
    assert not covered(sets, np.full(1000, -1)).any()
    mostly = np.where(np.arange(2000) % 5 == 0, -1, y)                                  # 20 %: 90 % are out of reach, all known classes are in
    assert Conformal.fit(p[:1000], mostly[:1000], .9).sets(p).all()


def test_a_perfect_classifier_has_sets_of_one():
    p = np.eye(4)[rng(0, "perfect").integers(0, 4, 400)]
    y = p.argmax(-1)
    for kind in ("lac", "aps"): np.testing.assert_array_equal(Conformal.fit(p, y, .9, kind).sets(p), p > .5)
    assert reliability(p, y).ece == 0 and brier(p, y) == 0


def test_rare_classes_are_named():
    logits, y = drawn(500, 3, 4)
    y = np.where(y == 2, 0, y)
    y[:4] = 2
    with pytest.warns(InputWarning, match=r"fewer than 9 cells of moss \(4\)"): Conformal.fit(softmax(logits), y, names=["a", "b", "moss"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Conformal.fit(softmax(logits[4:]), np.where(y[4:] == 2, 0, np.arange(496) % 3))


def test_reliability_adds_up():
    logits, y = drawn(4000, 5, 5, 3.)
    p = softmax(logits)
    r = reliability(p, y, 10)
    there = r.n > 0
    assert r.n.sum() == 4000 and (r.n[there] * r.accuracy[there]).sum() == pytest.approx((p.argmax(-1) == y).sum())
    assert ((r.confidence[there] > r.edges[:-1][there]) & (r.confidence[there] <= r.edges[1:][there])).all()
    ox = pytest.importorskip("oe_inferencex", reason="the audit package: pip install olmoearth-inferencex")
    assert ox.expected_calibration_error(p.max(-1), p.argmax(-1) == y, 10)[0] == pytest.approx(r.ece)


def test_blocks_never_fall_apart():
    groups = blocks_of((30, 50), 8)
    assert len(np.unique(groups)) == 4 * 7 and (groups[:8, :8] == 0).all() and groups[8, 8] == 8
    for seed in range(10):
        parts = split_blocks(groups, (.5, .25, .25), seed)
        assert (sum(p.astype(int) for p in parts) == 1).all()
        ids = [set(groups[p]) for p in parts]
        assert [len(i) for i in ids] == [14, 7, 7] and not ids[0] & ids[1] and not ids[1] & ids[2]
    assert any((a != b).any() for a, b in zip(parts, split_blocks(groups, (.5, .25, .25), 3)))
    assert all(p.any() for p in split_blocks(np.array([0, 1, 2]), (.9, .05, .05)))
    with pytest.raises(InputError, match="use smaller blocks"): split_blocks(np.array([0, 1]), (.5, .25, .25))
    with pytest.raises(InputError, match="do not add up to 1"): split_blocks(groups, (.5, .25))


def test_intervals():
    r = rng(0, "interval")
    truth = r.normal(0, 5, 4000)
    said = truth + r.laplace(0, 2, 4000)
    fitted = Interval.fit(said[:500], truth[:500], .8)
    low, high = fitted.bounds(said[500:])
    assert ((low <= truth[500:]) & (truth[500:] <= high)).mean() == pytest.approx(.8, abs=.03)
    with pytest.raises(InputError, match="do not fit"): Interval.fit(said, truth[:5])
    with pytest.raises(InputError, match="scores hold NaN"): Interval.fit(np.full(20, np.nan), truth[:20])


@pytest.mark.parametrize("change, text", [
    (dict(coverage=1.), "use a share between 0 and 1"), (dict(pool="block"), "use cells, rotate or blocks"), (dict(pool="blocks"), "needs groups"),
    (dict(kind="raps"), "use lac or aps"), (dict(groups=np.arange(60) % 5), "5 calibration blocks cannot carry a coverage of 0.9: it takes 9"),
    (dict(coverage=.99), "60 calibration cells cannot carry a coverage of 0.99: it takes 99")])
def test_what_cannot_be_calibrated_is_said(change, text):
    logits, y = drawn(60, 3, 6)
    with pytest.raises(InputError, match=text): Conformal.fit(softmax(logits), y, **change)


def test_wrong_shapes_and_numbers_are_said():
    logits, y = drawn(60, 3, 6)
    p = softmax(logits)
    with pytest.raises(InputError, match="these are no probabilities"): Conformal.fit(logits, y)
    with pytest.raises(InputError, match="these are no probabilities"): reliability(logits, y)
    with pytest.raises(InputError, match="hold NaN; leave out cells"): Conformal.fit(np.where(p > .99, np.nan, p) * np.nan, y)
    with pytest.raises(InputError, match="are no columns of probabilities with 3 classes"): Conformal.fit(p, y + 1)
    with pytest.raises(InputError, match="do not fit"): Conformal.fit(p.reshape(6, 10, 3), y)
    with pytest.raises(InputError, match="no calibration cell"): fit_temperature(p[:0], y[:0])
    with pytest.raises(InputError, match="use keep or top"): Conformal(.5, .9).sets(p, "first")
    with pytest.raises(InputError, match="use lac or aps"): strangeness(p, "top")
