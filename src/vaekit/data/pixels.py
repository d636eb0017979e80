"""From uint8 images to what a model sees: float32 in [0, 1] at its bit depth, augmented, binarised or dequantised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.config.schema import DataConfig
from vaekit.data.augment import augment, binarize, dequantize, fixed_noise, to_float
from vaekit.densities.noise import BlockNoise, RepeatedNoise


@dataclass(frozen=True)
class Pixels:
    """The run's own pre-processing of values (shapes are the data room's business)."""

    binarization: str = "none"
    dequantization: bool = False
    flip: bool = False
    shift: int = 0
    seed: int = 0
    bits: int = 8

    @classmethod
    def of(cls, config: DataConfig) -> Pixels:
        """The part of a data config that acts on each batch."""
        return cls(config.binarize, config.dequantize, config.flip, config.shift, config.seed, config.bits)

    def for_training(self, images: Tensor, indices: Tensor, epoch: Tensor, seed: int) -> Tensor:
        """x (B, C, H, W) of a training batch: augmentation by (seed, epoch, index), noise from the generator."""
        if self.flip or self.shift:
            images = augment(images, indices, epoch, seed, flip=self.flip, shift=self.shift)
        x = to_float(images, self.bits)
        if self.binarization == "dynamic":
            return binarize(x, "dynamic", torch.rand_like(x))
        if self.dequantization:
            return dequantize(x, torch.rand_like(x), self.bits)
        return self._fixed(x, indices)

    def for_evaluation(self, images: Tensor, start: int, seed: int) -> Tensor:
        """x of images start … of a data set in order: noise by (seed, image), whatever the batch."""
        indices = torch.arange(start, start + len(images), device=images.device)
        return self._measured(images, BlockNoise(seed, start), indices)

    def for_each(self, images: Tensor, seed: int) -> Tensor:
        """x of images each evaluated as image 0 of a data set of its own: company and order do not count."""
        return self._measured(images, RepeatedNoise(seed), torch.zeros(len(images), dtype=torch.int64))

    def _measured(self, images: Tensor, noise: BlockNoise | RepeatedNoise, indices: Tensor) -> Tensor:
        x = to_float(images, self.bits)
        if self.binarization == "dynamic":
            return binarize(x, "dynamic", noise.uniform(x.shape, x))
        if self.dequantization:
            return dequantize(x, noise.uniform(x.shape, x), self.bits)
        return self._fixed(x, indices.to(x.device))

    def of_loose_images(self, images: Tensor) -> Tensor:
        """x of images outside any data set, without noise: what encode() and reconstruct see."""
        x = to_float(images, self.bits)
        return x if self.binarization in ("none", "dynamic") else binarize(x, "threshold", x)

    def _fixed(self, x: Tensor, indices: Tensor) -> Tensor:
        if self.binarization == "fixed":
            channels, height, width = x.shape[1:]
            return binarize(x, "fixed", fixed_noise(self.seed, indices, (channels, height, width)))
        return binarize(x, "threshold", x) if self.binarization == "threshold" else x


def content_of(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (height, width) of images (…, H, W): what `pad_to` put padding around.

    Example:
        >>> content_of(torch.arange(16).view(4, 4), (2, 2)).tolist()
        [[5, 6], [9, 10]]
    """
    assert size[0] <= images.shape[-2] and size[1] <= images.shape[-1], (size, images.shape)
    top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]
