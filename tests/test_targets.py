"Targets and the pixel loss: bytes that do not move, pixels that are what the embedding reads, terms that keep apart, input that does not fit."
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_loading import Loader, Places

from olmoearth.learned import autoencoder_projection, centroids_of, kmeans_projection
from olmoearth.losses import instance_contrastive, patch_discrimination
from olmoearth.masking import mask_views
from olmoearth.model import Config, OlmoEarth
from olmoearth.pixels import LossPair, PixelLoss, PixelTarget, TargetPair, patch_gaps, patch_length, standardise
from olmoearth.samples import InputError
from olmoearth.settings import torch_generator
from olmoearth.targets import FrozenProjection, MomentumEncoder, patch_rows, patch_values, principal_projection
from olmoearth.tokens import Layout, PatchEmbedding, Role, token_missing
from olmoearth.trainer import TrainConfig, Trainer, released_loss

SMALL = Config.of("nano", dim=32, depth=1, decoder_depth=1, heads=2)
DATA = [Places(6)[i] for i in range(6)]
RUN = TrainConfig(steps=3, device="cpu", dtype="float32")


def loader(patch_size: int = 8, seed: int = 0, preset: str = "v1") -> Loader:
    return Loader(DATA, 2, seed=seed, patch_sizes=(patch_size,), sides=(2,), budget=200, preset=preset, check="off")


@pytest.fixture(scope="module")
def batches(): return [loader().batch(i) for i in range(3)]


@pytest.fixture(scope="module")
def batch(batches): return batches[0]


@pytest.fixture(scope="module")
def model(batch): return OlmoEarth(replace(SMALL, modalities=tuple(batch.values), inputs=tuple(k for k in SMALL.inputs if k in batch.values)), seed=1).eval()


LEARNED = {"pca": lambda m, b: principal_projection(m, b), "kmeans": lambda m, b: kmeans_projection(m, b, k=8, components=4),
           "soft": lambda m, b: kmeans_projection(m, b, k=8, soft=.5),
           "autoencoder": lambda m, b: autoencoder_projection(m, b, steps=6), "vq": lambda m, b: autoencoder_projection(m, b, steps=6, codes=4)}


def step(model, batch, view=0):
    "Output and roles of a masked pass."
    layout = model.layout(batch)
    roles = mask_views("random", layout, token_missing(batch, layout), torch_generator(0, "test", view), 2)
    return model(batch, roles), roles, layout


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_targets_fit_freeze_and_repeat(kind, model, batches):
    state = torch.get_rng_state()
    one, two = LEARNED[kind](model, batches), LEARNED[kind](model.patch_embedding, iter(batches))
    assert torch.equal(state, torch.get_rng_state())
    assert one.digest() == two.digest() and not list(one.parameters())
    layout = model.layout(batches[0])
    t = one(batches[0], layout)
    assert t.shape == (2, len(layout), 32) and t.dtype == torch.float32 and t.isfinite().all() and not t.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert kind == "pca" or torch.equal(one(batches[0], layout), t)
    part, at = layout.select(["sentinel1"])
    assert torch.equal(one(batches[0], part), t[:, at])


@pytest.mark.parametrize("kind", LEARNED)
def test_a_run_leaves_every_byte_of_a_learned_target_and_resumes_with_it(kind, model, batches, tmp_path):
    def make(target): return Trainer(OlmoEarth(model.config, seed=1), loader(), RUN, target=target(model))
    trainer = make(lambda e: LEARNED[kind](e, batches))
    before = trainer.target.digest()
    trainer.fit()
    assert trainer.target.digest() == before
    trainer.save(tmp_path / "c.pt")
    other = make(lambda e: LEARNED[kind](e, batches[:1]))
    assert other.target.digest() != before
    assert other.resume(tmp_path / "c.pt") and other.target.digest() == before
    layout = trainer.model.layout(batches[0])
    assert torch.equal(other.target(batches[0], layout), trainer.target(batches[0], layout))


def test_seeds_differ(model, batches):
    for f in (lambda s: kmeans_projection(model, batches, k=8, seed=s), lambda s: autoencoder_projection(model, batches, steps=2, seed=s)):
        assert f(0).digest() != f(1).digest()


def test_hard_codes_make_equal_targets_and_soft_ones_hardly(model, batches):
    layout = model.layout(batches[0])
    at = layout.slices[0]
    count = lambda t: len(t(batches[0], layout)[:, at.start:at.stop].flatten(0, 1).unique(dim=0))
    assert count(kmeans_projection(model, batches, k=4)) <= 4 < count(kmeans_projection(model, batches, k=4, soft=1.))
    hard = kmeans_projection(model, batches, k=2)(batches[0], layout)
    out, roles, _ = step(model, batches[0])
    loose, strict = (patch_discrimination(out.answers, hard, roles.flatten(0, 1), layout, drop_same=d) for d in ((), layout.names))
    assert all(strict.chance[k] < loose.chance[k] for k in strict.chance if k == "sentinel2_l2a")


