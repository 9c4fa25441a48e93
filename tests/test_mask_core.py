"""Masks over their image: counts, pixels, copies against a brute force, faults of other people's strategies, the experiment."""
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from olmoearth.mask_core import (COVERS, Cut, MaskRoom, MaskSettings, draw_roles, ground_of, open_sample, options_of, paint_classes, paint_mask, paint_values, spread, words)
from olmoearth.mask_trials import Experiment, Judge, experiment_of, lean_on, lean_table, most_needed, source_of, token_loss
from olmoearth.masking import _STRATEGIES, at_least_one, finish, get_strategy, random_mask, strategies, strategy
from olmoearth.modalities import MAPS
from olmoearth.panels import copyable, leakage
from olmoearth.samples import InputError, Sample
from olmoearth.synthetic import World
from olmoearth.tokens import Layout, Role

NAMES = ("random", "space", "time", "space_time", "random_space", "cross_modality", "random_time_with_decode", "fixed")


@pytest.fixture(scope="module")
def sample():
    return World(seed=2, clouds=.2, missing_modality=0, missing_time=.3).window(0, 0, 32, year=2019, months=5)


@pytest.fixture(scope="module")
def room(sample): return MaskRoom(sample)


@pytest.fixture
def mine():
    "Strategies registered in a test are gone after it."
    before = dict(_STRATEGIES)
    yield
    _STRATEGIES.clear()
    _STRATEGIES.update(before)


@pytest.mark.parametrize("name", NAMES)
def test_counts_add_up_and_states_are_the_roles(room, name):
    mask = room.draw(MaskSettings(name, seed=3))
    rows, total = mask.counts[:-1], mask.counts[-1]
    for r in mask.counts: assert r["tokens"] == r["encoded"] + r["decoded"] + r["unused"] + r["missing"]
    assert total["tokens"] == len(mask.cut.layout) == sum(r["tokens"] for r in rows)
    states = [mask.states(s.modality, s.bandset, t) for s in mask.cut.layout.slices for t in range(s.t)]
    assert [int(sum((v == r).sum() for v in states)) for r in Role] == [total[k] for k in ("encoded", "unused", "decoded", "missing")]
    assert mask.budget(100)["share"] == len(mask.cut.layout) / 100
    assert torch.equal(mask.role, room.draw(MaskSettings(name, seed=3)).role) and not torch.equal(mask.role, room.draw(MaskSettings(name, seed=4)).role)


@pytest.mark.parametrize("patch_size", [2, 5, 8])
def test_painted_pixels_agree_with_states(room, patch_size):
    mask = room.draw(MaskSettings("random", {"encode_ratio": .3, "decode_ratio": .4}, patch_size, seed=1))
    kinds = set()
    for s in mask.cut.layout.slices:
        for t in range(s.t):
            panel, plain, states = paint_mask(mask, s.modality, s.bandset, t), mask.cut.image(s.modality, s.bandset, t), mask.states(s.modality, s.bandset, t)
            assert panel.image.shape == (*plain.shape[:2], 4) and (panel.image[..., 3] == 255).all()
            for row, col in np.ndindex(*states.shape):
                k, q = plain.shape[0] // s.h, plain.shape[1] // s.w
                got, base, state = (v[row * k:(row + 1) * k, col * q:(col + 1) * q].astype(float) for v in (panel.image[..., :3], plain, spread(states, plain.shape)))
                assert (state == states[row, col]).all()
                _, colour, cover = COVERS[Role(int(states[row, col]))]
                wanted = (1 - cover) * base + cover * np.array(list(bytes.fromhex(colour[1:])))
                if states[row, col] == Role.MISSING: assert set(np.unique(got)) <= {150., 205.} or k < 8
                else: assert np.abs(got - wanted).max() <= 1.5
                kinds.add(int(states[row, col]))
    assert kinds == {0, 1, 2, 3}


