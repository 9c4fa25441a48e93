"Splits and probes: nothing leaks, nothing depends on anything but the seed, and what cannot be is said."
import numpy as np
import pytest

from olmoearth.protocol import METRICS, Part, label_curve, probe_scene, run_probe
from olmoearth.samples import InputError
from olmoearth.settings import rng
from olmoearth.splits import NOBODY, TEST, TRAIN, VALID, blocked_split, blocks_of, draw_labels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block, buffer, shares", [(8, 1, (.5, .2, .3)), (6, 2, (.6, 0, .4)), (5, 0, (.4, .3, .3))])
def test_cells_of_different_use_never_touch(seed, block, buffer, shares):
    labels = rng(seed, "labels").integers(0, 3, (45, 52))
    split = blocked_split(labels, block, shares, buffer, seed)
    used = [u for u, s in zip((TRAIN, VALID, TEST), shares, strict=True) if s]
    assert set(np.unique(split)) <= {*used, NOBODY}
    for u in used:
        mine, other = split == u, (split != u) & (split != NOBODY)
        assert mine.any()
        wide = np.pad(mine, 2 * buffer)
        near = np.zeros_like(mine)
        for i in range(4 * buffer + 1):
            for j in range(4 * buffer + 1): near |= wide[i:i + 45, j:j + 52]
        assert not (near & other).any()
    if not buffer: assert all(len(np.unique(split[blocks_of(split.shape, block) == b])) == 1 for b in range(blocks_of(split.shape, block).max() + 1))


def test_a_class_in_two_blocks_is_on_both_sides():
    labels = np.zeros((48, 48), int)
    labels[0:3, 0:3], labels[40:44, 40:44] = 1, 1
    for seed in range(10):
        split = blocked_split(labels, 8, (.5, 0, .5), 1, seed)
        assert (labels[split == TRAIN] == 1).any() and (labels[split == TEST] == 1).any()


def test_labels_are_drawn_from_training_cells_alone_and_as_many_as_asked():
    labels = rng(0, "x").integers(-1, 4, (40, 40))
    train = blocked_split(labels, 8, seed=3) == TRAIN
    few = draw_labels(labels, train, 5, seed=1)
    assert not (few & ~train).any() and [int((labels[few] == c).sum()) for c in range(4)] == [5] * 4
    assert np.array_equal(few, draw_labels(labels, train, 5, seed=1)) and not np.array_equal(few, draw_labels(labels, train, 5, seed=2))


def smooth_scene(seed=0):
    draw = rng(seed, "scene")
    coarse = draw.normal(size=(12, 12, 6)).repeat(4, 0).repeat(4, 1)
    labels = (coarse[..., 0] > 0).astype(int) + 2 * (coarse[..., 1] > .8)
    return coarse + .3 * draw.normal(size=coarse.shape), labels


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_test_cells_do_not_take_part(probe):
    "Other features and labels of the test cells change neither the choice nor what was learned."
    x, y = smooth_scene()
    split = blocked_split(y, 8, seed=0)
    options = {"split": split, "rates": (1e-2, 1e-1), "epochs": 5} if probe == "linear" else {"split": split}
    a = probe_scene({"a": x, "b": x[..., :2]}, y, probe, **options)
    z, w = x.copy(), y.copy()
    z[split == TEST] = rng(1, "noise").normal(size=z[split == TEST].shape)
    w[split == TEST] = 0
    b = probe_scene({"a": z, "b": z[..., :2]}, w, probe, **options)
    assert a.swept == b.swept and a.chosen == b.chosen and a.valid == b.valid
    assert a.value != b.value


def test_the_same_seed_gives_the_same_outcome():
    x, y = smooth_scene()
    a, b = (probe_scene(x, y, "linear", rates=(1e-2,), epochs=5, seed=3) for _ in range(2))
    assert (a.value, a.low, a.high, a.swept) == (b.value, b.low, b.high, b.swept) and np.array_equal(a.said, b.said)
    assert label_curve({"x": x}, y, (1, 3), seeds=(0, 1), block=6) == label_curve({"x": x}, y, (1, 3), seeds=(0, 1), block=6)


def test_scores_agree_with_torchmetrics():
    import torch
    from torchmetrics.functional import classification, mean_squared_error
    y, said = (rng(0, n).integers(0, 4, 200) for n in ("y", "said"))
    a, b = torch.from_numpy(said), torch.from_numpy(y)
    assert METRICS["accuracy"][0](y, said) == pytest.approx(float(classification.multiclass_accuracy(a, b, 4, average="micro")))
    assert METRICS["macro-F1"][0](y, said) == pytest.approx(float(classification.multiclass_f1_score(a, b, 4, average="macro")))
    assert METRICS["mIoU"][0](y, said) == pytest.approx(float(classification.multiclass_jaccard_index(a, b, 4)))
    assert METRICS["RMSE"][0](y, said + .5) == pytest.approx(float(mean_squared_error(a + .5, b.float(), squared=False)))


def test_what_cannot_be_probed_is_said():
    x, y = smooth_scene()
    part = Part(np.ones((6, 3)), np.arange(6) % 2)
    with pytest.raises(InputError, match="mean, valid: no samples"): run_probe({"mean": (part, Part(part.x[:0], part.y[:0]), part)}, "classification")
    with pytest.raises(InputError, match="% of the features are NaN"): run_probe({"mean": (part._replace(x=part.x * np.nan), part, part)}, "classification")
    with pytest.raises(InputError, match="metric='kappa'; use one of accuracy"): run_probe({"mean": (part, part, part)}, "classification", metric="kappa")
    with pytest.raises(InputError, match="give three that add up to 1"): blocked_split(y, 8, (.5, .2, .2))
    with pytest.raises(InputError, match="a buffer fewer than a block"): blocked_split(y, 4, buffer=4)
    with pytest.raises(InputError, match="fewer than two classes have 500"): label_curve({"x": x}, y, (500,))
