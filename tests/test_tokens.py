"""Layout, missing tokens, patch embedding and encodings: properties and faults."""
import pytest
import torch
from torch.nn import functional as F

from olmoearth.modalities import MAPS, SENSORS, BandSet, Modality, modality, register
from olmoearth.samples import Batch, InputError
from olmoearth.settings import torch_generator
from olmoearth.encodings import Encodings, month_table, position_table, sincos
from olmoearth.tokens import (Layout, PatchEmbedding, Role, Tokens, channels, patch_side,
                              resize, token_missing)
from olmoearth.transformer import init_weights

PHOTO = Modality("ground_photo", "Ground photo", "image", (BandSet(("red", "green", "blue"), 0),), unit="8-bit grey value", valid=(0, 255),
                 dtype="uint8")
register(PHOTO)


def make_batch(names=("sentinel2_l2a", "sentinel1", "worldcover"), B=2, side=2, T=3, patch_size=4, seed=0):
    values = {}
    for k in names:
        m = modality(k)
        edge = side * patch_size * m.factor
        shape = {"space-time": (edge, edge, T), "space": (edge, edge, 1), "time": (1, 1, T), "image": (16, 24, 1), "point": (1, 1, 1)}[m.kind]
        values[k] = torch.rand(B, *shape, m.n_bands, generator=torch_generator(seed, k))
    month = torch.arange(T).expand(B, T) % 12
    return Batch(values, {k: torch.zeros_like(v, dtype=torch.bool) for k, v in values.items()}, month * 30, month, patch_size)


@pytest.mark.parametrize("preset", ["v1", "single"])
def test_layout_numbers_every_token_once(preset):
    layout = Layout.of(preset, sentinel2_l2a=(3, 4, 5), landsat=(3, 4, 5), srtm=(3, 4, 1), era5_10=(1, 1, 5), ground_photo=(2, 3, 1), latlon=(1, 1, 1))
    assert sum(s.stop - s.start for s in layout.slices) == len(layout) == len(layout.row)
    assert all(a.stop == b.start for a, b in zip(layout.slices, layout.slices[1:]))
    for i, s in enumerate(layout.slices):
        assert s.stop - s.start == s.h * s.w * s.t
        own = layout.slice_id == i
        keys = torch.stack([layout.row, layout.col, layout.time], 1)[own]
        assert len(keys.unique(dim=0)) == len(keys)                       # every token has its own address
        assert (layout.place[own] == (layout.row * 4 + layout.col)[own] if s.on_grid else layout.place[own] == -1).all()
    assert [layout.names[i] for i in layout.modality_id.unique()] == list(layout.names)


def test_layout_is_a_key_and_selects():
    layout = Layout.of(sentinel2_l2a=(2, 2, 3), srtm=(2, 2, 1), sentinel1=(2, 2, 3))
    assert {layout: 1}[Layout.of(sentinel2_l2a=(2, 2, 3), srtm=(2, 2, 1), sentinel1=(2, 2, 3))] == 1
    inner, position = layout.select(("sentinel1", "sentinel2_l2a"))
    assert inner == Layout.of(sentinel2_l2a=(2, 2, 3), sentinel1=(2, 2, 3))          # the order of the table, not of the question
    for field in ("row", "col", "time", "place"):
        assert torch.equal(getattr(layout, field)[position], getattr(inner, field))
    none, nowhere = layout.select(("landsat",))
    assert len(none) == len(nowhere) == 0 and none.names == () and none.grid == (0, 0)


@pytest.mark.parametrize("shapes, words", [
    (dict(sentinel1=(2, 2, 3), landsat=(2, 2, 4)), "numbers of dates differ"),
    (dict(sentinel1=(2, 2, 3), srtm=(4, 2, 1)), "patch grids differ"),
    (dict(era5_10=(2, 2, 3)), "has no pixels"),
    (dict(ground_photo=(2, 2, 3)), "has no dates"),
])
def test_layout_faults(shapes, words):
    with pytest.raises(InputError, match=words): Layout.of(**shapes)


def test_layout_of_unknown_modality():
    with pytest.raises(KeyError, match="unknown modality"): Layout.of(sentinel9=(1, 1, 1))


def test_sides_must_be_whole_patches():
    batch = make_batch(side=2, patch_size=4)
    batch.patch_size = 3
    with pytest.raises(InputError, match="sentinel2_l2a: 8 x 8 px cannot be cut into patches of 3 px; crop it to 6 x 6"): Layout.from_batch(batch)


def test_half_missing_is_not_missing():
    batch = make_batch(("sentinel1",), B=1, side=1, T=1)
    layout = Layout.from_batch(batch)
    batch.missing["sentinel1"].flatten()[:16] = True
    assert not token_missing(batch, layout).item()
    batch.missing["sentinel1"].flatten()[16] = True
    assert token_missing(batch, layout).item()


def test_channels_follow_the_bandsets():
    for name in SENSORS:
        for preset in ("v1", "single"):
            assert modality(name).bands[channels(name, 0, preset)] == (modality(name).single[0] if preset == "single" and modality(name).single
                                                                       else modality(name).bandsets[0]).bands
    assert modality("landsat").bands[channels("landsat", 1, "v1")] == modality("landsat").bandsets[1].bands


