"""Where random numbers come from: the device's generator in training, fixed seeded blocks in an evaluation.

A block is drawn from a seed made of (seed, purpose, level, image block, sample block), so a number depends on which
image and which sample it is for, and never on batch size, chunk, order or rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

IMAGES_PER_BLOCK = 64
SAMPLES_PER_BLOCK = 16


class Noise(Protocol):
    """Standard-normal numbers (S, B, *event) for one level of latents, on the device and of the type of `like`."""

    def __call__(self, level: int, shape: torch.Size, like: Tensor) -> Tensor: ...


def generator_noise(level: int, shape: torch.Size, like: Tensor) -> Tensor:
    """From the device's default generator, whose state a checkpoint holds."""
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def no_noise(level: int, shape: torch.Size, like: Tensor) -> Tensor:
    """Zeros: every latent at its posterior mean."""
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def tempered(noise: Noise, temperature: float) -> Noise:
    """The same noise, times a temperature: at 0 every draw of a normal, or of a flow, is its centre."""
    if temperature == 1:
        return noise
    return lambda level, shape, like: temperature * noise(level, shape, like)


def derived_seed(*parts: int | str) -> int:
    """63 bits that depend on every part: distinct uses of one seed do not share a stream."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class BlockNoise:
    """Evaluation noise for images first_image … and samples first_sample …, whatever the batch.

    Example:
        >>> like = torch.zeros(1)
        >>> whole = BlockNoise(seed=0)(0, torch.Size((3, 100, 2)), like)
        >>> part = BlockNoise(seed=0, first_image=90, first_sample=1)(0, torch.Size((2, 10, 2)), like)
        >>> bool((whole[1:, 90:] == part).all())
        True
    """

    def __init__(self, seed: int, first_image: int = 0, first_sample: int = 0) -> None:
        self.seed, self.first_image, self.first_sample = seed, first_image, first_sample

    def __call__(self, level: int, shape: torch.Size, like: Tensor) -> Tensor:
        samples, images, *event = shape
        rows = _blocks(self.first_sample, samples, SAMPLES_PER_BLOCK)
        columns = _blocks(self.first_image, images, IMAGES_PER_BLOCK)
        drawn = [
            torch.cat([self._block(torch.randn, level, row, column, event, like) for column in columns], dim=1)
            for row in rows
        ]
        top, left = self.first_sample - rows[0] * SAMPLES_PER_BLOCK, self.first_image - columns[0] * IMAGES_PER_BLOCK
        whole = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
        return whole[top : top + samples, left : left + images].to(like.dtype)

    def uniform(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) for images (B, *event): the noise of binarisation and dequantisation."""
        images, *event = shape
        columns = _blocks(self.first_image, images, IMAGES_PER_BLOCK)
        drawn = [self._block(torch.rand, "pixels", 0, column, event, like)[0] for column in columns]
        left = self.first_image - columns[0] * IMAGES_PER_BLOCK
        return torch.cat(drawn)[left : left + images].to(like.dtype)

    def _block(
        self, draw: Callable[..., Tensor], purpose: int | str, row: int, column: int, event: list[int], like: Tensor
    ) -> Tensor:
        generator = torch.Generator(like.device)
        generator.manual_seed(derived_seed(self.seed, purpose, row, column))
        rows = 1 if purpose == "pixels" else SAMPLES_PER_BLOCK
        return draw((rows, IMAGES_PER_BLOCK, *event), generator=generator, device=like.device)


class RepeatedNoise:
    """The noise of image 0 of an evaluation for every image: each is measured as if it were the only one.

    So a number depends on its image and the seed alone, in whatever order and company the images come.

    Example:
        >>> like = torch.zeros(1)
        >>> drawn = RepeatedNoise(seed=0)(0, torch.Size((3, 5, 2)), like)
        >>> bool((drawn == BlockNoise(seed=0)(0, torch.Size((3, 1, 2)), like)).all())
        True
    """

    def __init__(self, seed: int, first_sample: int = 0) -> None:
        self._first = BlockNoise(seed, 0, first_sample)

    def __call__(self, level: int, shape: torch.Size, like: Tensor) -> Tensor:
        samples, _, *event = shape
        return self._first(level, torch.Size((samples, 1, *event)), like).expand(shape)

    def uniform(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) for images (B, *event)."""
        return self._first.uniform(torch.Size((1, *shape[1:])), like).expand(shape)


def _blocks(first: int, count: int, size: int) -> range:
    return range(first // size, (first + count - 1) // size + 1)
