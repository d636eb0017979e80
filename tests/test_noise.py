"""Evaluation noise belongs to an image and a sample, not to a batch."""

import torch

from vaekit.densities.noise import BlockNoise, derived_seed

LIKE = torch.zeros(1)


def test_any_cut_of_images_and_samples_gives_the_same_numbers():
    whole = BlockNoise(3)(0, torch.Size((40, 150, 5)), LIKE)
    for first_image, first_sample in ((0, 0), (1, 1), (63, 15), (64, 16), (100, 33)):
        part = BlockNoise(3, first_image, first_sample)(0, torch.Size((7, 50, 5)), LIKE)
        assert torch.equal(part, whole[first_sample : first_sample + 7, first_image : first_image + 50])


def test_uniform_noise_of_pixels_likewise():
    whole = BlockNoise(3).uniform(torch.Size((150, 1, 4, 4)), LIKE)
    assert torch.equal(BlockNoise(3, 70).uniform(torch.Size((80, 1, 4, 4)), LIKE), whole[70:])
    assert float(whole.min()) >= 0 and float(whole.max()) < 1


def test_seed_level_image_and_sample_all_matter():
    shape = torch.Size((32, 128, 3))
    base = BlockNoise(0)(0, shape, LIKE)
    assert not torch.equal(base, BlockNoise(1)(0, shape, LIKE))
    assert not torch.equal(base, BlockNoise(0)(1, shape, LIKE))
    assert not torch.equal(base[:16], base[16:])
    assert not torch.equal(base[:, :64], base[:, 64:])


def test_the_noise_of_pixels_tells_nothing_of_the_noise_of_codes():
    """Of one seed: neither of its sign nor of its size."""
    u = BlockNoise(0).uniform(torch.Size((640, 16)), LIKE).flatten()
    for level in (0, 1):
        z = BlockNoise(0)(level, torch.Size((1, 640, 16)), LIKE).flatten()
        table = torch.corrcoef(torch.stack([u, (u - 0.5).abs(), z, z.square()]))
        assert float(table[:2, 2:].abs().max()) < 4.5 * len(u) ** -0.5


def test_noise_is_standard_normal():
    noise = BlockNoise(7)(0, torch.Size((64, 640, 4)), LIKE).double()
    error = noise.numel() ** -0.5
    assert abs(float(noise.mean())) < 4 * error
    assert abs(float(noise.var()) - 1) < 4 * 2**0.5 * error


def test_derived_seeds_do_not_collide_by_concatenation():
    assert derived_seed(1, 23) != derived_seed(12, 3)
    assert derived_seed("a", 1) != derived_seed("a1")
