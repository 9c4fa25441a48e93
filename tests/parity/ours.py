"""Our side of the comparison: the same weights, the same arrays, the same outputs. Needs no released package."""

from __future__ import annotations

import numpy as np
import torch

from cases import PRESET, Case, Inputs, weights
from olmoearth.losses import instance_contrastive, patch_discrimination
from olmoearth.model import Config, OlmoEarth
from olmoearth.modalities import MAPS
from olmoearth.official_weights import from_official, to_official
from olmoearth.samples import Batch
from olmoearth.targets import FrozenProjection


def shapes(version: str, size: str) -> dict[str, tuple[int, ...]]:
    "Names and shapes that we believe the released state dictionary has."
    return {k: tuple(v.shape) for k, v in to_official(OlmoEarth(Config.of(size, version))).items()}


def build(version: str, size: str, names: dict[str, tuple[int, ...]] | None = None) -> tuple[OlmoEarth, FrozenProjection]:
    "Our model with the weights of the comparison."
    state = {k: torch.from_numpy(v) for k, v in weights(names or shapes(version, size)).items()}
    return from_official(state, Config.of(size, version))


def batch(case: Case, x: Inputs) -> Batch:
    "The arrays as our model reads them."
    dates = torch.from_numpy((x.dates - np.datetime64("2000-01-01")).astype(int))
    month = torch.from_numpy(x.dates.astype("datetime64[M]").astype(int) % 12)
    tensors = [{k: torch.from_numpy(v) for k, v in d.items()} for d in (x.values, x.missing)]
    return Batch(*tensors, dates, month, case.patch)


def run(model: OlmoEarth, target: FrozenProjection, version: str, case: Case, x: Inputs) -> dict[str, np.ndarray]:
    "All outputs of one case, as `official.run` gives them."
    b = batch(case, x)
    layout = model.layout(b)
    assert layout.preset == PRESET[version]
    flat = [torch.from_numpy(x.roles[s.modality][..., s.bandset].reshape(3, case.samples, -1)) for s in layout.slices]
    role = torch.cat(flat, 2).to(torch.int8)
    with torch.no_grad():
        got, everything, goal = model(b, role[:2]), model.encode(b, role[2]), target(b, layout)
        pooled = got.pooled.unflatten(0, (2, -1))
        loss = [patch_discrimination(got.prediction, goal, role[:2].flatten(0, 1), layout, drop_same=drop).total for drop in ((), MAPS)]
        views = lambda v: v.unflatten(0, (2, -1)).numpy()
        pooled_places = {} if model.encoder.pooler is None else {
            "location_tokens": model.embed(b, role[2]).numpy(), "student_location_tokens": model.embed(b, role[2], width=128).numpy()}
        return pooled_places | {"tokens": views(got.tokens.x), "all": everything.x.numpy(), "pooled": pooled.numpy(), "decoded": views(got.prediction),
                "target": (goal * (role[2] != 3)[..., None]).numpy(), "patch_loss": loss[0].numpy(), "patch_loss_dropped": loss[1].numpy(),
                "instance_loss": instance_contrastive(*pooled).total.numpy()}