def test_a_panel_lies_on_its_sample(room, sample):
    mask = room.draw(MaskSettings("space", patch_size=5))                     # 32 px hold six patches of 5
    for name in ("sentinel2_l2a", "era5_10"):
        panel = paint_mask(mask, name)
        a, _, c, _, e, f = panel.transform
        assert (panel.crs, c, f) == (sample.crs, sample.transform[2], sample.transform[5])
        assert np.allclose([a * panel.image.shape[1], -e * panel.image.shape[0]], 300)
    assert ground_of(Cut(Sample({"sentinel1": np.zeros((8, 8, 1, 2), np.float32)}, ["2020-01-01"]), 4), (8, 8)) == (None, None)


def brute(role, layout):
    "Copies, token by token."
    index, n = layout.index(), len(layout)
    place, time, own, sensor = (v.tolist() for v in (index.place, index.time, index.slice_id, index.modality_id))
    found = {k: np.zeros(n, bool) for k in ("other date", "other bandset", "other sensor", "either")}
    for i in range(n):
        if role[i] != Role.DECODE or place[i] < 0: continue
        for j in range(n):
            if role[j] != Role.ENCODE or place[j] != place[i]: continue
            found["either"][i] = True
            found["other date"][i] |= own[i] == own[j] and time[i] != time[j]
            found["other bandset"][i] |= own[i] != own[j] and time[i] == time[j]
            found["other sensor"][i] |= sensor[i] != sensor[j]
    return found


@pytest.mark.parametrize("name", ["random", "space", "time", "cross_modality", "random_time_with_decode"])
def test_copies_agree_with_a_brute_force(name):
    layout = Layout.of(sentinel2_l2a=(2, 3, 3), sentinel1=(2, 3, 3), worldcover=(2, 3, 1), era5_10=(1, 1, 3))
    missing = torch.rand(1, len(layout), generator=torch.Generator().manual_seed(5)) < .2
    for seed in range(4):
        role = draw_roles(name, {}, layout, missing, seed)
        wanted, got = brute(role[0].tolist(), layout), copyable(role, layout)
        for k, v in wanted.items(): np.testing.assert_array_equal(got[k][0], v, k)
        hidden = int(((role[0] == Role.DECODE) & (layout.place >= 0)).sum())
        assert leakage(role, layout) == pytest.approx({k: wanted[k].sum() / hidden for k in ("other date", "other bandset", "either")})


def test_nothing_on_the_ground_is_no_error():
    sample = Sample({"era5_10": np.random.default_rng(0).random((6, 6)).astype(np.float32) + 270}, np.datetime64("2020-01-15") + 30 * np.arange(6))
    mask = MaskRoom(sample).draw(MaskSettings("random"))
    assert all(v != v for v in mask.copyable.values()) and paint_mask(mask, "era5_10").transform is None
    assert words(mask, "era5_10", 0, 2, 0, 0).startswith("ERA5 weather, 2020-03-15, token 0, 0")


def test_words_say_what_is_seen_at_the_place(room):
    mask = room.draw(MaskSettings("random", {"encode_ratio": .2, "decode_ratio": .5}))
    index, seen = mask.cut.layout.index(), mask.role[0] == Role.ENCODE
    for row, col in np.argwhere(mask.states("landsat", 0, 1) == Role.DECODE):
        told = words(mask, "landsat", 0, 1, row, col)
        assert ("nothing is visible" in told) == (not (seen & (index.place == row * 8 + col)).any())


def wrong(strategy_name="random", **more):
    return lambda room: room.draw(MaskSettings(strategy_name, **more))


