"""Transformer and model: packing, missing data, seeds, sizes, any modality, gradients."""
import copy
import pickle

import pytest
import torch

from olmoearth.masking import cross_modality, random_mask
from olmoearth.modalities import MAPS, SENSORS, BandSet, Modality, modality, register
from olmoearth.model import SIZES, Config, OlmoEarth, count_parameters, pool_places
from olmoearth.samples import Batch, InputError
from olmoearth.settings import torch_generator
from olmoearth.tokens import Role, Tokens, token_missing
from olmoearth.transformer import Block, DropPath, Rows, attention, gather, pack, padded_attention, row_attention, scatter

register(Modality("ground_photo", "Ground photo", "image", (BandSet(("red", "green", "blue"), 0),), unit="8-bit grey value", valid=(0, 255),
                  dtype="uint8"))
SMALL = dict(dim=32, depth=2, heads=4, decoder_depth=1)


def make_batch(names=SENSORS + ("worldcover", "srtm"), B=2, side=2, T=3, patch_size=4, seed=0):
    values = {}
    for k in names:
        m = modality(k)
        edge = side * patch_size * m.factor
        shape = {"space-time": (edge, edge, T), "space": (edge, edge, 1), "time": (1, 1, T), "image": (16, 24, 1), "point": (1, 1, 1)}[m.kind]
        values[k] = torch.rand(B, *shape, m.n_bands, generator=torch_generator(seed, k))
    month = torch.arange(T).expand(B, T) % 12
    return Batch(values, {k: torch.zeros_like(v, dtype=torch.bool) for k, v in values.items()}, month * 30, month, patch_size)


def make_model(seed=0, **overrides):
    return OlmoEarth(Config.of(**{**SMALL, **overrides}), seed=seed).eval()


def make_roles(model, batch, views=2, seed=0):
    layout = model.layout(batch)
    missing = token_missing(batch, layout)
    return torch.stack([cross_modality(layout, missing, torch_generator(seed, "view", v)) for v in range(views)])


def one(batch, i):
    cut = lambda d: {k: v[i:i + 1] for k, v in d.items()}
    return Batch(cut(batch.values), cut(batch.missing), batch.days[i:i + 1], batch.month[i:i + 1], batch.patch_size)


# ---- packing

@pytest.mark.parametrize("seed", range(5))
def test_pack_gather_scatter_are_exact(seed):
    g = torch_generator(seed)
    keep, x = torch.rand(6, 9, generator=g) < 0.4, torch.randn(3, 9, 4, generator=g)
    keep[0], keep[1] = False, True
    packing = pack(keep)                                                     # two maskings of three samples
    assert torch.equal(scatter(gather(x, packing), packing), x.repeat(2, 1, 1) * keep[..., None])
    assert packing.counts == tuple(keep.sum(1).tolist()) and torch.equal(packing.row, keep.nonzero()[:, 0])


@pytest.mark.parametrize("asks, gives", [((3, 0, 4, 1), (2, 5, 0, 1)), ((2, 2, 2, 2), (3, 3, 3, 3)), ((2, 2, 2, 2), (3, 3, 3, 0)), ((0, 0, 0, 1), (0, 0, 0, 0))])
def test_ways_of_attention_agree(asks, gives):
    q, k, v = (torch.randn(sum(n), 2, 4, generator=torch_generator(i)).requires_grad_() for i, n in enumerate((asks, gives, gives)))
    ways = [attention(q, k, v, asks, gives), row_attention(q, k, v, asks, gives)] + ([padded_attention(q, k, v, asks, gives)] if sum(gives) else [])
    grads = [torch.autograd.grad(w.square().sum(), (q, k, v), allow_unused=True, materialize_grads=True) if w.requires_grad else None for w in ways]
    for w, g in zip(ways[1:], grads[1:]):
        torch.testing.assert_close(w, ways[0])
        if g is not None and grads[0] is not None: torch.testing.assert_close(g, grads[0])


