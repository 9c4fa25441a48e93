"Trainer: determinism, resume after a crash, atomic files, time limit, own strategy and loss."
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_loading import Loader, Places

from olmoearth.losses import Loss, patch_discrimination
from olmoearth.masking import finish, random_mask
from olmoearth.modalities import MAPS
from olmoearth.model import Config, OlmoEarth
from olmoearth.samples import InputError
from olmoearth.team import rows
from olmoearth.tokens import Role
from olmoearth.trainer import Callback, Checkpoint, NonFiniteLoss, Progress, TimeLimit, TrainConfig, Trainer, lr_at, parameter_groups, replay
from olmoearth.watch import HealthWatch

SMALL = Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2)


class Kept:
    "A few places, made once."
    def __init__(self): self.d = [Places(6)[i] for i in range(6)]
    def __len__(self): return len(self.d)
    def __getitem__(self, i): return self.d[i]


DATA = Kept()


def make(callbacks=(), workers=0, **config) -> Trainer:
    loader = Loader(DATA, 2, seed=0, patch_sizes=(4, 8), sides=(1, 2), budget=200, workers=workers)
    return Trainer(OlmoEarth(SMALL, seed=1), loader, TrainConfig(**({"steps": 7, "device": "cpu", "dtype": "float32"} | config)), callbacks)


class Crash(Callback):
    def __init__(self, at): self.at = at
    def on_step(self, trainer):
        if trainer.step == self.at: raise KeyboardInterrupt


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def whole():
    t = make()
    t.fit()
    return t


def test_two_runs_are_equal_to_the_bit(whole):
    again = make(); again.fit()
    assert same(whole, again) and whole.history.column("loss") == again.history.column("loss")


def test_workers_change_nothing(whole):
    again = make(workers=2); again.fit()
    assert same(whole, again)


@pytest.mark.parametrize("setting", ["float32", "bfloat16"])
def test_what_is_not_said_is_as_in_the_settings(setting, monkeypatch):
    monkeypatch.setenv("OLMOEARTH_DTYPE", setting)
    monkeypatch.setenv("OLMOEARTH_DEVICE", "cpu")
    asked = make(dtype="float32")
    left = make(dtype=None, device=None)
    assert asked.net.dtype == torch.float32 and left.net.dtype == getattr(torch, setting) and left.device == torch.device("cpu")


def test_global_generator_is_not_touched():
    before = torch.get_rng_state()
    t = make(steps=2)
    torch.manual_seed(123); t.fit(); a = {k: v.clone() for k, v in t.model.state_dict().items()}
    t = make(steps=2)
    torch.manual_seed(321); state = torch.get_rng_state(); t.fit()
    assert torch.equal(state, torch.get_rng_state()) and all(torch.equal(v, t.model.state_dict()[k]) for k, v in a.items())
    torch.set_rng_state(before)


def test_another_seed_is_another_run(whole):
    other = make(seed=1); other.fit()
    assert not same(whole, other)


@pytest.mark.parametrize("every,crash", [(1, 1), (2, 5), (3, 4)])
def test_resume_after_a_crash_equals_the_whole(whole, tmp_path, every, crash):
    path = tmp_path / "deep" / "last.pt"
    with pytest.raises(KeyboardInterrupt): make([Checkpoint(path, every), Crash(crash)]).fit()
    t = make([Checkpoint(path, every)])
    assert t.resume(path) and t.step == crash // every * every
    t.fit()
    assert same(whole, t) and t.target.digest() == whole.target.digest()
    drop = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert drop(t.history.rows) == drop(whole.history.rows)
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_finished_run_does_nothing_more(tmp_path):
    make([Checkpoint(tmp_path / "c.pt")], steps=2).fit()
    t = make(steps=2)
    t.resume(tmp_path / "c.pt"); t.fit()
    assert t.step == 2 and len(t.history) == 2


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    t = make(steps=2); t.fit(); t.save(path)
    before = path.read_bytes()
    def half(state, f): f.write(b"half"); raise OSError("disk full")
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError): t.save(path)
    assert path.read_bytes() == before