@pytest.mark.parametrize("call, said", [
    (wrong("sapce"), "unknown mask strategy 'sapce'; known: random"), (wrong(times=6), "the sample has 5 dates; use 5 or fewer"), (wrong(patch_size=0), "whole number from 1 to 8"),
    (wrong(patch_size=2.5), "patch_size=2.5"), (wrong(seed=-1), "seed=-1"), (wrong(options={"encode_ratio": .9}), "'random': encode_ratio = 0.9 and decode_ratio = 0.5"),
    (wrong("fixed", options={"hidden": ["naip_10"]}), "'fixed': cannot hide naip_10"), (lambda room: room.draw(MaskSettings()).states("naip_10"), "no bandset 0 of naip_10"),
    (lambda room: MaskRoom(room.sample, names=["naip_10"]), "wanted are naip_10"), (lambda room: MaskRoom(room.sample, window=(0, 0, 99, 9)), "leaves the scene"),
    (lambda room: MaskRoom(3), "not int"), (lambda room: Cut(room.sample.crop(0, 0, 3), 4), "hold no patch of 4 px"),
    (lambda room: open_sample(Sample({}, [])), "holds no modality"),
    (lambda room: open_sample(Sample({"sentinel1": np.full((8, 8, 1, 2), np.nan, np.float32)}, ["2020-01-01"])), "every value is missing")])
def test_what_does_not_fit_is_said_with_the_fix(room, call, said):
    with pytest.raises(InputError) as err: call(room)
    assert said in str(err.value)


@pytest.mark.parametrize("body, said", [
    ("return layout.nothing", "raised AttributeError: 'Layout' object has no attribute 'nothing' in line"), ("return None", "returned NoneType; return a tensor"),
    ("return missing.float()", "returned torch.float32"), ("return missing", "returned torch.bool"),
    ("return torch.zeros(1, 3, dtype=torch.int8)", "returned roles of shape (1, 3)"),
    ("return torch.full(missing.shape, 9)", "values that are no roles"), ("return torch.zeros_like(missing, dtype=torch.int8)", "must return MISSING for tokens without data"),
    ("return finish(torch.zeros_like(missing, dtype=torch.int8), layout, missing, ())", "nothing to decode"), ("1 / 0", "raised ZeroDivisionError"),
    ("missing.fill_(True); raise ValueError('no idea')", "raised ValueError: no idea")])
def test_a_strategy_that_is_wrong_is_named(room, mine, body, said):
    space = {"torch": torch, "finish": finish}
    exec(f"def f(layout, missing, generator): {body}", space)
    strategy("my own")(space["f"])
    with pytest.raises(InputError) as err: room.draw(MaskSettings("my own"))
    assert str(err.value).startswith("mask strategy 'my own'") and said in str(err.value)
    room.draw(MaskSettings("random"))                                        # the room goes on, its missing tokens untouched


def test_options_are_read_off_any_signature(mine):
    @strategy("odd")
    def odd(layout, missing, generator, share: float = .3, steps: int = 2, deep: bool = True, name: str = "random", what: "Unknown" = None, *, text: str = "hello", **more): ...   # noqa: F821
    assert [(o.name, o.kind) for o in options_of("odd")] == [("share", "share"), ("steps", "int"), ("deep", "flag"), ("name", "choice")]
    assert set(strategies()) >= {"odd", *NAMES}


def test_options_of_another_strategy_wait(room):
    given = {"encode_ratio": .2, "decode_ratio": .2, "unit": "sensor", "min_encode": 1}
    a, b = room.draw(MaskSettings("space", given)), room.draw(MaskSettings("space", {"encode_ratio": .2, "decode_ratio": .2}))
    assert torch.equal(a.role, b.role)
    state = MaskSettings("space", given, 8, 3, 1).as_dict()
    assert MaskSettings(**json.loads(json.dumps(state))).as_dict() == state


def test_values_and_classes_are_painted_where_they_are(room):
    mask = room.draw(MaskSettings("random", times=2))
    values = np.full(len(mask.cut.layout), np.nan)
    s = mask.cut.slice("sentinel1")
    values[s.start], values[s.start + 1] = 0., 1.                             # first token, two dates
    first, later = (paint_values(mask, values, "sentinel1", 0, t, unit="m") for t in (0, 1))
    assert (first.image[:32, :32] == [0, 34, 78, 255]).all() and (later.image[:32, :32] != first.image[:32, :32]).any() and list(first.legend) == ["0.00 m", "0.50 m", "1.00 m"]
    assert (first.image[40:, 40:, 0] == first.image[40:, 40:, 1]).all()       # grey elsewhere
    kinds = np.where(np.isfinite(values), np.nan_to_num(values).astype(int), -1)
    panel = paint_classes(mask, kinds, {0: "a", 1: "b"}, "sentinel1", 0, 1, colours={1: "#123456"})
    assert (panel.image[:32, :32, :3] == [0x12, 0x34, 0x56]).all() and panel.legend["b"] == "#123456"


