"""A trained model for other programs: any ordinary image goes in, and what comes out depends on nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SIZES, state_of
from torch.utils.data import DataLoader, TensorDataset

from vaekit import load, plots
from vaekit.data.dataset import Dataset
from vaekit.data.splits import load_splits
from vaekit.errors import CheckpointError, ConfigError, DataError
from vaekit.plots import loss_curves
from vaekit.training.checkpoint import load_checkpoint, locate, point, saved_steps
from vaekit.verbs.pictures import pictures
from vaekit.verbs.train import train


@pytest.fixture(scope="module")
def grey(digits_run):
    return load(digits_run)


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A model of colour images of 6×10, padded to 9×12."""
    folder = tmp_path_factory.mktemp("colour")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(noise.integers(0, 256, (6, 10, 3), np.uint8)).save(folder / "photos" / f"{number:02}.png")
    options = ("data.size=[6, 10]", "data.pad=[9, 12]", "model.network={kind: conv, widths: [8]}", "model.latent_dim=5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEKIT_CACHE", str(folder / "cache"))
        run = train("folder", f"data.path={folder / 'photos'}", *options, "training.epochs=2", out=folder / "run")
    return load(run)


@pytest.fixture
def digits(grey):
    """Test images, uint8 (N, 8, 8)."""
    return load_splits(grey.config.data).test.images[:40, 0].numpy()


def test_loaded_weights_are_the_averaged_ones_of_the_best_checkpoint(grey, digits_run):
    best = load_checkpoint(locate(digits_run, "best"))
    assert grey.step == best.step
    for name, value in grey.model.state_dict().items():
        assert torch.equal(value, best.tensors["ema"][name])
    latest = load(digits_run, which="latest")
    assert latest.step == load(locate(digits_run, "latest")).step == 30
    assert not grey.model.training


def test_every_way_of_giving_an_image_gives_the_same_code(grey, digits, tmp_path):
    image = digits[0]
    Image.fromarray(image).save(tmp_path / "digit.png")
    expected = grey.encode(image)
    given = {
        "file": tmp_path / "digit.png",
        "name": str(tmp_path / "digit.png"),
        "Pillow": Image.fromarray(image),
        "uint8 with a channel": image[..., None],
        "floats": image / 255,
        "float32": (image / 255).astype(np.float32),
        "16 bits": image.astype(np.uint16) * 257,
        "three equal channels": image[..., None].repeat(3, axis=2),
        "colour file": Image.fromarray(image).convert("RGB"),
        "list": [image],
        "tuple": (Image.fromarray(image),),
        "batch": digits[:1],
        "batch with a channel": digits[:1, ..., None],
        "tensor": torch.from_numpy(digits[:1]),
    }
    for way, value in given.items():
        assert np.array_equal(grey.encode(value), expected), way


def test_several_at_once_are_the_same_as_one_by_one_in_their_order(grey, digits):
    mixed = [digits[0], Image.fromarray(digits[1]), digits[2] / 255]
    together = grey.encode(mixed)
    for row, image in enumerate(mixed):
        assert np.allclose(grey.encode(image)[0], together[row], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (8, 8), (31, 17), (200, 300)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "CMYK"])
def test_any_size_and_mode_is_brought_to_the_shape_of_the_model(grey, colour, size, mode):
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    assert np.isfinite(grey.encode(image)).all()
    assert grey.reconstruct(image).shape == (1, 8, 8)
    assert colour.reconstruct(image).shape == (1, 6, 10, 3)


def test_preparing_is_what_the_data_of_the_run_went_through(colour):
    splits = load_splits(colour.config.data)
    files = [f"{colour.config.data.path}/{name}" for name in splits.train.names]
    assert torch.equal(colour.prepare(files), splits.train.images)


def test_grey_images_go_into_a_colour_model_as_three_equal_channels(colour):
    image = np.random.default_rng(2).integers(0, 256, (6, 10), np.uint8)
    assert np.array_equal(colour.encode(image), colour.encode(image[..., None].repeat(3, axis=2)))


def test_decode_after_encode_is_reconstruct(grey, colour, digits):
    assert np.array_equal(grey.decode(grey.encode(digits)), grey.reconstruct(digits))
    images = np.random.default_rng(3).integers(0, 256, (7, 6, 10, 3), np.uint8)
    assert np.array_equal(colour.decode(colour.encode(images)), colour.reconstruct(images))