def test_resume_refuses_another_run(tmp_path):
    make([Checkpoint(tmp_path / "c.pt")], steps=2).fit()
    with pytest.raises(InputError, match="tau: 0.1 then, 0.2 now"): make(steps=2, tau=.2).resume(tmp_path / "c.pt")
    other = Trainer(OlmoEarth(SMALL), Loader(DATA, 3, seed=0, sides=(1,)), TrainConfig(steps=2, device="cpu", dtype="float32"))
    with pytest.raises(InputError, match="batch_size: 2 then, 3 now"): other.resume(tmp_path / "c.pt")
    assert not make().resume(tmp_path / "none.pt")


def test_target_never_moves(whole):
    fresh = make()
    assert fresh.target.digest() == whole.target.digest()
    assert not list(whole.target.parameters())
    start = dict(fresh.model.named_parameters())
    assert all(not torch.equal(p, start[n]) for n, p in whole.model.named_parameters() if "patch_embedding" in n and ("sentinel1" in n or "srtm" not in n) and p.grad is not None)


def test_non_finite_loss_names_step_and_batch():
    t = make()
    def bad(out, target, roles, layout, config):
        loss = patch_discrimination(out.prediction, target, roles.flatten(0, 1), layout)
        return Loss(loss.total * (math.nan if t.step == 3 else 1), loss.terms)
    t.loss = bad
    with pytest.raises(NonFiniteLoss, match=r"step 3: the loss is nan .*loader.batch\(3\)"): t.fit()
    assert t.step == 3 and all(torch.isfinite(p).all() for p in t.model.parameters())


def test_a_skipped_step_leaves_the_weights_and_can_be_replayed(tmp_path):
    t = make(non_finite="skip", bad_batches=str(tmp_path))
    def bad(out, target, roles, layout, config):
        loss = patch_discrimination(out.prediction, target, roles.flatten(0, 1), layout)
        return Loss(loss.total * (math.inf if t.step == 2 else 1), loss.terms, loss.chance)
    t.loss = bad
    seen = {}
    class Look(Callback):
        def on_step(self, trainer): seen[trainer.step] = [p.clone() for p in trainer.model.parameters()]
    t.callbacks.append(Look())
    t.fit()
    assert t.step == 7 and [r.get("skipped") for r in t.history.rows] == [None, None, 1.0, None, None, None, None]
    assert all(torch.equal(a, b) for a, b in zip(seen[2], seen[3], strict=True))                          # the third step did nothing
    assert not all(torch.equal(a, b) for a, b in zip(seen[3], seen[4], strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["step-2.pt"]
    u = make()                                                                                            # another run, as it was at the start
    t.loss = u.loss
    one = replay(u, tmp_path / "step-2.pt")
    u.step = 2
    assert one.total.isfinite() and torch.equal(one.total, u.evaluate(u.loader.batch(2)).total)           # the same batch, the same masks


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path):
    t = make(bad_batches=str(tmp_path))
    before = [p.clone() for p in t.model.parameters()]
    t.loss = lambda out, target, roles, layout, config: Loss((out.pooled * 0).sum().sqrt())               # a loss of 0 with an infinite slope
    with pytest.raises(NonFiniteLoss, match="step 0: the gradient is not finite; .* kept in .*step-0.pt"): t.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, t.model.parameters(), strict=True))


def test_time_limit_and_progress(capsys):
    t = make([TimeLimit(0), Progress(text=True)]); t.fit()
    assert t.step == 1 and t.stopped.startswith("the time limit")
    assert "of chance" in capsys.readouterr().err


def test_schedule():
    c = TrainConfig(steps=1000, lr=2., warmup=.1, final_lr=.25)
    rates = [lr_at(s, c) for s in range(1000)]
    assert rates[99] == max(rates) == 2. and rates[0] == .02 and abs(rates[-1] - .5) < 1e-4
    assert all(a <= b for a, b in zip(rates[:99], rates[1:100])) and all(a >= b for a, b in zip(rates[99:], rates[100:]))
    assert lr_at(0, TrainConfig(steps=1)) == 1e-3