def test_fewer_different_patches_than_clusters():
    z = torch.tensor([[0., 0.], [1., 1.], [0., 0.]])
    c = centroids_of(z, 5, seed=0)
    assert c.shape == (5, 2) and sorted({tuple(r) for r in c.tolist()}) == [(0., 0.), (1., 1.)]


def test_missing_patches_teach_nothing(model, batch):
    gone = replace(batch, missing={**batch.missing, "sentinel1": batch.missing["sentinel1"].clone()})
    before = len(patch_rows(model, batch)["sentinel1", 0])
    gone.missing["sentinel1"][0] = True
    assert 0 < len(patch_rows(model, gone)["sentinel1", 0]) < before
    gone.missing["sentinel1"][:] = True
    with pytest.raises(InputError, match="no batch has bandset 0 of sentinel1"): principal_projection(model, gone)


def test_what_cannot_be_learned_from_is_named(model, batch):
    for f in (principal_projection, kmeans_projection, autoencoder_projection):
        with pytest.raises(InputError, match="list of batches, not int"): f(model, 3)
        with pytest.raises(InputError, match="a batch is wanted, not str"): f(model, ["a"])
        with pytest.raises(InputError, match="a model or its patch embedding is wanted, not Config"): f(model.config, batch)
        with pytest.raises(InputError, match="no batch has bandset 0"): f(model, [])
    with pytest.raises(InputError, match="no codes or two"): autoencoder_projection(model, batch, codes=1)
    with pytest.raises(InputError, match="two clusters"): kmeans_projection(model, batch, k=0)


@pytest.mark.parametrize("patch_size", [2, 4, 8])
@pytest.mark.parametrize("preset", ["v1", "single"])
def test_pixels_times_the_weights_of_the_embedding_are_the_frozen_projection(patch_size, preset):
    batch = loader(patch_size, preset=preset).batch(0)
    batch = replace(batch, missing={k: torch.zeros_like(v) for k, v in batch.missing.items()})
    embedding = PatchEmbedding(tuple(batch.values), 32, preset)
    layout = Layout.from_batch(batch, preset)
    t = PixelTarget()(batch, layout)
    for s in layout.slices:
        mine = t[:, s.start:s.stop]
        n = patch_length(s.modality, s.bandset, preset)
        assert mine[..., :n].isfinite().all() and mine[..., n:].isnan().all()
        got = embedding.bandset[s.modality][s.bandset].proj(mine[..., :n])
        want = FrozenProjection.of(embedding)(batch, layout)[:, s.start:s.stop]
        assert torch.allclose(got, want, atol=1e-5)


def test_missing_pixels_are_no_target(model, batch):
    layout, clean = model.layout(batch), replace(batch, missing={k: torch.zeros_like(v) for k, v in batch.missing.items()})
    holes = replace(clean, missing={k: v.clone() for k, v in clean.missing.items()})
    holes.missing["sentinel1"][0, 0, 0, 0, 0] = True                          # at 8 px a pixel is a number
    a, b = PixelTarget()(clean, layout), PixelTarget()(holes, layout)
    assert (b.isnan() & ~a.isnan()).sum() == 1
    assert torch.equal(a.nan_to_num(), torch.where(b.isnan(), a, b).nan_to_num())
    holes.missing["sentinel1"][0, :8, :8, 0] = True
    s = next(s for s in layout.slices if s.modality == "sentinel1")
    assert PixelTarget()(holes, layout)[0, s.start].isnan().all()
    small = loader(4).batch(0)
    small = replace(small, missing={k: torch.zeros_like(v) for k, v in small.missing.items()})
    assert not any(g.any() for g in patch_gaps(small, Layout.from_batch(small)))


def test_a_hidden_value_of_a_gap_moves_no_target_but_where_it_is_marked(model):
    batch = loader(4).batch(0)
    missing = {k: torch.zeros_like(v) for k, v in batch.missing.items()}
    missing["sentinel1"][:, 1, 1] = True
    layout = Layout.from_batch(batch)
    other = {**batch.values, "sentinel1": batch.values["sentinel1"].clone()}
    other["sentinel1"][:, 1, 1] = 99.
    a, b = (PixelTarget()(replace(batch, missing=missing, values=v), layout) for v in (batch.values, other))
    assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def test_patch_normalisation_is_of_images_alone(model, batch):
    layout = model.layout(batch)
    plain, each = PixelTarget()(batch, layout), PixelTarget("patch")(batch, layout)
    maps = layout.where(*(k for k in layout.names if k not in model.config.inputs))
    assert torch.equal(plain[:, maps].nan_to_num(), each[:, maps].nan_to_num())
    s2 = each[:, layout.where("sentinel2_l2a")]
    s2 = s2[~s2.isnan().all(-1)]
    assert s2.nanmean(1).abs().max() < 1e-4 and (s2.square().nanmean(1) - 1).abs().max() < .05
    assert standardise(torch.full((3, 4), 2.)).abs().max() == 0