def test_a_sample_is_not_changed_by_its_neighbours():
    """Rows share one list of tokens, and nothing else: each sample alone gives what it gives in the batch."""
    model, batch = make_model(), make_batch(B=4)
    batch.missing["sentinel2_l2a"][1] = True
    batch.missing["landsat"][2, :, :, 1:] = True
    roles = make_roles(model, batch)
    out = model(batch, roles)
    for i in range(4):
        alone = model(one(batch, i), roles[:, i:i + 1])
        torch.testing.assert_close(out.prediction[i::4], alone.prediction, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.tokens.x[i::4], alone.tokens.x, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.pooled[i::4], alone.pooled, atol=1e-5, rtol=1e-5)


# ---- missing data

@pytest.mark.parametrize("fill", [torch.nan, 1e9])
def test_missing_values_change_nothing(fill):
    model, batch = make_model(), make_batch(B=3)
    g = torch_generator(0, "missing")
    for m in batch.missing.values(): m |= torch.rand(m.shape, generator=g) < 0.2
    batch.missing["sentinel1"][0] = True
    batch.missing["landsat"][:, :, :, 2] = True
    roles = make_roles(model, batch)
    out, z = model(batch, roles), model.embed(batch)
    for k, v in batch.values.items(): v[batch.missing[k]] = fill
    again = model(batch, roles)
    assert torch.equal(out.prediction, again.prediction) and torch.equal(out.pooled, again.pooled) and torch.equal(z, model.embed(batch))


def test_values_of_missing_tokens_have_no_gradient():
    model, batch = make_model(), make_batch(B=1)
    batch.missing["sentinel2_l2a"][:, :4, :4, 0] = True
    for v in batch.values.values(): v.requires_grad_()
    model(batch, make_roles(model, batch)).prediction.square().sum().backward()
    assert not batch.values["sentinel2_l2a"].grad[:, :4, :4, 0].any()
    assert batch.values["sentinel2_l2a"].grad.any()


def test_a_sample_without_data_is_nan_and_harms_nobody():
    model, batch = make_model(), make_batch(B=2)
    z = model.embed(batch)
    for k in SENSORS: batch.missing[k][0] = True
    gone = model.embed(batch)
    assert gone[0].isnan().all()
    torch.testing.assert_close(gone[1], z[1], atol=1e-5, rtol=1e-5)
    for k in SENSORS: batch.missing[k][1] = True
    assert model.embed(batch).isnan().all()


def test_an_absent_sensor_is_as_one_that_is_not_there():
    model, batch = make_model(), make_batch()
    batch.missing["landsat"][:] = True
    without = Batch({k: v for k, v in batch.values.items() if k != "landsat"}, {k: v for k, v in batch.missing.items() if k != "landsat"},
                    batch.days, batch.month, batch.patch_size)
    torch.testing.assert_close(model.embed(batch), model.embed(without), atol=1e-6, rtol=1e-6)


# ---- what the decoder may know

def test_hidden_values_do_not_reach_the_answer():
    model, batch = make_model(), make_batch()
    roles = make_roles(model, batch)
    layout = model.layout(batch)
    out = model(batch, roles)
    for name in ("worldcover", "srtm"): batch.values[name] = torch.rand_like(batch.values[name])       # never visible
    assert torch.equal(model(batch, roles).prediction, out.prediction)
    patch = roles[0, 0] == Role.DECODE
    assert patch[layout.where(*SENSORS)].any()


def test_prediction_only_where_asked():
    model, batch = make_model(), make_batch()
    roles = make_roles(model, batch)
    out = model(batch, roles)
    flat = roles.flatten(0, 1)
    assert torch.equal(out.prediction.ne(0).any(2), flat == Role.DECODE) and torch.equal(out.tokens.x.ne(0).any(2), flat == Role.ENCODE)
    assert out.prediction.shape[2] == model.patch_embed(batch).shape[2]                                # in the target's space


def test_views_are_computed_from_one_embedding():
    model, batch = make_model(), make_batch()
    roles = make_roles(model, batch, views=3)
    calls = []
    model.patch_embedding.register_forward_hook(lambda *_: calls.append(1))
    out = model(batch, roles)
    assert len(calls) == 1
    for v in range(3): torch.testing.assert_close(out.prediction[2 * v:2 * v + 2], model(batch, roles[v]).prediction, atol=1e-5, rtol=1e-5)