def test_decay_spares_norms_biases_and_tables():
    model = OlmoEarth(SMALL)
    names = {id(p): n for n, p in model.named_parameters()}
    matrices, rest, tables = ([names[id(p)] for p in g["params"]] for g in parameter_groups(model, .1, table_lr=5.))
    assert sorted(matrices + rest + tables) == sorted(names.values())
    assert all(n.endswith("weight") for n in matrices) and all("norm" in n or n.endswith("bias") for n in rest)
    assert all("encodings" in n or n == "decoder.mask_token" for n in tables)
    with pytest.raises(InputError, match="'matrices' or 'all'"): parameter_groups(model, .1, "some")


def test_tables_hurry():
    size = {}
    for scale in (1., 30.):
        t = make(steps=1, table_lr=scale, warmup=0.); t.fit()
        size[scale] = t.model.decoder.encodings.bandset["sentinel1"].abs().max().item()
    assert math.isclose(size[30.], 30 * size[1.], rel_tol=1e-3) and size[1.] > 0


def test_own_strategy_and_views():
    seen = []
    def mine(layout, missing, generator):
        seen.append(layout)
        return random_mask(layout, missing, generator, encode_ratio=.3, decode_ratio=.6)
    def only_radar(out, target, roles, layout, config):
        return patch_discrimination(out.prediction, target, roles.flatten(0, 1), layout, weights={k: float(k == "sentinel1") for k in layout.names})
    loader = Loader(DATA, 2, seed=0, patch_sizes=(8,), sides=(2,), budget=200)
    t = Trainer(OlmoEarth(SMALL), loader, TrainConfig(steps=2, views=3, device="cpu"), masking=mine, loss=only_radar)
    t.fit()
    assert len(seen) == 2 and math.isclose(t.history.rows[0]["loss"], t.history.rows[0]["loss/sentinel1"], rel_tol=1e-5)


def test_history_holds_every_part(whole):
    row = whole.history.rows[0]
    assert {"loss", "share", "gradient", "lr", "seconds", "loss/sentinel1", "share/sentinel1", "loss/instance", "patch_size", "times"} <= set(row)
    parts = sum(v for k, v in row.items() if k.startswith("loss/") and k != "loss/instance")
    assert math.isclose(row["loss"], parts + .1 * row["loss/instance"], rel_tol=1e-5)
    assert Role.DECODE == 2


CHILD = """
import os, signal, sys
from test_trainer import *
path, log, half = sys.argv[1], open(sys.argv[2], "w"), int(sys.argv[3])
class Say(Callback):
    def on_step(self, trainer): print(trainer.step, file=log, flush=True)
class Dies(Checkpoint):
    "Cut off while it writes."
    def on_step(self, trainer):
        if trainer.step == half:
            save = torch.save
            def broken(state, f):
                save(state, f)
                f.truncate(f.tell() // 2); f.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            torch.save = broken
        super().on_step(trainer)
t = make([Dies(path, every=2), Say()], steps=16, accumulate=2)
t.resume(path); t.fit()
"""


def child(path, log, half=-1) -> subprocess.Popen:
    here = str(Path(__file__).resolve().parent)
    return subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(log), str(half)], env=os.environ | {"PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)])})


def test_killed_at_any_moment_and_resumed_is_the_uninterrupted_run(tmp_path):
    "Once from outside at a random moment, once in the middle of writing a checkpoint; each leaves a file that goes on."
    seed = int.from_bytes(os.urandom(4), "little")
    draw, path, log = random.Random(seed), tmp_path / "last.pt", tmp_path / "log"
    process, at = child(path, log), draw.randint(1, 9)
    while process.poll() is None and not (log.exists() and len(log.read_text().split()) >= at): time.sleep(.005)
    time.sleep(draw.random() * .05)
    process.send_signal(signal.SIGKILL); process.wait()
    t = make(steps=16, accumulate=2)
    first = t.step if t.resume(path) else 0
    assert process.returncode == -signal.SIGKILL and t.step < 16, seed
    second = child(path, log, half=first // 2 * 2 + 4)
    assert second.wait() == -signal.SIGKILL and (tmp_path / "last.pt.part").exists()
    t = make([Checkpoint(path, 2)], steps=16, accumulate=2)
    assert t.resume(path) and first <= t.step == first // 2 * 2 + 2, seed
    t.fit()
    whole = make(steps=16, accumulate=2); whole.fit()
    assert same(whole, t) and whole.target.digest() == t.target.digest() == make().target.digest(), seed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "log"]


def chess(layout, missing, generator):
    "A mask without chance: every other token is seen."
    role = torch.where(torch.arange(len(layout)) % 2 == 0, Role.ENCODE, Role.DECODE).to(torch.int8).expand(missing.shape)
    return finish(role, layout, missing, MAPS)


def test_accumulated_batches_are_one_larger_batch():
    "Where nothing in the loss depends on who shares a batch: a mask without chance, no drop path, no contrast."
    trained = []
    for k in (1, 2):
        loader = Loader(DATA, 4, seed=0, patch_sizes=(8,), sides=(2,), budget=200)
        model = OlmoEarth(Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2, drop_path=0.), seed=1)
        t = Trainer(model, loader, TrainConfig(steps=3, lr=1e-4, device="cpu", dtype="float32", contrast=0., accumulate=k), masking=chess)
        for n in range(3):
            batch = loader.batch(n)
            row = t.train_step(*([batch] if k == 1 else [rows(batch, 0, 2), rows(batch, 2, 4)]))
            assert row["samples"] == 4 and t.step == n + 1
        trained.append(t)
    assert all(torch.allclose(v, trained[1].model.state_dict()[k], atol=1e-5) for k, v in trained[0].model.state_dict().items() if not k.endswith("k.bias"))