def test_what_was_decoded_can_be_encoded_again(grey, digits):
    assert grey.encode(grey.reconstruct(digits)).shape == (len(digits), 4)


def test_padding_is_cropped_away(colour):
    """The decoded image is the middle of what the network drew."""
    codes = np.random.default_rng(4).normal(size=(3, 5)).astype(np.float32)
    with torch.no_grad():
        drawn = colour.model.decode((torch.from_numpy(codes),)).mean.clamp(0, 1)
    assert drawn.shape == (3, 3, 9, 12)
    middle = drawn[:, :, 1:7, 1:11].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(colour.decode(codes), np.rint(middle * 255).astype(np.uint8))
    assert colour.sample(2).shape == (2, 6, 10, 3)
    images = colour.prepare(np.full((2, 6, 10, 3), 200, np.uint8))
    assert bool((colour.cropped(images) == 200).all()) and int((images == 200).sum()) == 2 * 6 * 10 * 3


def test_one_code_may_be_given_without_a_batch_axis(grey):
    code = np.zeros(4, np.float32)
    assert np.array_equal(grey.decode(code), grey.decode(code[None]))
    assert np.array_equal(grey.decode(torch.zeros(4)), grey.decode([0, 0, 0, 0]))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 2, 4), ()])
def test_codes_of_another_length_are_refused_in_one_line(grey, shape):
    with pytest.raises(ConfigError, match=r"codes are .* but this model decodes \(N, 4\)") as caught:
        grey.decode(np.zeros(shape, np.float32))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    "image",
    [
        np.full((8, 8), 1.5),
        np.full((8, 8), -0.1),
        np.full((8, 8), np.nan),
        np.zeros((8, 8), np.int64),
        np.zeros((2, 3, 8, 8, 1), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros((0, 8)),
        "absent.png",
        [],
    ],
    ids=["above 1", "negative", "nan", "int64", "five axes", "empty", "empty floats", "absent", "none"],
)
def test_what_is_no_image_is_a_data_error(grey, image):
    with pytest.raises(DataError) as caught:
        grey.encode(image)
    assert "\n" not in str(caught.value)


def test_samples_are_a_function_of_the_seed(grey):
    assert np.array_equal(grey.sample(9, seed=4), grey.sample(9, seed=4))
    assert not np.array_equal(grey.sample(9, seed=4), grey.sample(9, seed=5))
    torch.manual_seed(123)
    first = grey.sample(3)
    torch.manual_seed(321)
    assert np.array_equal(grey.sample(3), first)


def test_more_samples_begin_with_the_same_ones(grey):
    few, many = grey.sample_means(10, seed=1), grey.sample_means(600, seed=1)
    assert many.shape[0] == 600
    assert torch.allclose(many[:10], few, atol=1e-6)
    assert not torch.allclose(many[:10], many[256:266], atol=1e-3)


def test_temperature_0_gives_the_same_image_each_time(grey):
    cold = grey.sample(5, temperature=0)
    assert (cold == cold[0]).all()
    assert np.array_equal(cold[0], grey.decode(np.zeros(4))[0])


@pytest.mark.parametrize(("count", "temperature"), [(0, 1.0), (-1, 1.0), (3, -0.5), (3, float("nan"))])
def test_samples_that_cannot_be_are_refused(grey, count, temperature):
    with pytest.raises(ConfigError, match="ask for 1 or more"):
        grey.sample(count, temperature=temperature)


def test_batch_size_changes_nothing(grey, colour, digits, monkeypatch):
    images = np.random.default_rng(5).integers(0, 256, (7, 6, 10, 3), np.uint8)
    for model, batch in ((grey, digits), (colour, images)):
        codes = model.encode(batch)
        means = model.reconstruct_prepared(Dataset(model.prepare(batch)))
        samples = model.sample_means(13, seed=2)
        for size in (1, 3):
            monkeypatch.setattr("vaekit.trained.model.BATCH", size)
            assert np.allclose(model.encode(batch), codes, atol=1e-6)
            assert torch.allclose(model.reconstruct_prepared(Dataset(model.prepare(batch))), means, atol=1e-6)
            assert torch.allclose(model.sample_means(13, seed=2), samples, atol=1e-6)
            monkeypatch.undo()