def test_pooled_is_the_projected_mean_of_the_visible():
    model, batch = make_model(), make_batch()
    out = model(batch, make_roles(model, batch))
    mean = torch.stack([x[v].mean(0) for x, v in zip(out.tokens.x, out.tokens.visible)])
    torch.testing.assert_close(out.pooled, model.encoder.project(mean), atol=1e-5, rtol=1e-5)


def test_pool_places_by_hand():
    model, batch = make_model(), make_batch(names=("sentinel1", "era5_10"), side=3)
    layout = model.layout(batch)
    tokens = Tokens(torch.randn(2, len(layout), 5, generator=torch_generator(0)),
                    random_mask(layout, torch.zeros(2, len(layout), dtype=torch.bool), torch_generator(0)), layout)
    z = pool_places(tokens)
    for b in range(2):
        for place in range(9):
            own = tokens.visible[b] & (layout.place == place)
            expected = tokens.x[b, own].mean(0) if own.any() else torch.full((5,), torch.nan)
            torch.testing.assert_close(z[b, place // 3, place % 3], expected, equal_nan=True)


# ---- seeds

def test_weights_depend_on_seed_and_name_alone():
    before = torch.get_rng_state()
    a = make_model()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    b, c, wide = make_model(), make_model(seed=1), make_model(modalities=SENSORS + MAPS + ("era5_10",))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters()))
    assert all(torch.equal(p, wide.state_dict()[k]) for k, p in a.state_dict().items())


def test_a_training_step_can_be_repeated():
    model, batch = make_model(drop_path=0.5).train(), make_batch(B=4)
    roles = make_roles(model, batch)
    def draw(seed):
        model.set_generator(torch_generator(seed, "step"))
        return model(batch, roles).prediction
    first = draw(0)
    before = torch.get_rng_state()
    assert torch.equal(draw(0), first) and not torch.equal(draw(1), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.eval()(batch, roles).prediction, make_model(drop_path=0.5)(batch, roles).prediction)


def test_drop_path_is_in_the_encoder_only():
    model = make_model(drop_path=0.3)
    assert all(m.rate == 0.3 for m in model.encoder.modules() if isinstance(m, DropPath))
    assert all(m.rate == 0.0 for m in model.decoder.modules() if isinstance(m, DropPath))


def test_models_can_be_copied_and_pickled():
    model, batch = make_model(), make_batch()
    z = model.embed(batch)
    assert torch.equal(copy.deepcopy(model).embed(batch), z)
    assert torch.equal(pickle.loads(pickle.dumps(model)).embed(batch), z)
    fresh = make_model(seed=5)
    assert fresh.load_state_dict(model.state_dict()).missing_keys == [] and torch.equal(fresh.embed(batch), z)


# ---- sizes and shapes

def test_sizes_are_the_released_ones():
    """Reference: encoder and decoder of the released models in millions (reference table of the recipe)."""
    for size, (encoder, decoder) in {"nano": (1.4, 0.8), "tiny": (6.2, 1.9), "base": (89, 30), "large": (308, 53)}.items():
        counts = count_parameters(Config.of(size))
        assert abs(counts["encoder"] / 1e6 - encoder) < max(0.05, 0.005 * encoder) and abs(counts["decoder"] / 1e6 - decoder) < max(0.05, 0.02 * decoder)
    exact = {"nano": (1_360_640, 827_136)}                                    # as the released package counts them
    assert {k: tuple(count_parameters(Config.of(k)).values()) for k in exact} == exact
    assert set(SIZES) == {"nano", "tiny", "small", "base", "large"}


@pytest.mark.parametrize("p, T", [(1, 1), (2, 3), (8, 12), (5, 20)])
def test_every_patch_size_and_number_of_dates(p, T):
    model, batch = make_model(), make_batch(names=SENSORS, B=1, T=T, patch_size=p)
    z = model.embed(batch)
    assert z.shape == (1, 2, 2, 32) and z.isfinite().all()


def test_single_bandset_tokenisation():
    model, batch = make_model(preset="single"), make_batch()
    layout = model.layout(batch)
    assert len([s for s in layout.slices if s.modality in SENSORS]) == 3
    assert model(batch, make_roles(model, batch)).prediction.isfinite().all()