def test_accumulation_takes_batches_in_order_with_masks_of_their_own(tmp_path):
    t = make(steps=3, accumulate=2)
    drawn = []
    masking = t.masking
    t.masking = lambda layout, missing, generator: drawn.append(generator.initial_seed()) or masking(layout, missing, generator)
    t.fit()
    assert t.loader.number == 6 and len(set(drawn)) == 6 and [r["samples"] for r in t.history.rows] == [4] * 3
    once = make(steps=6)
    once.masking = lambda layout, missing, generator: drawn.append(generator.initial_seed()) or masking(layout, missing, generator)
    once.fit()
    assert drawn[:6] == sorted(set(drawn), key=drawn.index)                                                # batch 5 has the mask of number 5, however many make a step


class Heads(torch.nn.Module):
    "A loss with weights."
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(32, 1)
        torch.nn.init.constant_(self.head.weight, .1); torch.nn.init.constant_(self.head.bias, .1)
    def forward(self, out, target, roles, layout, config):
        value = (self.head(out.answers.float()) - 1).square().mean()
        return Loss(value, {"head": value.detach()})


def test_a_loss_with_weights_trains_them_and_they_are_kept(tmp_path):
    def heads(callbacks=()):
        t = make(steps=4)
        return Trainer(t.model, t.loader, t.config, callbacks, loss=Heads())
    whole = heads(); before = Heads().state_dict(); whole.fit()
    assert all(not torch.equal(v, before[k]) for k, v in whole.loss.head.state_dict().items() for k in [f"head.{k}"])
    with pytest.raises(KeyboardInterrupt): heads([Checkpoint(tmp_path / "c.pt", 2), Crash(3)]).fit()
    t = heads()
    assert t.resume(tmp_path / "c.pt") and t.step == 2
    t.fit()
    assert same(whole, t) and all(torch.equal(v, whole.loss.state_dict()[k]) for k, v in t.loss.state_dict().items())
    with pytest.raises(InputError, match="give it to Trainer"): t.loss = Heads()


def test_bad_use_is_answered_in_words():
    with pytest.raises(InputError, match=r"HealthWatch is a class, not a callback; write HealthWatch\(...\)"): make([HealthWatch])
    with pytest.raises(InputError, match="'watch' is a str; give objects"): make(["watch"])
    assert len(make(TimeLimit(1)).callbacks) == 1
    with pytest.raises(InputError, match="accumulate=0; give 1 or more"): make(accumulate=0)
    with pytest.raises(InputError, match="every=0; give a step or more"): Checkpoint("c.pt", every=0)


def test_evaluating_elsewhere_leaves_the_run_alone(whole):
    t = make(steps=7)
    class Look(Callback):
        def on_step(self, trainer):
            with torch.no_grad(): trainer.evaluate(trainer.loader.batch(99), -1)
    t.callbacks.append(Look()); t.fit()
    assert same(whole, t)
