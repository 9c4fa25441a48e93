"Pictures of a user: what is read, what is refused and how, and that nothing is resized."
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from olmoearth.checks import check_sample
from olmoearth.images import band_stats, find_pictures, ImageFolder, picture_facts, picture_modality, picture_sample, Pictures, read_picture
from olmoearth.loading import Loader
from olmoearth.masking import mask_views
from olmoearth.modalities import modality
from olmoearth.samples import InputError
from olmoearth.settings import rng, torch_generator
from olmoearth.tokens import Layout, Role, token_missing

NOISE = rng(0, "pictures").integers(0, 256, (40, 56, 3)).astype(np.uint8)


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for i in range(6): write(tmp_path / ("ants", "bees")[i % 2] / f"{i}.png", NOISE[:24 + 4 * i, :30 + 3 * i])
    return tmp_path


def test_pixels_come_as_they_are(tmp_path):
    assert (read_picture(write(tmp_path / "rgb.png", NOISE))[0] == NOISE).all()
    assert (read_picture(write(tmp_path / "grey.PNG", NOISE[..., 0]))[0][..., 0] == NOISE[..., 0]).all()
    got, clear = read_picture(write(tmp_path / "photo.jpeg", NOISE, quality=95))
    assert got.shape == NOISE.shape and not clear.any()
    Image.fromarray(NOISE[..., 0] > 127).save(tmp_path / "bits.png")
    assert set(np.unique(read_picture(tmp_path / "bits.png")[0])) == {0, 255}
    Image.fromarray(NOISE).quantize(16).save(tmp_path / "palette.png")
    assert (read_picture(tmp_path / "palette.png")[0] == np.asarray(Image.fromarray(NOISE).quantize(16).convert("RGB"))).all()


def test_a_photo_is_turned_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                               # the right side was up
    path = write(tmp_path / "turned.png", NOISE, exif=exif)
    assert picture_facts(path) == (56, 40, "rgb")
    assert (read_picture(path)[0] == np.rot90(NOISE, -1)).all()


@pytest.mark.parametrize("bands, shape", [("", (40, 56, 3)), ("rgb", (40, 56, 3)), ("grey", (40, 56, 1))])
def test_transparent_pixels_are_missing_whatever_the_bands(tmp_path, bands, shape):
    alpha = np.full((40, 56, 1), 255, np.uint8)
    alpha[:16, :16] = 0
    pixels, clear = read_picture(write(tmp_path / "x.png", np.concatenate([NOISE, alpha], -1)), bands)
    assert pixels.shape == shape and clear[:16, :16].all() and clear.sum() == 256


def test_tokens_of_a_transparent_corner_are_never_shown_nor_asked(tmp_path):
    alpha = np.full((40, 40, 1), 255, np.uint8)
    alpha[:16, :16] = 0
    write(tmp_path / "x.png", np.concatenate([NOISE[:, :40], alpha], -1))
    data = ImageFolder(tmp_path, "cut_out_picture")
    batch = Loader(data, 1, 0, (8,), (5,), modalities=(data.modality.name,)).batch(0)
    layout = Layout.from_batch(batch)
    roles = mask_views("random", layout, token_missing(batch, layout), torch_generator(0), 2)      # (V, 1, N)
    corner = (layout.row < 2) & (layout.col < 2)
    assert (roles[:, 0, corner] == Role.MISSING).all() and (roles[:, 0, ~corner] != Role.MISSING).all()


@pytest.mark.parametrize("pixels, says", [(np.zeros((9, 9), np.uint16), "I;16"), (np.zeros((9, 9), np.float32), "mode 'F'")])
def test_more_than_eight_bits_are_refused(tmp_path, pixels, says):
    path = tmp_path / ("x.png" if pixels.dtype == np.uint16 else "x.tif")
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match=says): read_picture(path)


def test_cmyk_is_refused(tmp_path):
    Image.fromarray(NOISE).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(InputError, match="print.jpg: pixels of mode 'CMYK'"): ImageFolder(tmp_path)


def test_a_class_for_each_folder(folder):
    (folder / "bees/notes.txt").write_text("buzz")
    (folder / ".trash").mkdir()
    write(folder / ".trash/old.png", NOISE)
    data = ImageFolder(folder, "insect")
    assert len(data) == 6 and data.classes == ("ants", "bees") and data.numbers == [0, 0, 0, 1, 1, 1] and data.smallest == 24
    for i in range(6):
        s = data[i]
        h, w = data.shapes[i]
        assert s.arrays["insect"].shape == (h, w, 1, 3) and (s.arrays["insect"][:, :, 0] == NOISE[:h, :w]).all()      # nothing resized
        assert s.labels["class"].values.shape == (h, w) and set(np.unique(s.labels["class"].values)) == {data.numbers[i]}
        check_sample(s, "raise")
    assert data[0].name == "ants/0.png" and "classes ants, bees" in repr(data)


