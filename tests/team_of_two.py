"What each process of tests/test_team.py runs: torchrun --nproc-per-node 2 tests/team_of_two.py FOLDER. Without torchrun, the same in one process."
import os
import sys
from pathlib import Path

import torch
from test_loading import NAMES, Loader, place
from torch import nn

from olmoearth.losses import Loss, everywhere
from olmoearth.modalities import MAPS
from olmoearth.model import Config, OlmoEarth
from olmoearth.samples import InputError
from olmoearth.targets import MomentumEncoder
from olmoearth.tokens import Role
from olmoearth.trainer import Callback, Checkpoint, TrainConfig, Trainer, released_loss


class Places:
    "Some lack radar, some Landsat, some a date of Sentinel-2."
    def __init__(self):
        self.d = [place(i, times=3, gaps=i % 4 == 1, names=[k for k in NAMES if not (k == "sentinel1" and i % 2 or k == "landsat" and i % 3 == 0)]) for i in range(12)]
    def __len__(self): return len(self.d)
    def __getitem__(self, i): return self.d[i]


class Heads(nn.Module):
    "A loss with weights of its own: the mean square of what a linear map makes of the answers, less a number for each of them."
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(32, 1)
        with torch.no_grad(): self.head.weight.fill_(.1); self.head.bias.fill_(.5)
    def forward(self, out, target, roles, layout, config):
        hidden = (roles == Role.DECODE).sum()
        value = (self.head(out.answers.float()) - 1).square().sum() / everywhere(hidden)
        return released_loss(out, target, roles, layout, config) + Loss(value, {"head": value.detach()})


DATA = Places()
MODELS = {"v1": {}, "v1.1": {"band_dropout": .4}}
CASES = {"accumulate": {"accumulate": 2}, "bands": {"version": "v1.1", "drop_same": MAPS, "masking": "random_time_with_decode"},
         "heads": {"heads": True, "momentum": True, "scope": "sample"}, "shard": {"heads": True, "shard": True, "momentum": True, "scope": "sample"}}


def make(callbacks=(), version="v1", heads=False, momentum=False, batch_size=4, **config) -> Trainer:
    "A trainer of a very small model with drop path."
    model = OlmoEarth(Config.of("nano", version, dim=32, depth=2, decoder_depth=1, heads=2, drop_path=.3, **MODELS[version]), seed=1)
    loader = Loader(DATA, batch_size, seed=0, patch_sizes=(4, 8), sides=(1, 2), budget=200, preset=model.config.preset)
    config = {"steps": 4, "lr": 1e-4, "device": "cpu", "dtype": "float32", "contrast_group": 2} | config
    return Trainer(model, loader, TrainConfig(**config), callbacks, target=MomentumEncoder(model, .9) if momentum else None, loss=Heads() if heads else released_loss)


class Stop(Callback):
    "Ends the run in all processes because one of them says so."
    def __init__(self, at, rank): self.at, self.rank = at, rank
    def on_step(self, trainer):
        if trainer.step == self.at and trainer.team.rank == self.rank: trainer.stop("as asked")


def result(t: Trainer) -> dict:
    "What a run came to; each process must ask."
    state = t.state_dict()
    return {"weights": {k: v for part in ("model", "loss", "target") for k, v in state.get(part, {}).items()}, "rows": t.history.rows,
            "digest": t.target.digest() if hasattr(t.target, "digest") else "", "stopped": t.stopped, "step": t.step}


def refusal(f) -> str:
    try: f()
    except InputError as err: return str(err)
    return ""


def main(folder: Path) -> None:
    "Every case, and what goes wrong; the results of each process into a file of its own."
    found = {}
    for name, case in CASES.items():
        t = make([Checkpoint(folder / f"{name}.pt", every=100)], **case)
        t.fit()
        found[name] = result(t)
    t = make([Checkpoint(folder / "half.pt", every=100), Stop(2, t.team.processes - 1)], **CASES["accumulate"]); t.fit()
    found["stopped"] = result(t)
    t = make(**CASES["accumulate"])
    assert t.resume(folder / "half.pt") and t.step == 2
    t.fit()
    found["resumed"] = result(t)
    t = make(**CASES["shard"], steps=5)
    state = torch.load(folder / "shard.pt", weights_only=True)
    if t.main: torch.save(state | {"config": state["config"] | {"steps": 5}}, folder / "longer.pt")
    t.team.accelerator.wait_for_everyone()
    t.resume(folder / "longer.pt"); t.fit()
    found["longer"] = result(t)
    found["errors"] = [refusal(make(**bad).fit) for bad in ({"scope": "batch"}, {"contrast_group": 32}, {"batch_size": 3})]
    found["processes"] = t.team.processes
    torch.save(found, folder / f"found-{t.team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    if "RANK" in os.environ: torch.distributed.destroy_process_group()