def test_encode_and_decode_touch_no_generator_and_keep_no_graph(grey, digits):
    state = torch.get_rng_state()
    grey.decode(grey.encode(digits))
    grey.sample(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not grey.sample_means(2).requires_grad


def test_an_autoencoder_encodes_and_decodes_but_does_not_sample(tmp_path, digits):
    run = train("digits", *SIZES, "model.kind=autoencoder", "training.epochs=1", out=tmp_path / "run")
    model = load(run)
    assert np.array_equal(model.decode(model.encode(digits)), model.reconstruct(digits))
    with pytest.raises(ConfigError, match="an autoencoder has no prior to sample from"):
        model.sample(1)


def test_a_run_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_curves_show_the_whole_training_not_only_up_to_the_best(tmp_path, monkeypatch):
    run = train(
        "digits", *SIZES, "training.epochs=3", "training.keep=9", "training.validate_every=9", out=tmp_path / "r"
    )
    point(run, "best", saved_steps(run)[0])
    drawn = []
    monkeypatch.setattr(plots, "loss_curves", lambda history: drawn.append(history) or loss_curves(history))
    pictures(run, count=2)
    assert drawn[0][-1]["step"] == state_of(run, "latest")["step"]


# Which axis means what


def test_a_tensor_with_channels_first_is_the_image_that_it_is_with_channels_last(grey, colour, digits):
    photo = np.random.default_rng(6).integers(0, 256, (6, 10, 3), np.uint8)
    other = np.random.default_rng(7).integers(0, 256, (50, 41, 3), np.uint8)
    for model, image in ((colour, photo), (colour, other), (grey, digits[0][..., None])):
        expected, first = model.encode(image), torch.from_numpy(image).permute(2, 0, 1)
        for given in (first, first[None], first.numpy(), first / 255, (first / 255).half().float(), [first], (first,)):
            assert np.allclose(model.encode(given), expected, atol=1e-2)
        assert model.encode(torch.stack([first] * 5)).shape == (5, model.latent_dim)
        assert np.allclose(model.encode([first, image]), np.concatenate([expected, expected]), atol=1e-6)


def test_the_models_own_shape_decides_between_two_readings(grey, colour, digits):
    assert np.allclose(grey.encode(digits[:3]), grey.encode(digits)[:3], atol=1e-6)
    assert grey.encode(digits[:3].transpose(1, 2, 0)).shape == (1, 4), "one image with its channels last"
    assert colour.encode(np.zeros((3, 6, 10), np.uint8)).shape == (1, 5)


@pytest.mark.parametrize("shape", [(12, 12, 2), (3, 12, 12), (3, 12, 3), (5, 3, 12, 3), (5, 1, 12, 1)])
def test_a_shape_that_reads_two_ways_is_refused_with_both(grey, shape):
    with pytest.raises(DataError, match=r"which reads as .* or as .*; give four axes") as caught:
        grey.encode(np.zeros(shape, np.uint8))
    assert str(shape) in str(caught.value) and "\n" not in str(caught.value)


class Pictures(torch.utils.data.Dataset):
    """A torch Dataset of Pillow images and labels, as torchvision's are without a transform."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, position):
        return Image.fromarray(self.arrays[position]), position % 3


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    file.seek(0)
    return file


def test_whatever_a_program_holds_images_in_gives_their_codes(grey, digits):
    few, tensors = digits[:5], torch.from_numpy(digits[:5])
    given = {
        "bytes": [png(image).getvalue() for image in few],
        "streams": [png(image) for image in few],
        "tensors": list(tensors),
        "tensors with a channel": list(tensors[:, None]),
        "generator": (image for image in few),
        "map": map(Image.fromarray, few),
        "dataset of Pillow images": Pictures(few),
        "loader": DataLoader(TensorDataset(tensors[:, None], torch.arange(5)), batch_size=2),
        "batches": [tensors[:2], tensors[2:]],
        "doubles with gradients": (tensors.double() / 255).requires_grad_(),
    }
    for way, value in given.items():
        assert np.allclose(grey.encode(value), grey.encode(few), atol=1e-6), way
    assert np.array_equal(grey.encode(png(few[0]).getvalue()), grey.encode(few[0]))


@pytest.mark.parametrize("given", [7, None, {"a": 1}, [None], [[1, 2]], ...], ids=repr)
def test_what_holds_no_image_is_named_by_its_type(grey, given):
    with pytest.raises(DataError, match=r"a (int|NoneType|dict|ellipsis) is no image; give files") as caught:
        grey.encode(given)
    assert "\n" not in str(caught.value)