def test_bfloat16_stays_close():
    model, batch = make_model(), make_batch()
    roles = make_roles(model, batch)
    plain = model(batch, roles).prediction
    with torch.autocast("cpu", dtype=torch.bfloat16): low = model(batch, roles)
    assert low.prediction.shape == plain.shape
    assert (low.prediction.float() - plain).abs().max() < 0.1 * plain.abs().max()


def test_every_weight_learns():
    """All but the patch embeddings of the maps, which the encoder never reads, get a gradient."""
    model, batch = make_model(), make_batch(names=SENSORS + MAPS)
    out = model(batch, make_roles(model, batch, views=4))
    (out.prediction.square().mean() + out.pooled.square().mean()).backward()
    silent = {k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    maps = {k for k in silent if any(f"encoder.patch_embedding.bandset.{m}." in k or k == f"encoder.encodings.bandset.{m}" for m in MAPS)}
    keys = {k for k in silent if k.endswith("attn.k.bias")}                   # a constant in all keys cancels in the softmax
    assert silent - maps - keys == set()


def test_a_block_without_context_is_self_attention():
    block, x, n = Block(16, 4).eval(), torch.randn(10, 16, generator=torch_generator(0)), Rows((6, 4))
    half = x + block.attn(block.norm1(x), n)
    assert torch.equal(block(x, n), half + block.fc2(torch.nn.functional.gelu(block.fc1(block.norm2(half)))))


# ---- any modality

def test_weather_and_a_ground_photo_go_all_the_way():
    """ERA5 as an input and a photo as a target: tokens, mask, encoder, decoder, gradients."""
    names = SENSORS + ("worldcover", "era5_10", "ground_photo")
    model = make_model(modalities=SENSORS + MAPS + ("era5_10", "ground_photo"), inputs=SENSORS + ("era5_10",))
    batch = make_batch(names=names)
    batch.missing["era5_10"][0, :, :, 1] = True
    layout = model.layout(batch)
    missing = token_missing(batch, layout)
    assert missing[0, layout.where("era5_10")].tolist() == [False, True, False]
    role = cross_modality(layout, missing, torch_generator(3), only_decode=MAPS + ("ground_photo",))
    assert (role[:, layout.where("ground_photo")] == Role.DECODE).any(1).all()
    out = model(batch, role)
    photo = layout.where("ground_photo")
    assert torch.equal(out.prediction[:, photo].ne(0).any(2), role[:, photo] == Role.DECODE)
    target = model.patch_embed(batch).detach()
    (out.prediction - target)[role == Role.DECODE].square().mean().backward()
    assert model.decoder.encodings.bandset["ground_photo"].grad.any()
    everything = torch.where(layout.where("ground_photo", "worldcover"), Role.DECODE, Role.ENCODE).to(torch.int8).expand(2, -1).masked_fill(missing, Role.MISSING)
    seen = model(batch, everything)
    batch.values["era5_10"] = batch.values["era5_10"] + 1
    assert not torch.allclose(model(batch, everything).prediction, seen.prediction)      # the weather is really read
    assert model.embed(batch).isfinite().all()


# ---- faults

def test_faults_name_the_fix():
    model, batch = make_model(), make_batch()
    layout = model.layout(batch)
    with pytest.raises(InputError, match=r"worldcover, srtm: marked ENCODE, but not an input of this model.*inputs="):
        model(batch, torch.zeros(2, len(layout), dtype=torch.int8))
    with pytest.raises(InputError, match=r"roles of shape \(1, 2, 3\) do not fit 2 samples of .* tokens"): model(batch, torch.zeros(2, 3, dtype=torch.int8))
    with pytest.raises(InputError, match="the batch has worldcover; the encoder reads sentinel2_l2a"): model.embed(make_batch(names=("worldcover",)))
    with pytest.raises(InputError, match="era5_10: this model has no weights for it.*modalities="):
        with_weather = make_batch(names=("sentinel1", "era5_10"))
        wide = model.layout(with_weather)
        model(with_weather, torch.where(wide.where("era5_10"), Role.DECODE, Role.ENCODE).to(torch.int8).expand(2, -1))
    with pytest.raises(KeyError, match="unknown version 'v9'"): Config.of(version="v9")
    with pytest.raises(InputError, match="use a multiple of 16"): make_model(dim=24, heads=4)
    with pytest.raises(InputError, match="cannot be shared by 5 heads"): make_model(heads=5)