def test_pictures_without_classes_and_the_modality_of_another_folder(folder, tmp_path_factory):
    train, other = ImageFolder(folder, "insect_a"), tmp_path_factory.mktemp("other")
    write(other / "x.png", NOISE[:, :, 0])
    with pytest.raises(InputError, match="modality=first.modality"): ImageFolder(other, "insect_a")
    test = ImageFolder(other, train.modality)
    assert test.modality is train.modality and test.numbers is None and not test[0].labels
    assert test[0].arrays["insect_a"].shape == (40, 56, 1, 3)         # grey three times, as the modality has three bands


def test_statistics_are_those_of_the_pixels(folder):
    data = ImageFolder(folder, "insect_s")
    pixels = np.concatenate([data[i].arrays["insect_s"].reshape(-1, 3) for i in range(6)]).astype(float)
    for k, band in enumerate(("red", "green", "blue")):
        assert np.allclose(data.modality.stats[band], (pixels[:, k].mean(), pixels[:, k].std()))
    assert band_stats([np.full((4, 4, 1), 7, np.uint8)], ("grey",)) == {"grey": (7.0, 1.0)}      # no division by nothing


def fault(tmp_path, kind):
    if kind == "missing": return tmp_path / "nowhere"
    if kind == "empty": return tmp_path
    if kind == "other": (tmp_path / "a.gif").write_bytes(b"GIF89a")
    if kind == "text": (tmp_path / "a.png").write_text("hello")
    if kind == "nothing": (tmp_path / "a.png").touch()
    if kind == "cut":
        path = write(tmp_path / "a.png", NOISE)
        path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    if kind == "small": write(tmp_path / "a.png", NOISE[:7])
    if kind == "mixed": [write(tmp_path / f"{i}.png", NOISE if i else NOISE[..., 0]) for i in range(3)]
    if kind == "loose": [write(tmp_path / p, NOISE) for p in ("a.png", "b/c.png")]
    return tmp_path


@pytest.mark.parametrize("kind, says", [
    ("missing", "nowhere is not a folder"), ("empty", "it holds nothing"), ("other", r"it holds .gif files"), ("text", "a.png cannot be read as a picture"),
    ("nothing", "a.png cannot be read as a picture"), ("cut", "a.png is damaged"), ("small", r"a.png \(7 x 56\)"),
    ("mixed", r"1 grey and 2 RGB pictures \(.*0.png is one of the fewer\); choose bands='rgb' or bands='grey'"), ("loose", "beside folders")])
def test_a_bad_folder_gets_one_clear_line(tmp_path, kind, says):
    with pytest.raises(InputError, match=says) as caught: ImageFolder(fault(tmp_path, kind), f"bad_{kind}")
    assert "\n" not in str(caught.value)


def test_mixed_pictures_once_a_choice_is_made(tmp_path):
    fault(tmp_path, "mixed")
    assert ImageFolder(tmp_path, "mixed_rgb", bands="rgb")[0].arrays["mixed_rgb"].shape[-1] == 3
    assert ImageFolder(tmp_path, "mixed_grey", bands="grey")[1].arrays["mixed_grey"].shape[-1] == 1
    with pytest.raises(InputError, match="use one of grey, rgb"): ImageFolder(tmp_path, "mixed_x", bands="cmyk")


def test_a_crop_that_does_not_fit_is_an_error_not_a_resize(folder):
    data = ImageFolder(folder, "insect_c")
    with pytest.raises(InputError, match="use side <= "): Loader(Pictures([NOISE, NOISE[:16, :16]], data.modality), 2, 0, (8,), (4,), modalities=("insect_c",)).batch(0)
    batch = Loader(data, 2, 0, (8,), (data.smallest // 8,), modalities=("insect_c",)).batch(0)
    assert batch.values["insect_c"].shape == (2, 24, 24, 1, 3) and abs(float(batch.values["insect_c"].mean()) - .5) < .1


def test_arrays_that_do_not_fit_are_refused():
    m = picture_modality("array_picture", "grey")
    with pytest.raises(InputError, match="wants uint8"): picture_sample(NOISE, m)
    with pytest.raises(InputError, match="wants uint8"): picture_sample(NOISE[..., 0] / 255, m)
    with pytest.raises(InputError, match="2 pictures and 1 class numbers"): Pictures([NOISE[..., 0]] * 2, m, [0])
    with pytest.raises(InputError, match="use one of grey, rgb"): picture_modality("x", "cmyk")
    with pytest.raises(ValueError, match="identifier"): picture_modality("my pictures")


def test_another_process_learns_the_modality_from_the_data_set(folder):
    data = ImageFolder(folder, "insect_p")
    (folder / "data.pickle").write_bytes(pickle.dumps(data))
    code = ("import pickle, sys; from olmoearth.modalities import modality; d = pickle.load(open(sys.argv[1], 'rb'));"
            "print(modality('insect_p') == d.modality, d[0].arrays['insect_p'].shape)")
    said = subprocess.run([sys.executable, "-c", code, str(folder / "data.pickle")], capture_output=True, text=True)
    assert said.stdout.split("\n")[0] == f"True {data[0].arrays['insect_p'].shape}", said.stderr
    assert modality("insect_p") == data.modality


def test_find_pictures_is_ordered_by_name(folder):
    files, numbers, classes = find_pictures(folder)
    assert files == sorted(files) and numbers == sorted(numbers) and classes == ("ants", "bees")
