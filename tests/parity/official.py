"""The released code: build a model, fill it, run it on a case."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch

from cases import PRESET, Case, Inputs, weights
from olmoearth.tokens import Layout

logging.disable(logging.INFO)
warnings.filterwarnings("ignore")

from olmoearth_pretrain.nn.flexi_vit import TokensAndMasks  # noqa: E402
from olmoearth_pretrain.train.loss import (  # noqa: E402
    InfoNCELoss, ModalityPatchDiscriminationLoss, ModalityPatchDiscriminationMaskedNegatives)
from olmoearth_pretrain_minimal import OlmoEarthPretrain_v1  # noqa: E402
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample  # noqa: E402

MAP_NAMES = ["worldcover", "srtm", "openstreetmap_raster", "wri_canopy_height_map", "cdl", "worldcereal"]


def build(version: str, size: str, drop_path: float = 0.0) -> torch.nn.Module:
    "A released model with random weights."
    torch.manual_seed(0)
    return OlmoEarthPretrain_v1(size, version, drop_path=drop_path).model


def fill(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    "Give it the weights of the comparison. Training mode: only there does the released encoder mask padding tokens out."
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    new = {k: torch.from_numpy(v) for k, v in weights(shapes).items()}
    lacking = model.load_state_dict(new, strict=False)
    assert all(k.endswith("month_embed.weight") for k in lacking.missing_keys) and not lacking.unexpected_keys
    model.train()
    return shapes


def masked_sample(case: Case, x: Inputs, view: int) -> MaskedOlmoEarthSample:
    "Arrays and pixel masks of one masking."
    fields: dict[str, torch.Tensor] = {"timestamps": torch.from_numpy(x.timestamps)}
    for name, v in x.values.items():
        fields[name] = torch.from_numpy(v)
        fields[f"{name}_mask"] = torch.from_numpy(x.roles[name][view].repeat(case.patch, 1).repeat(case.patch, 2))
    return MaskedOlmoEarthSample(**fields)


def flat(tokens: object, layout: Layout, keep: np.ndarray | None = None) -> np.ndarray:
    "(B, N, D) in the order of a layout; zero where `keep` (B, N) is False."
    parts = [getattr(tokens, s.modality)[..., s.bandset, :].flatten(1, -2) for s in layout.slices]
    out = torch.cat(parts, 1).detach().numpy()
    return out if keep is None else out * keep[..., None]


def run(model: torch.nn.Module, version: str, case: Case, x: Inputs) -> dict[str, np.ndarray]:
    "All outputs of one case."
    t = [case.times, 1]
    layout = Layout.of(PRESET[version], **{k: (case.side, case.side, t[k in case.maps]) for k in x.values})
    role = np.stack([np.concatenate([x.roles[s.modality][v][..., s.bandset].reshape(case.samples, -1) for s in layout.slices], 1) for v in range(3)])
    out: dict[str, np.ndarray] = {}
    with torch.no_grad():
        passes = [model(masked_sample(case, x, v), case.patch) for v in range(2)]
        everything = model.encoder(masked_sample(case, x, 2), patch_size=case.patch)
        target = model.target_encoder(masked_sample(case, x, 0).unmask(), patch_size=case.patch,
                                      token_exit_cfg={k: 0 for k in x.values})["tokens_and_masks"]
        latent, decoded, pooled = ([p[i] for p in passes] for i in range(3))
        out["tokens"] = np.stack([flat(latent[v], layout, role[v] == 0) for v in range(2)])
        out["all"] = flat(everything["tokens_and_masks"], layout, role[2] == 0)
        out["pooled"] = torch.stack(pooled).numpy()
        out["decoded"] = np.stack([flat(decoded[v], layout, role[v] == 2) for v in range(2)])
        out["target"] = flat(target, layout, role[2] != 3)
        for name in ("location_tokens", "student_location_tokens"):
            if name in everything: out[name] = everything[name].numpy()
        full = lambda z: TokensAndMasks(**{k: v for k, v in z._asdict().items() if v is not None})
        plain, dropped = ModalityPatchDiscriminationLoss(), ModalityPatchDiscriminationMaskedNegatives(mask_negatives_for_modalities=MAP_NAMES)
        for name, loss in (("patch_loss", plain), ("patch_loss_dropped", dropped)):
            out[name] = np.array([float(loss.compute(full(d), full(target))) for d in decoded]).mean()
        out["instance_loss"] = np.array(float(InfoNCELoss().compute(*pooled)))
    return out
