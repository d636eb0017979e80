"""Augmentation, binarisation and dequantisation: laws of their distributions, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from laws import assert_nothing_goes_together
from torch import Tensor

from vaekit.data.augment import augment, binarize, dequantize, fixed_noise, to_float
from vaekit.data.counter import Stream, counter_hash, counter_uniform
from vaekit.data.pixels import Pixels

IMAGES = torch.randint(1, 256, (64, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(100, 164)


def test_noise_depends_on_the_sample_not_on_its_batch() -> None:
    whole = counter_uniform(3, 7, torch.arange(1000), 5)
    picked = torch.tensor([999, 0, 512, 512])
    assert counter_uniform(3, 7, picked, 5).equal(whole[picked])
    assert counter_uniform(3, 7, picked, 2).equal(whole[picked, :2]), "more columns leave the first ones as they were"
    assert counter_uniform(3, torch.tensor(7), picked, 5).equal(whole[picked])


def test_noise_never_changes_between_versions() -> None:
    assert (counter_uniform(1, 2, torch.tensor([3]), 3) * 2**24).tolist() == [[6973993, 1363865, 12012915]]


def test_python_integers_and_tensors_hash_alike() -> None:
    for index in (0, 1, 12345, 2**31, 2**32 - 1):
        assert counter_hash(Stream.ORDER, 2**40 + 1, 5, index) == counter_hash(
            Stream.ORDER, 2**40 + 1, torch.tensor(5), torch.tensor(index)
        )


@pytest.mark.parametrize("vary", ["seed", "epoch", "index", "column"])
def test_noise_is_uniform_along_every_counter(vary: str) -> None:
    count = 20000
    draws = {
        "seed": lambda: torch.cat([counter_uniform(seed, 1, torch.tensor([2]), 1) for seed in range(2000)]),
        "epoch": lambda: counter_uniform(0, torch.arange(count)[:, None], torch.tensor([2]), 1),
        "index": lambda: counter_uniform(0, 1, torch.arange(count), 1),
        "column": lambda: counter_uniform(0, 1, torch.tensor([2]), count),
    }
    u = draws[vary]().flatten().double()
    assert u.min() >= 0 and u.max() < 1
    n = len(u)
    assert abs(u.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    centred = u - 0.5
    for lag in (1, 2, 16):  # neighbours are uncorrelated
        assert abs((centred[lag:] * centred[:-lag]).mean()) < 4 / 12 / (n - lag) ** 0.5
    expected = n / 64
    chi_square = ((u * 64).long().bincount(minlength=64) - expected).square().sum() / expected
    assert chi_square < 63 + 4 * (2 * 63) ** 0.5


def test_streams_seeds_and_epochs_are_uncorrelated() -> None:
    index = torch.arange(20000)
    draws = [
        counter_uniform(0, 0, index, 1),
        counter_uniform(0, 0, index, 1, stream=Stream.BINARIZE),
        counter_uniform(0, 1, index, 1),
        counter_uniform(1, 0, index, 1),
        counter_uniform(2**32, 0, index, 1),
    ]
    table = torch.cat(draws, 1).T
    assert (torch.corrcoef(table) - torch.eye(5)).abs().max() < 4 / 20000**0.5


def moved(image: Tensor, down: int, right: int, flipped: bool) -> Tensor:
    """The slow way: paste the image, flipped or not, on black."""
    image = image.flip(-1) if flipped else image
    height, width = image.shape[-2:]
    canvas = torch.zeros(image.shape[0], 3 * height, 3 * width, dtype=image.dtype)
    canvas[:, height + down : 2 * height + down, width + right : 2 * width + right] = image
    return canvas[:, height : 2 * height, width : 2 * width]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_an_augmented_image_is_a_moved_one(flip: bool, shift: int) -> None:
    out = augment(IMAGES, INDICES, 4, 9, flip, shift)
    assert out.dtype == torch.uint8 and out.shape == IMAGES.shape
    steps = range(-shift, shift + 1)
    seen = set()
    for image, result in zip(IMAGES, out, strict=True):
        ways = [(d, r, f) for d in steps for r in steps for f in {False, flip} if moved(image, d, r, f).equal(result)]
        assert len(ways) == 1
        seen.add(ways[0])
    assert {f for _, _, f in seen} == {False, flip}
    assert {d for d, _, _ in seen} == {r for _, r, _ in seen} == set(steps)


def test_half_of_the_images_are_flipped() -> None:
    ramp = torch.tensor([0, 1], dtype=torch.uint8).view(1, 1, 1, 2).expand(10000, 1, 1, 2)
    flipped = augment(ramp, torch.arange(10000), 0, 0, flip=True)[:, 0, 0, 0].double()
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / 100


def test_flips_and_shifts_along_each_axis_are_drawn_apart() -> None:
    """A bright pixel off the middle says what happened to its image: all 2 × 3 × 3 ways are equally likely."""
    count = 9000
    images = torch.zeros(count, 1, 5, 8, dtype=torch.uint8)
    images[:, :, 2, 2] = 1
    places = augment(images, torch.arange(count), 0, 0, flip=True, shift=1).flatten(1).argmax(1)
    seen = places.bincount(minlength=40).view(5, 8)[1:4, 1:7]  # columns 1 to 3, or flipped 4 to 6
    assert int(seen.sum()) == count
    expected = count / 18
    assert float((seen - expected).square().sum() / expected) < 17 + 4 * (2 * 17) ** 0.5


def test_augmentation_follows_the_image_not_the_batch() -> None:
    whole = augment(IMAGES, INDICES, 4, 9, True, 2)
    part = torch.tensor([5, 60, 2])
    assert augment(IMAGES[part], INDICES[part], 4, 9, True, 2).equal(whole[part])
    assert not augment(IMAGES, INDICES, 5, 9, True, 2).equal(whole)
    assert not augment(IMAGES, INDICES, 4, 8, True, 2).equal(whole)


def test_floats_are_255ths() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_float(levels).equal(torch.arange(256, dtype=torch.float32) / 255)
    assert (to_float(levels) * 255).round().to(torch.uint8).equal(levels)


def test_fixed_binarisation_is_the_same_whenever_an_image_comes() -> None:
    x = to_float(IMAGES)
    first = binarize(x, "fixed", fixed_noise(1, INDICES, (3, 6, 5)))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    later = binarize(x[order], "fixed", fixed_noise(1, INDICES[order], (3, 6, 5)))
    assert later.equal(first[order])
    assert not binarize(x, "fixed", fixed_noise(2, INDICES, (3, 6, 5))).equal(first)


@pytest.mark.parametrize("mode", ["dynamic", "fixed"])
def test_binarised_pixels_have_the_image_as_mean(mode: str) -> None:
    draws = 4000
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).view(1, 1, 1, 5)
    noise = {
        "dynamic": torch.rand(draws, 1, 1, 5, generator=torch.Generator().manual_seed(0)),
        "fixed": fixed_noise(0, torch.arange(draws), (1, 1, 5)),
    }[mode]
    bits = binarize(x.expand(draws, -1, -1, -1), mode, noise)  # type: ignore[arg-type]
    assert set(bits.flatten().tolist()) == {0.0, 1.0}
    assert ((bits.mean(0) - x[0]).abs() <= 4 * (x[0] * (1 - x[0]) / draws).sqrt()).all()


@pytest.mark.parametrize("pixels", [Pixels(binarization="dynamic"), Pixels(dequantization=True)])
@pytest.mark.parametrize("when", ["training", "evaluation"])
def test_every_pixel_of_every_image_has_noise_of_its_own(pixels: Pixels, when: str) -> None:
    """Of mid-grey images: no two channels, rows, columns or neighbouring images go together."""
    torch.manual_seed(0)
    count = 4000
    grey = torch.full((count, 2, 2, 3), 128, dtype=torch.uint8)
    if when == "training":
        x = pixels.for_training(grey, torch.arange(count), torch.tensor(0), 0)
    else:
        x = pixels.for_evaluation(grey, 0, 0)
    assert_nothing_goes_together(x)


def test_training_images_are_augmented_by_seed_epoch_and_index() -> None:
    pixels = Pixels(flip=True, shift=2)
    for epoch in (3, 4):
        x = pixels.for_training(IMAGES, INDICES, torch.tensor(epoch), 9)
        assert x.equal(to_float(augment(IMAGES, INDICES, epoch, 9, True, 2)))


def test_threshold_and_none() -> None:
    x = torch.tensor([0.0, 127 / 255, 128 / 255, 0.5, 1.0])
    assert binarize(x, "threshold").tolist() == [0, 0, 1, 1, 1]
    assert binarize(x, "none") is x


def test_dequantised_values_stay_in_their_own_bin() -> None:
    x = to_float(torch.arange(256, dtype=torch.uint8))
    for u in (0.0, 0.5, 0.99):
        y = dequantize(x, torch.full_like(x, u))
        assert y.min() >= 0 and y.max() <= 1
        assert (y * 256 - 1e-3 * (u > 0)).add(1e-4).floor().equal(torch.arange(256.0))


def test_a_compiled_step_does_the_same() -> None:
    def step(images: Tensor, indices: Tensor, epoch: Tensor) -> Tensor:
        x = to_float(augment(images, indices, epoch, 9, True, 2))
        return binarize(x, "fixed", fixed_noise(1, indices, (3, 6, 5)))

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for epoch in (torch.tensor(0), torch.tensor(1)):
        assert compiled(IMAGES, INDICES, epoch).equal(step(IMAGES, INDICES, epoch))