def test_targets_refuse_a_layout_of_another_batch(model, batch):
    other = model.layout(loader(4).batch(0))
    smaller = replace(batch, values={k: v for k, v in batch.values.items() if k != "sentinel1"})
    wrong = Layout.of("v1", sentinel1=(1, 1, batch.n_times))
    for target in (PixelTarget(), kmeans_projection(model, batch, k=2)):
        assert target(batch, model.layout(batch)).shape[1] == len(model.layout(batch))
        with pytest.raises(InputError, match="use Layout.from_batch"): target(batch, wrong)
        with pytest.raises(InputError, match="the layout has sentinel1, the batch only"): target(smaller, model.layout(batch))
    assert len(other) == sum(x.shape[1] for x in patch_values(loader(4).batch(0), other))


def test_loss_refuses_what_does_not_fit(model, batch):
    out, roles, layout = step(model, batch)
    t, loss = PixelTarget()(batch, layout), PixelLoss(model.config)
    for bad in ((replace(out, answers=out.answers[:-1]), t, roles), (replace(out, answers=out.answers[:, :-1]), t, roles), (out, t[..., :32], roles), (out, t[:, :-1], roles),
                (out, t, roles[0]), (out, FrozenProjection.of(model.patch_embedding)(batch, layout), roles)):
        with pytest.raises(InputError, match="disagree; use PixelTarget"): loss(*bad, layout, RUN)
    with pytest.raises(InputError, match="has no weights"): PixelLoss(replace(model.config, modalities=("sentinel1",)))(out, t, roles, layout, RUN)
    with pytest.raises(InputError, match="use 'mse' or"): PixelLoss(model.config, kind="l3")


@pytest.mark.parametrize("kind", ["mse", "smooth_l1"])
def test_a_modality_does_not_feel_another(kind, model, batch):
    out, roles, layout = step(model, batch)
    loss, t = PixelLoss(model.config, kind), PixelTarget()(batch, layout)
    moved, answers = t.clone(), out.answers.clone()
    here = layout.where("sentinel2_l2a")
    moved[:, here] += 3.
    col = (roles.flatten(0, 1) == Role.DECODE).nonzero()[:, 1]
    answers[here[col]] += 1.
    a, b = loss(out, t, roles, layout, RUN), loss(replace(out, answers=answers), moved, roles, layout, RUN)
    assert set(a.terms) == set(b.terms) and {"sentinel1", "sentinel2_l2a", "instance"} <= set(a.terms)
    for k in a.terms: assert torch.equal(a.terms[k], b.terms[k]) == (k != "sentinel2_l2a"), k


def test_terms_add_up_with_weights_and_contrast(model, batch):
    out, roles, layout = step(model, batch)
    t, weights = PixelTarget()(batch, layout), {"sentinel1": 3., "worldcover": 0.}
    got = PixelLoss(model.config, weights=weights)(out, t, roles, layout, RUN)
    parts = sum(weights.get(k, 1.) * v for k, v in got.terms.items() if k != "instance")
    assert torch.allclose(got.total, parts + RUN.contrast * got.terms["instance"], atol=1e-6)
    assert torch.equal(got.terms["instance"], instance_contrastive(*out.pooled.unflatten(0, (2, -1)), RUN.tau, RUN.contrast_group).terms["instance"])
    assert "instance" not in PixelLoss(model.config)(out, t, roles, layout, replace(RUN, contrast=0.)).terms


def test_a_pair_reports_every_term_once_and_counts_the_contrast_once(model, batch):
    out, roles, layout = step(model, batch)
    latent, pixels = FrozenProjection.of(model.patch_embedding), PixelTarget()
    target, loss = TargetPair(latent, pixels), PixelLoss(model.config)
    both = LossPair(released_loss, loss, .5)(out, target(batch, layout), roles, layout, RUN)
    one = released_loss(out, latent(batch, layout), roles, layout, RUN)
    two = loss(out, pixels(batch, layout), roles, layout, replace(RUN, contrast=0.))
    assert torch.allclose(both.total, one.total + .5 * two.total, atol=1e-5)
    assert both.terms.keys() == one.terms.keys() | {f"pixels/{k}" for k in two.terms} and both.chance.keys() == both.terms.keys()
    assert all(torch.allclose(both.terms[k], v) for k, v in one.terms.items()) and all(torch.equal(both.terms[f"pixels/{k}"], v) for k, v in two.terms.items())
    slow = TargetPair(MomentumEncoder(model, 0.), pixels)
    other, before = OlmoEarth(model.config, seed=7), slow.digest()
    slow.update(other, 1.)
    assert torch.equal(slow.latent.encoder.norm.weight, other.encoder.norm.weight) and before != slow.digest()