# with a model

@pytest.fixture(scope="module")
def judge(): return Judge.of("sim-nano")


@pytest.fixture(scope="module")
def small(judge, sample): return MaskRoom(sample, judge.preset, judge.names, judge.only_decode, window=(0, 0, 16, 16))


def test_the_loss_is_that_of_the_training(judge, small):
    from olmoearth.losses import patch_discrimination
    mask = small.draw(MaskSettings("random", times=2))
    loss, batch, layout = token_loss(judge, mask), mask.cut.batch, mask.cut.layout
    whole = patch_discrimination(judge.model(batch, mask.role[None]).answers, judge.target(batch, layout), mask.role, layout, judge.tau, judge.scope, judge.drop_same)
    assert not np.isfinite(loss[(mask.role[0] != Role.DECODE).numpy()]).any()
    for name in ("sentinel2_l2a", "sentinel1", "landsat"):                    # all their tokens have as many rivals, so the mean share is the share of the mean
        own = loss[layout.where(name).numpy()]
        if name in whole.terms: assert np.nanmean(own) == pytest.approx(whole.share()[name], rel=1e-4)


def test_leaning_is_an_ablation(judge, small):
    mask = small.draw(MaskSettings("random", {"encode_ratio": .4, "decode_ratio": .6}, times=4, seed=1))
    rises = lean_on(judge, mask, progress=(steps := []).append)
    gone = mask.role.clone()
    gone[:, mask.cut.layout.where("landsat") & (mask.role[0] == Role.ENCODE)] = Role.TARGET
    np.testing.assert_allclose(rises["landsat"], token_loss(judge, mask, gone) - rises[""], atol=1e-5)
    needed, names = most_needed(rises)
    assert steps == list(range(1, len(rises) + 1)) and set(needed[np.isfinite(rises[""])]) <= set(names) and (needed[~np.isfinite(rises[""])] == -1).all()
    assert {"hidden", "tokens", "loss"} < set(lean_table(rises, mask)[0])
    assert lean_on(judge, mask, cancelled=lambda: True) == {}
    with pytest.raises(InputError, match="only landsat is visible"): lean_on(judge, small.draw(MaskSettings("fixed", {"hidden": ["sentinel2_l2a", "sentinel1"]})))


def test_a_model_and_a_mask_that_do_not_fit(judge, room):
    with pytest.raises(InputError, match="MaskRoom\\(sample, judge.preset"): token_loss(judge, room.draw(MaskSettings()))
    with pytest.raises(InputError, match="not int"): Judge.of(3)
    with pytest.raises(InputError, match="no model 'nothing'"): Judge.of("nothing")


# as an experiment

LIMIT = .4

def helper(layout): return layout.col.double() / max(1, layout.grid[1] - 1) >= LIMIT

def east(layout, missing, generator, share: float = .5):
    hidden = helper(layout) & (torch.rand(missing.shape, generator=generator) < share)
    return at_least_one(finish(torch.where(hidden, Role.DECODE, Role.ENCODE).to(torch.int8), layout, missing, MAPS), layout, generator)


def test_a_strategy_of_ones_own_goes_along(room, mine):
    strategy("east")(east)
    wanted = room.draw(MaskSettings("east", {"share": .8}, seed=2)).role
    found = experiment_of({"mask": MaskSettings("east", {"share": .8}, seed=2).as_dict(), "time": 3})
    assert {"LIMIT = 0.4", "import torch as torch", "def helper(layout)"} <= {line.split(":")[0] for line in found.code.splitlines()}
    for name in ("east", "lab"): _STRATEGIES.pop(name, None)
    exec(found.parameters["masking_code"], {})
    assert torch.equal(room.draw(MaskSettings("lab", seed=2)).role, wanted)