def test_gaps_do_not_leak_into_neighbours():
    """The resize mixes neighbouring pixels, so what lies under a gap must be gone before it, NaN included."""
    batch = make_batch(("sentinel2_l2a",), patch_size=2, side=3)
    batch.missing["sentinel2_l2a"][:, 2:4, 2:4] = True
    layout = Layout.from_batch(batch)
    embed = PatchEmbedding(("sentinel2_l2a",), 16)
    x = embed(batch, layout)
    for fill in (torch.nan, torch.inf, 1e9):
        batch.values["sentinel2_l2a"][batch.missing["sentinel2_l2a"]] = fill
        assert torch.equal(embed(batch, layout), x)


@pytest.mark.parametrize("p", range(1, 9))
def test_embedding_is_resize_then_convolution(p):
    batch = make_batch(("sentinel2_l2a", "naip_10"), patch_size=p, side=2, T=2)
    layout = Layout.from_batch(batch)
    embed = PatchEmbedding(layout.names, 32)
    x = Tokens(embed(batch, layout), torch.zeros(2, len(layout), dtype=torch.int8), layout)
    for name, bandset, edge in (("sentinel2_l2a", 1, 16), ("naip_10", 0, 64)):
        v = batch.values[name][..., channels(name, bandset, "v1")]                                     # (B, H, W, T, c)
        b, h, w, t, c = v.shape
        image = F.interpolate(v.permute(0, 3, 4, 1, 2).reshape(b * t, c, h, w), size=(edge, edge), mode="bicubic", antialias=True)
        proj, side = embed.bandset[name][bandset].proj, patch_side(modality(name), 8)
        kernel = proj.weight.reshape(32, side, side, c).permute(0, 3, 1, 2)
        theirs = F.conv2d(image, kernel, proj.bias, stride=side).reshape(b, t, 32, 2, 2).permute(0, 3, 4, 1, 2)
        torch.testing.assert_close(x.of(name, bandset), theirs, atol=1e-5, rtol=1e-5)


def test_resize_is_float32_under_autocast():
    x = torch.rand(1, 6, 6, 1, 2, generator=torch_generator(0))
    plain = resize(x, 24, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16): assert torch.equal(resize(x, 24, 24), plain)
    assert torch.allclose(resize(torch.full((1, 5, 5, 1, 1), 0.3), 40, 40), torch.tensor(0.3))         # weights sum to one, at the border too


def test_encodings_match_their_formulas():
    layout = Layout.of(sentinel1=(2, 3, 4), srtm=(2, 3, 1), era5_10=(1, 1, 4))
    batch = Batch({}, {}, torch.zeros(2, 4, dtype=torch.long), torch.tensor([[0, 3, 6, 9], [11, 0, 1, 2]]), 5)
    encode = Encodings(layout.names, 64)
    for p in encode.parameters(): torch.nn.init.normal_(p, generator=torch_generator(0))
    code = encode(layout, batch)
    assert code.shape == (2, len(layout), 64)
    for n in range(len(layout)):
        name, t, row, col = layout.names[layout.modality_id[n]], layout.time[n].item(), layout.row[n].item(), layout.col[n].item()
        for b in range(2):
            quarters = code[b, n].chunk(4)
            assert torch.equal(quarters[0], encode.bandset[name][0])
            zero = torch.zeros(16)
            torch.testing.assert_close(quarters[1], sincos(torch.tensor([t]), 16)[0] if t >= 0 else zero)
            torch.testing.assert_close(quarters[2], month_table(16)[batch.month[b, t]] if t >= 0 else zero)
            place = torch.cat([sincos(torch.tensor([col * 5]), 8)[0], sincos(torch.tensor([row * 5]), 8)[0]])
            torch.testing.assert_close(quarters[3], place if name != "era5_10" else zero)


def test_a_photo_counts_its_own_pixels():
    layout = Layout.of(ground_photo=(2, 2, 1))
    for p in (1, 4):
        place = position_table(layout, p, 16, torch.device("cpu"))[1]
        torch.testing.assert_close(place[3, :8], sincos(torch.tensor([8]), 8)[0])     # second column begins at its pixel 8, whatever p


def test_any_number_of_dates():
    batch = make_batch(("sentinel1",), T=20, side=1)
    layout = Layout.from_batch(batch)
    code = Encodings(layout.names, 64)(layout, batch)
    assert code.isfinite().all() and len(code[0].unique(dim=0)) == 20


def test_weights_of_another_tokenisation_are_refused():
    batch = make_batch(("sentinel2_l2a",))
    with pytest.raises(InputError, match="the layout uses tokenisation 'single', the model 'v1'"):
        PatchEmbedding(("sentinel2_l2a",), 16)(batch, Layout.from_batch(batch, "single"))


def test_pixel_projections_start_wide():
    embed = PatchEmbedding(("sentinel1", "era5_10"), 512)
    init_weights(embed, 0)
    assert abs(embed.bandset["sentinel1"][0].proj.weight.abs().max().item() - 1 / 128 ** 0.5) < 1e-3    # as a convolution with 2 x 8 x 8 inputs
    assert embed.bandset["sentinel1"][0].proj.bias.abs().max() > 0
    assert embed.bandset["era5_10"][0].proj.bias.abs().max() == 0


def test_roles_are_the_official_numbers():
    assert [int(r) for r in (Role.ENCODE, Role.TARGET, Role.DECODE, Role.MISSING)] == [0, 1, 2, 3]
    assert set(MAPS).isdisjoint(SENSORS)