def test_chance_is_the_error_of_the_mean_of_the_bands(model, batch):
    out, roles, layout = step(model, batch)
    t, loss = PixelTarget()(batch, layout), PixelLoss(model.config)
    decode = roles.flatten(0, 1) == Role.DECODE
    for s in layout.slices:
        mine = torch.cat([t[r % len(t), s.start:s.stop][decode[r, s.start:s.stop]] for r in range(len(decode))])
        head = loss.head[s.modality][s.bandset]
        n, side = head.out_features, 64 if head.out_features % 64 == 0 else 1
        if len(mine): head.weight.data.zero_(); head.bias.data.copy_(mine[:, :n].unflatten(1, (side, -1)).nanmean((0, 1)).repeat(side))
    got = loss(out, t, roles, layout, replace(RUN, contrast=0.))
    for k in got.terms: assert torch.allclose(got.terms[k], got.chance[k], atol=1e-6), k


def test_only_hidden_and_known_numbers_are_felt(model, batch):
    out, roles, layout = step(model, batch)
    answers = out.answers.detach().clone().requires_grad_()
    t = PixelTarget()(batch, layout)
    t[:, layout.where("sentinel1")] = torch.nan
    loss = PixelLoss(model.config)
    got = loss(replace(out, answers=answers), t, roles, layout, replace(RUN, contrast=0.))
    got.total.backward()
    assert "sentinel1" not in got.terms and got.total.isfinite() and answers.grad.isfinite().all()
    col = (roles.flatten(0, 1) == Role.DECODE).nonzero()[:, 1]
    assert answers.grad[layout.where("sentinel1")[col]].abs().max() == 0 and answers.grad[layout.where("sentinel2_l2a")[col]].abs().max() > 0
    empty = loss(replace(out, answers=answers[:0]), t, torch.full_like(roles, int(Role.ENCODE)), layout, replace(RUN, contrast=0.))
    assert empty.total.item() == 0 and not empty.terms


@pytest.mark.parametrize("normalise", ["none", "patch"])
def test_the_error_falls_on_a_fixed_batch(normalise, batch, model):
    plain = {k: v.mean((1, 2), keepdim=True).expand_as(v) if v.shape[1] > 1 else v for k, v in batch.values.items()}    # one colour for each sample and date: no noise to learn
    batch = replace(batch, values=plain)
    own = OlmoEarth(model.config, seed=1)
    loss, target = PixelLoss(own.config), PixelTarget(normalise)
    layout, before = own.layout(batch), target.digest()
    t = target(batch, layout)
    adam, seen = torch.optim.AdamW([*own.parameters(), *loss.parameters()], lr=5e-3), []
    for i in range(40):
        out, roles, _ = step(own, batch, i % 2)
        got = loss(out, t, roles, layout, replace(RUN, contrast=0.))
        adam.zero_grad(); got.total.backward(); adam.step()
        seen.append(got.total.item())
    assert seen[-1] < .6 * seen[0]
    assert target.digest() == before and torch.equal(target(batch, layout).nan_to_num(), t.nan_to_num())


def test_heads_depend_on_the_seed_alone(model):
    state = torch.get_rng_state()
    a, b, c = (PixelLoss(model.config, seed=s) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    same = lambda x, y: all(torch.equal(p, q) for p, q in zip(x.parameters(), y.parameters(), strict=True))
    assert same(a, b) and not same(a, c)


def test_any_settings_with_the_three_numbers_will_do(model, batch):
    out, roles, layout = step(model, batch)
    t, loss = PixelTarget()(batch, layout), PixelLoss(model.config)
    mine = SimpleNamespace(contrast=RUN.contrast, contrast_group=RUN.contrast_group, tau=RUN.tau)
    assert torch.equal(loss(out, t, roles, layout, mine).total, loss(out, t, roles, layout, RUN).total)


def test_a_map_of_one_class_reports_no_share(model, batch):
    plain = replace(batch, values={**batch.values, "worldcover": torch.full_like(batch.values["worldcover"], .3)})
    out, roles, layout = step(model, plain)
    got = PixelLoss(model.config)(out, PixelTarget()(plain, layout), roles, layout, RUN)
    assert "worldcover" in got.terms and "worldcover" not in got.share() and "sentinel1" in got.share()
