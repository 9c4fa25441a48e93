"""Heads, goals and fine-tuning: what must hold beyond the chapters, and what is refused."""
from __future__ import annotations
import json
from dataclasses import replace
import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="fine-tuning needs: pip install 'olmoearth[finetune]'")
from olmoearth import heads
from olmoearth.checks import InputWarning
from olmoearth.finetune import RATES, SCHEDULES, Tuned, finetune, is_tuned, load_tuned, open_weights, plain_copy
from olmoearth.goals import Goal, ratio, to_pixels, windows_of
from olmoearth.heads import ChangeHead, LinearHead, make_head
from olmoearth.model import Config, OlmoEarth
from olmoearth.samples import InputError, Label, Sample
from olmoearth.settings import rng
from olmoearth.trainer import NonFiniteLoss

ONE = ("sentinel2_l2a",)
TINY = Config.of("nano", dim=32, depth=2, decoder_depth=1, heads=2, init="centred", modalities=ONE, inputs=ONE)
KW = dict(epochs=5, batch_size=4, lr=1e-2, device="cpu", check="off")


def sample(i: int, side: int = 16, dates: int = 1) -> tuple[Sample, np.ndarray]:
    "A sample and where it is bright: (side, side) bool."
    draw = rng(i, "test finetune")
    bright = np.kron(draw.random((side // 8, side // 8)) < .5, np.ones((8, 8), bool))
    bright[:8, :8], bright[8:, 8:] = True, False                             # both classes in each
    values = np.where(bright[..., None, None], 3500, 1200) + draw.normal(0, 100, (side, side, dates, 12))
    return Sample({"sentinel2_l2a": values.astype(np.uint16)}, np.array([f"2020-{4 + d:02d}-15" for d in range(dates)], "datetime64[D]"), name=f"s{i}"), bright


@pytest.fixture(scope="module")
def model() -> OlmoEarth: return OlmoEarth(TINY, seed=1).eval()


@pytest.fixture(scope="module")
def segments() -> tuple[list, list]:
    pairs = [(s, np.where(b, 7, 3)) for s, b in map(sample, range(12))]
    return pairs[:8], pairs[8:]


def weights(t: Tuned) -> dict[str, torch.Tensor]: return {**t.model.state_dict(), **{f"head.{k}": v for k, v in t.head.state_dict().items()}}


def equal(a: Tuned, b: Tuned) -> bool: return all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_same_seed_same_weights(model, segments, schedule):
    if schedule == "frugal": pytest.importorskip("peft", reason="adapters need: pip install 'olmoearth[finetune]'")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1); a = finetune(model, *segments, schedule=schedule, **KW)
    torch.manual_seed(2); b = finetune(model, *segments, schedule=schedule, **KW)
    c = finetune(model, *segments, schedule=schedule, **KW, seed=1)
    assert equal(a, b) and a.facts == b.facts and not equal(a, c)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and all(p.requires_grad for p in model.parameters())
    assert list(a.model.state_dict()) == list(before)                        # no adapter is left
    json.dumps(a.facts)
    moved = {k for k, v in a.model.state_dict().items() if not torch.equal(v, before[k])}
    top = next(r for r in a.facts["history"] if r["best"])
    assert not any(k.startswith("decoder") for k in moved)
    if schedule == "frozen" or not top["open"]: assert not moved
    elif schedule == "published": assert "encoder.patch_embedding.bandset.sentinel2_l2a.0.proj.weight" in moved
    else: assert moved and all(k.startswith(("encoder.blocks", "encoder.norm")) for k in moved)
    if schedule == "frugal" and moved: assert {k.rsplit(".", 1)[1] for k in moved} == {"weight"}


def test_published_schedule(model, segments):
    t = finetune(model, *segments, **{**KW, "epochs": 10, "lr": 2e-3, "patience": None})
    rows = t.facts["history"]
    assert [r["open"] for r in rows] == [False] * 2 + [True] * 8
    assert [r["rate"] for r in rows[:2]] == [2e-3] * 2 and rows[2]["rate"] == pytest.approx(2e-4)
    assert t.facts["score"] == max(r["score"] for r in rows) and t.facts["epoch"] == int(np.argmax([r["score"] for r in rows]))


def test_rate_is_chosen_on_validation(model, segments):
    seen = []
    t = finetune(model, *segments, **{**KW, "lr": (1e-6, 1e-2), "schedule": "frozen", "watch": seen.append})
    best = {rate: max(r["score"] for r in t.facts["history"] if r["lr"] == rate) for rate in (1e-6, 1e-2)}
    assert best[1e-2] > best[1e-6] + .1 and t.facts["lr"] == 1e-2 and t.facts["score"] == best[1e-2]
    assert [{k: v for k, v in r.items() if k != "best"} for r in t.facts["history"]] == seen
    one = finetune(model, *segments, **{**KW, "schedule": "frozen"})
    assert equal(t, one)                                                     # kept features and the other rate change nothing
    assert RATES == (1e-4, 5e-4, 1e-3)


def test_early_stop(model, segments):
    t = finetune(model, *segments, **{**KW, "lr": 1e-9, "schedule": "frozen", "epochs": 30, "patience": 3})
    assert len(t.facts["history"]) == t.facts["epoch"] + 4 < 30


def test_kinds_learn(model):
    data = [(*sample(i), rng(i, "value").uniform(1000, 4000)) for i in range(40)]
    for k, (s, _, v) in enumerate(data): s.arrays["sentinel2_l2a"] = (np.full((16, 16, 1, 12), v) + rng(k, "noise").normal(0, 50, (16, 16, 1, 12))).astype(np.uint16)
    kw = {**KW, "epochs": 25, "batch_size": 8, "lr": 2e-2, "schedule": "frozen", "patience": None}
    sets = lambda f: ([(s, f(v)) for s, _, v in data[:30]], [(s, f(v)) for s, _, v in data[30:]])
    t = finetune(model, *sets(lambda v: int(v > 2500)), kind="classification", classes=["dark", "bright"], **kw)
    assert t.facts["score"] > .85 and t.facts["metric"] == "accuracy" and t.predict(t.batch([data[0][0]])).shape == (1, 2)
    t = finetune(model, *sets(lambda v: np.array([v > 2000, v > 3000, v < 2500])), kind="multilabel", **kw)
    assert t.facts["score"] > .85 and t.predict(t.batch([data[0][0]])).shape == (1, 3)
    t = finetune(model, *sets(lambda v: v / 10), kind="regression", **kw)
    assert t.facts["score"] < 35 and not t.head.dense                         # the deviation is near 87
    t = finetune(model, *sets(lambda v: np.full((16, 16), v, np.float32)), kind="regression", **kw)
    assert t.facts["score"] < 350 and t.predict(t.batch([data[0][0]])).shape == (1, 16, 16, 1)
    assert t.classes == {} and t.kind == "regression"


@pytest.mark.parametrize("head", ["linear", "multiscale", "change"])
def test_dense_heads_learn(model, head):
    pairs = [(s, b.astype(int)) for s, b in (sample(i, dates=2) for i in range(10))]
    t = finetune(model, pairs[:7], pairs[7:], head=head, schedule="frozen", **{**KW, "epochs": 10})
    assert t.facts["score"] > .8 and t.head.name == head
    assert t.predict(t.batch([pairs[0][0]])).shape == (1, 16, 16, 2)


def test_labels_at_other_resolutions(model, segments):
    train, valid = segments
    plain = finetune(model, train, valid, schedule="frozen", **KW)
    finer = [[(s, np.kron(t, np.ones((3, 3), int))) for s, t in x] for x in segments]
    assert equal(plain, finetune(model, *finer, schedule="frozen", **KW))    # majority gives the same pixels
    coarse = [[(s, t[::8, ::8]) for s, t in x] for x in segments]
    t = finetune(model, *coarse, schedule="frozen", **{**KW, "epochs": 20, "patience": None})
    assert t.facts["score"] > .85 and t.facts["counts"] == [sum((y == c).sum() for _, y in coarse[0]) for c in (3, 7)]
    with pytest.raises(InputError, match="5 x 5 cells on 16 x 16 px"): finetune(model, [(train[0][0], np.eye(5, dtype=int)), *train[1:]], valid, **KW)
    with pytest.raises(InputError, match="cut them alike"): finetune(model, train[:4] + coarse[0][4:], valid, **KW)


def test_what_is_not_labelled_or_not_seen_does_not_count(model, segments):
    train, valid = segments
    holes = lambda code: [(s, np.where(np.tri(16, dtype=bool), t, code)) for s, t in train]
    a = finetune(model, holes(-1), valid, schedule="frozen", **KW)
    b = finetune(model, holes(99), valid, schedule="frozen", ignore=(-1, 99), **KW)
    assert equal(a, b) and not equal(a, finetune(model, train, valid, schedule="frozen", **KW))
    cloud = np.zeros((16, 16, 1, 12), bool); cloud[:8, 8:] = True
    dark = [(replace(s, missing={"sentinel2_l2a": cloud}), t) for s, t in train]
    wrong = [(s, np.where(cloud[..., 0, 0], 3, t)) for s, t in dark]
    assert equal(*(finetune(model, x, valid, schedule="frozen", **KW) for x in (dark, wrong)))
    t = finetune(model, dark, valid, schedule="frozen", **KW)
    scores = t.predict(t.batch([dark[0][0]]))
    assert scores[0, :8, 8:].isnan().all() and scores[0, 8:].isfinite().all()


def test_windows_hold_each_label_once():
    for k in range(6):
        draw = rng(k, "windows")
        side, window = int(draw.integers(5, 12)) * 4, int(draw.choice([8, 16, 20]))
        s, _ = sample(k, 48); s = s.crop(0, 0, side)
        label = draw.integers(-1, 4, (side, side))
        split = draw.random((side // 4, side // 4)) < .5
        total = 0
        for mask in (split, ~split):
            for part, target in windows_of(s, label, window, mask):
                pixels = part.arrays["sentinel2_l2a"]
                row, col = next((r, c) for r in range(side) for c in range(side) if (s.arrays["sentinel2_l2a"][r:r + window, c:c + window].shape == pixels.shape)
                                and (s.arrays["sentinel2_l2a"][r:r + window, c:c + window] == pixels).all())
                there = target >= 0
                assert (target[there] == label[row:row + window, col:col + window][there]).all()
                assert np.kron(mask, np.ones((4, 4), bool))[row:row + window, col:col + window][there].all()
                total += there.sum()
        assert total == (label >= 0).sum()


def test_windows_of_coarse_and_fine_labels():
    s, _ = sample(0, 48)
    coarse, fine = rng(1).integers(0, 4, (12, 12)), rng(2).integers(0, 4, (96, 96))
    assert sum((t >= 0).sum() for _, t in windows_of(s, coarse, 20)) == 144
    assert sum((t >= 0).sum() for _, t in windows_of(s, fine, 20)) == 96 * 96
    assert [t.shape for _, t in windows_of(s, fine, 24)] == [(48, 48)] * 4
    values = np.where(rng(3).random((48, 48)) < .9, np.nan, 1.)
    assert sum(np.isfinite(t).sum() for _, t in windows_of(s, values, 16)) == np.isfinite(values).sum()
    named = Label(coarse, {0: "a", 1: "b", 2: "c", 3: "d"}, (2,))
    assert sum((t >= 0).sum() for _, t in windows_of(s, named, 16)) == (coarse != 2).sum()
    with pytest.raises(InputError, match="the split"): windows_of(s, coarse, 16, np.ones((5, 5), bool))


def test_scenes_are_cut_and_labels_bring_their_classes(model):
    s, b = sample(0, 48)
    label = Label(np.where(b, 80, 10), {10: "trees", 80: "water", 95: "mangroves"}, (0,))
    t = finetune(model, [(s, label)], [(s, label)], window=16, schedule="frozen", **KW)
    assert (t.facts["n_train"], t.window, t.classes, t.facts["left_out"]) == (9, 16, {10: "trees", 80: "water"}, [95])


def test_majority_by_counting():
    v = rng(0).integers(-1, 3, (12, 12))
    for r, row in enumerate(to_pixels(v, 4)):
        for c, said in enumerate(row):
            cell = v[4 * r:4 * r + 4, 4 * c:4 * c + 4]
            n = sorted(((cell == k).sum(), k) for k in range(3))
            assert said == (n[-1][1] if (cell >= 0).mean() >= .5 and n[-1][0] > n[-2][0] else -1)
    assert (to_pixels(np.full((4, 4), -1), 2) == -1).all()
    assert ratio((6, 6), (12, 12)) == (1, 2)
    with pytest.raises(InputError): ratio((0, 0), (12, 12))


def test_balanced_weights_and_chosen_ones(segments):
    train = segments[0]
    rare = [(s, np.where(np.indices((16, 16)).sum(0) == 3, 5, t)) for s, t in train]
    goal = Goal.of(rare, "segmentation", class_weights="balanced")
    assert np.allclose(np.multiply(goal.weights, goal.counts), sum(goal.counts) / 3)
    assert Goal.of(rare, "segmentation", class_weights={3: 1, 5: 4, 7: 2}).weights == (1, 4, 2)
    with pytest.raises(InputError, match="no weight for class 5"): Goal.of(rare, "segmentation", class_weights={3: 1, 7: 2})
    target = goal.encode(rare[0][1], (16, 16))[None]
    wrong = 10. * torch.nn.functional.one_hot(target.masked_fill(target == 1, 0), 3)   # all right, but the rare class taken for another
    plain = Goal.of(rare, "segmentation").loss(wrong, target)
    assert goal.loss(wrong, target) > 10 * plain and plain > .1              # 4 of 256 pixels weigh a third


def test_classes_of_validation_alone(model, segments):
    train, valid = segments
    extra = [(s, np.where(np.eye(16, dtype=bool), 9, t)) for s, t in valid]
    with pytest.raises(InputError, match="class 9 is not among"): finetune(model, train, extra, **KW)
    with pytest.warns(InputWarning, match="valid has class 9"): t = finetune(model, train, extra, classes={3: "a", 7: "b", 9: "c"}, schedule="frozen", **KW)
    assert t.facts["left_out"] == [9] and t.head.outputs == 2


@pytest.mark.parametrize("version", ["v1", "v1.2", "v1.3"])
def test_other_versions(version, segments):
    net = OlmoEarth(Config.of("nano", version, dim=32, depth=2, decoder_depth=1, heads=2, modalities=ONE, inputs=ONE, **({"student": 16} if version == "v1.3" else {})))
    for head in ("linear", "multiscale"):
        t = finetune(net, *segments, head=head, schedule="published", **{**KW, "epochs": 3})
        assert np.isfinite(t.facts["score"])


def test_saved_result_is_whole_or_not_there(model, segments, tmp_path, monkeypatch):
    t = finetune(model, *segments, schedule="published", **KW)
    t.facts["temperature"] = 1.5                                             # what calibration adds
    home = t.save(tmp_path / "deep" / "result")
    again = load_tuned(home)
    batch = again.batch([segments[1][0][0]])
    assert equal(t, again) and again.facts == t.facts and torch.equal(again.predict(batch), t.predict(batch))
    other = finetune(model, *segments, schedule="frozen", **KW)

    def full_disk(*_): raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(heads, "save_tensors", full_disk)
        with pytest.raises(OSError, match="No space"): other.save(home)
        with pytest.raises(OSError, match="No space"): other.save(tmp_path / "new")
    assert equal(load_tuned(home), t)                                        # the old one stays
    assert [p.name for p in tmp_path.iterdir()] == ["deep"] and [p.name for p in home.parent.iterdir()] == ["result"]
    assert not is_tuned(tmp_path / "new")
    other.save(home)
    assert equal(load_tuned(home), other)


@pytest.mark.parametrize("hurt,message", [
    (lambda f: (f / "tuned.json").write_text("{"), "tuned.json"), (lambda f: (f / "tuned.json").write_text('{"format": "x", "files": {}, "facts": {}}'), "format 'x'"),
    (lambda f: (f / "tuned.json").unlink(), "no tuned.json"), (lambda f: (f / "head.safetensors").unlink(), "head.safetensors is missing"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "model.safetensors is not the file")])
def test_damaged_results(model, tmp_path, hurt, message):
    head = make_head("pooled", dim=32, outputs=2)
    Tuned(model, head, {"kind": "classification", "classes": [], "head": head.spec(), "patch_size": 4, "window": 16, "modalities": list(ONE)}).save(tmp_path / "r")
    hurt(tmp_path / "r")
    with pytest.raises(InputError, match=message): load_tuned(tmp_path / "r")


def test_never_over_a_users_file(model, tmp_path):
    head = make_head("pooled", dim=32, outputs=2)
    t = Tuned(model, head, {"kind": "classification", "head": head.spec()})
    (tmp_path / "mine").mkdir(); (tmp_path / "mine" / "notes.txt").write_text("years of work")
    (tmp_path / "file").write_text("too")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match="is no fine-tuned model"): t.save(tmp_path / name)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "years of work"


def test_faults(model, segments):
    train, valid = segments
    bad = lambda message, tr=train, va=valid, **kw: _raises(message, model, tr, va, kw)
    bad("train is empty", [])
    bad("valid is empty", va=[])
    bad("train has class 7", classes={3: "a", 4: "b"})
    bad("train has 1 class", [(s, np.full((16, 16), 3)) for s, _ in train])
    bad("no label at all", [(s, np.full((16, 16), -1)) for s, _ in train])
    single = [(train[0][0], np.where(np.indices((16, 16)).sum(0) == 0, 9, train[0][1])), *train[1:]]
    bad("class 9 .* has a single label", single)
    bad("valid has no labelled sample", va=[(s, np.full((16, 16), -1)) for s, _ in valid])
    bad("not among", va=[(s, np.full((16, 16), 50)) for s, _ in valid])
    bad("one answer for each sample", head="pooled")
    bad("a value for each pixel", [(s, i % 2) for i, (s, _) in enumerate(train)], [(s, 0) for s, _ in valid], kind="classification", head="linear")
    bad("outputs=3, wanted 2", head=make_head("linear", dim=32, outputs=3))
    bad("dim=8, wanted 32", head=make_head("linear", dim=8, outputs=2))
    bad("patch_size=8, wanted 4", head=make_head("linear", dim=32, outputs=2, patch_size=8))
    bad("no head 'unet'", head="unet")
    bad("change needs other dates|dates \\[\\]", head="change")
    bad("kind='detection'", kind="detection")
    bad("schedule='fast'", schedule="fast")
    bad("classification wants one class code", kind="classification")
    bad("numbers with a point", [(s, t.astype(float)) for s, t in train])
    bad("valid samples", va=[(s.crop(0, 0, 8), t[:8, :8]) for s, t in valid])
    bad("not a multiple of the patch", patch_size=5)
    bad("give rates above 0", lr=0)
    bad("epochs=0", epochs=0)
    bad("cannot be cut", [(s, i % 2) for i, (s, _) in enumerate(train)], [(s, 0) for s, _ in valid], kind="classification", window=8)
    bad("leave class_weights out", [(s, float(i)) for i, (s, _) in enumerate(train)], [(s, 1.) for s, _ in valid], kind="regression", class_weights="balanced")
    bad("the model reads", [(Sample({"sentinel1": np.zeros((16, 16, 1, 2), np.float32)}, s.times), t) for s, t in train])
    with pytest.raises(NonFiniteLoss, match="use a smaller lr"): finetune(model, train, valid, **{**KW, "lr": 1e30})


def _raises(message, model, train, valid, kw) -> None:
    with pytest.raises(InputError, match=message): finetune(model, train, valid, **{**KW, **kw})


def test_a_head_made_by_hand_keeps_its_weights(model, segments):
    head = make_head("linear", 9, dim=32, outputs=2)
    with torch.no_grad(): head.out.bias.fill_(3.)
    t = finetune(model, *segments, head=head, schedule="frozen", **{**KW, "lr": 1e-9, "epochs": 1})
    assert torch.allclose(t.head.out.bias, torch.tensor(3.)) and t.head is not head and isinstance(t.head, LinearHead)


def test_change_needs_two_dates():
    with pytest.raises(InputError, match="both before and after"): ChangeHead(8, 2, before=(0, 1), after=(1,))
    s, _ = sample(0, dates=3)
    net = OlmoEarth(TINY)
    t = Tuned(net, ChangeHead(32, 2, before=(0, 1), after=(2,)), {"kind": "segmentation", "classes": [], "patch_size": 4, "window": 16, "modalities": list(ONE)})
    assert t.predict(t.batch([s])).shape == (1, 16, 16, 2)
    with pytest.raises(InputError, match="dates \\[2\\]"): t.predict(t.batch([s.at_times([0, 1])]))


def test_adapters_merge_exactly():
    pytest.importorskip("peft", reason="adapters need: pip install 'olmoearth[finetune]'")
    net = OlmoEarth(TINY, seed=3).eval()
    some = plain_copy(net)
    free = open_weights(some, "lora", 5)
    assert len(free) == 2 * 6 * 2 and all(p.requires_grad for p in free)     # two matrices, six layers, two blocks
    with torch.no_grad():
        for p in free: p.add_(.05)
    assert not any("lora" in k for k in plain_copy(some).state_dict())
    t = Tuned(some, make_head("linear", dim=32, outputs=2), {"kind": "segmentation", "patch_size": 4, "modalities": list(ONE)})
    batch = t.batch([sample(0)[0]])
    with torch.no_grad(): assert torch.allclose(some.embed(batch), plain_copy(some).embed(batch), atol=1e-4)
    with torch.no_grad(): assert not torch.allclose(some.embed(batch), net.embed(batch), atol=1e-2)


def test_objects():
    from olmoearth.objects import Boxes, decode, finetune_objects, overlaps, paint, rate_boxes
    for k in range(20):                                                      # paint and decode: there and back
        draw = rng(k, "boxes")
        n = int(draw.integers(1, 5))
        size, corner = draw.uniform(2, 6, (n, 2)), np.stack([draw.uniform(0, 22, n), 8 * np.arange(n) + draw.uniform(0, 1, n)], 1)
        boxes = Boxes.of(np.concatenate([corner, corner + size], 1), draw.integers(0, 3, n))
        t = paint(boxes, (32, 40), (0, 1, 2))
        back = decode(torch.cat([torch.logit(t[..., :3], 1e-4), t[..., 3:7]], -1), (0, 1, 2), .99)
        order, mine = np.argsort(back.box[:, 1]), np.argsort(boxes.box[:, 1])
        assert np.allclose(back.box[order], boxes.box[mine], atol=1e-3) and (back.code[order] == boxes.code[mine]).all()
        assert rate_boxes([back], [boxes])[:2] == (1, 1) and np.allclose(overlaps(boxes.box, boxes.box).diagonal(), 1)
    few = rate_boxes([Boxes.of([])], [boxes])
    assert few.ap == few.f1 == 0 and np.isnan(rate_boxes([boxes], [Boxes.of([])]).ap)
    net, (s, _) = OlmoEarth(TINY), sample(0)
    one = Boxes.of([[2, 2, 6, 6]])
    for message, args in (("train is empty", ([], [(s, one)], {0: "a"})), ("valid has no object", ([(s, one)], [(s, Boxes.of([]))], {0: "a"})),
                          ("class 0", ([(s, one)], [(s, one)], {1: "a"})), ("give Boxes.of", ([(s, [[2, 2, 6, 6]])], [(s, one)], {0: "a"})),
                          ("centre outside", ([(s, Boxes.of([[2, 2, 40, 40]]))], [(s, one)], {0: "a"}))):
        with pytest.raises(InputError, match=message): finetune_objects(net, *args, device="cpu")
    a, b = (finetune_objects(net, [(s, one)] * 3, [(s, one)], {0: "a"}, epochs=1, device="cpu") for _ in range(2))
    assert equal(a, b)


def test_geojson_opens_at_the_right_place(tmp_path):
    geopandas = pytest.importorskip("geopandas", reason="reads the GeoJSON back")
    from olmoearth.objects import Boxes, to_geojson
    s = replace(sample(0)[0], crs="EPSG:32631", transform=(10, 0, 500_000, 0, -10, 5_700_000))
    boxes = Boxes.of([[1, 2, 5, 9], [6.5, 0, 8, 3]], [1, 0], [.9, .4])
    for crs, epsg in (("EPSG:4326", 4326), (None, 32631)):
        (tmp_path / f"{epsg}.geojson").write_text(json.dumps(to_geojson(boxes, s, {0: "a", 1: "b"}, crs)))
        table = geopandas.read_file(tmp_path / f"{epsg}.geojson")
        assert table.crs.to_epsg() == epsg and list(table["name"]) == ["b", "a"]
        metres = table.to_crs(32631)
        assert np.allclose(metres.area, [2800, 450], rtol=1e-3)
        assert np.allclose(metres.total_bounds, [500_000, 5_699_920, 500_090, 5_699_990], atol=.1)
    with pytest.raises(InputError, match="no crs"): to_geojson(boxes, replace(s, crs=None), {})
    assert to_geojson(Boxes.of([]), s, {})["features"] == []