@pytest.mark.parametrize("name, options", [("cross_modality", {"base": "space", "unit": "sensor"}), ("random", {}), ("fixed", {"hidden": ("sentinel1",)})])
def test_a_strategy_of_the_package_needs_no_source(room, mine, name, options):
    found = experiment_of(MaskSettings(name, options, seed=5))
    assert "def lab(layout, missing, generator, only_decode=MAPS)" in found.code and len(found.code.splitlines()) < 12
    exec(found.parameters["masking_code"], {})
    assert torch.equal(room.draw(MaskSettings("lab", seed=5)).role, room.draw(MaskSettings(name, options, seed=5)).role)
    assert get_strategy("lab", only_decode=()) is not None


def test_what_cannot_be_written_down_is_said(mine):
    table = torch.zeros(3)
    def inner(layout, missing, generator): return table
    space = {"torch": torch, "random_mask": random_mask}
    exec("def typed(layout, missing, generator): return random_mask(layout, missing, generator)", space)
    cases = (inner, "inner cannot be written down"), (space["typed"], "the source of typed is not known"), (uses_a_table, "uses TABLE"), (lambda a: a, "cannot be written down")
    for f, said in cases:
        with pytest.raises(InputError, match=said): source_of(f)
    with pytest.raises(InputError, match="unknown mask strategy"): experiment_of(MaskSettings("nobody"))
    with pytest.raises(InputError, match="ends with .ipynb"): experiment_of(MaskSettings()).write("mask.py")


TABLE = torch.zeros(3)

def uses_a_table(layout, missing, generator): return TABLE


def test_the_notebook_has_its_options_as_parameters(tmp_path, mine):
    from olmoearth.experiments import read_parameters
    from olmoearth.grids import plan
    strategy("east")(east)
    path = experiment_of(MaskSettings("east", {"share": .8}, seed=2)).write(tmp_path / "some/mask_lab.ipynb")
    assert read_parameters(path)["share"] == .8 and read_parameters(path)["seed"] == 2
    assert len(plan(path, tmp_path / "g", {"smoke": True}, {"share": [.2, .4], "masking": ["lab", "cross_modality"]})) == 4
    assert '"share": 0.8' in json.loads(path.read_text())["cells"][0]["source"]
    assert read_parameters(experiment_of(MaskSettings("east")).write(tmp_path / "usual.ipynb"))["share"] == .5      # as usual, and free
    asked = read_parameters(experiment_of(MaskSettings("random", patch_size=4, times=3)).write(tmp_path / "small.ipynb"))
    assert (asked["patch"], asked["dates"]) == (4, 3) and read_parameters(path)["dates"] == 0
    path = Experiment(MaskSettings("random"), {"size": 2, "share": .5}, "").write(tmp_path / "taken.ipynb")      # the encoder has a size, too
    assert read_parameters(path)["size"] == "pico" and read_parameters(path)["mask_size"] == 2
    cells = json.loads(path.read_text())["cells"]
    assert "options = {'size': mask_size, 'share': share}" in cells[2]["source"] and "`size` is the parameter `mask_size`" in cells[0]["source"]


@pytest.mark.slow
def test_olmoearth_run_takes_the_notebook_to_its_end(tmp_path, mine, monkeypatch):
    strategy("east")(east)
    experiment_of(MaskSettings("east", {"share": .8}, patch_size=4, times=2, seed=1)).write(tmp_path / "mask_lab.ipynb")
    monkeypatch.setenv("OLMOEARTH_CACHE_DIR", str(tmp_path / "cache"))
    code = textwrap.dedent("""
        from olmoearth.reports import app
        app(["run", "mask_lab.ipynb", "-p", "smoke=True", "-p", "probes=0", "--seeds", "1", "--out", "g"])""")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "1 run, 0 finished before, 1 to do" in done.stdout, done.stdout + done.stderr
    from olmoearth.grids import collect
    assert collect(tmp_path / "g")[["share", "rank", "leakage"]].notna().all().all() and (tmp_path / "g/base/seed-1/model/model.safetensors").exists()
