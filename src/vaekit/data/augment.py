"""What happens to a batch on the device: random flips and shifts, pixels to floats, binarisation, dequantisation.

Pure functions of tensors that compile in full; the noise is an argument.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vaekit.data.counter import Stream, Word, counter_uniform

__all__ = ["augment", "binarize", "counter_uniform", "dequantize", "fixed_noise", "to_float"]


def augment(images: Tensor, indices: Tensor, epoch: Word, seed: int, flip: bool = False, shift: int = 0) -> Tensor:
    """The batch flipped horizontally with probability 1/2 and shifted by up to `shift` pixels; (B, C, H, W) as given.

    Pixels that a shift leaves empty are 0, as in a random crop of the padded image. What happens to an image depends
    on (seed, epoch, its index) only.

    Example:
        >>> batch = torch.ones(2, 1, 4, 4, dtype=torch.uint8)
        >>> augment(batch, torch.tensor([5, 9]), 0, 0, flip=True).equal(batch)
        True
    """
    if not flip and not shift:
        return images
    height, width = images.shape[-2:]
    noise = counter_uniform(seed, epoch, indices, 3)
    moves = (noise[:, 1:] * (2 * shift + 1)).floor().long() - shift
    rows = torch.arange(height, device=images.device) + moves[:, :1]  # (B, H): where each output row comes from
    columns = torch.arange(width, device=images.device) + moves[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    if flip:
        columns = torch.where(noise[:, :1] < 0.5, width - 1 - columns, columns)
    rows = rows.clamp(0, height - 1)[:, None, :, None].expand_as(images)
    columns = columns.clamp(0, width - 1)[:, None, None, :].expand_as(images)
    return images.gather(2, rows).gather(3, columns) * inside


def to_float(images: Tensor, bits: int = 8) -> Tensor:
    """8-bit value k as k/255, float32; of fewer bits, its level floor(k / 2^(8 - bits)) over the highest one.

    Example:
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
        >>> to_float(torch.tensor([0, 63, 64, 255], dtype=torch.uint8), bits=2) * 3
        tensor([0., 0., 1., 3.])
    """
    levels = images if bits == 8 else images >> (8 - bits)
    return levels.to(torch.float32) / (2**bits - 1)


def fixed_noise(seed: int, indices: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Uniform noise (B, C, H, W) that is the same in every epoch: for `fixed` binarisation.

    Example:
        >>> fixed_noise(0, torch.tensor([1, 2, 3]), (1, 4, 4)).shape
        torch.Size([3, 1, 4, 4])
    """
    flat = counter_uniform(seed, 0, indices, math.prod(shape), stream=Stream.BINARIZE)
    return flat.view(-1, *shape)


def binarize(
    x: Tensor, mode: Literal["none", "dynamic", "fixed", "threshold"], uniform: Tensor | None = None
) -> Tensor:
    """0/1 pixels, float32 like x: 1 with probability x (`dynamic`, `fixed`), or where x >= 0.5 (`threshold`).

    `dynamic` wants fresh uniform noise for each batch, `fixed` wants `fixed_noise`. Salakhutdinov & Murray 2008.

    Example:
        >>> binarize(torch.tensor([0.2, 0.5]), "threshold")
        tensor([0., 1.])
    """
    if mode == "none":
        return x
    if mode == "threshold":
        return (x >= 0.5).to(x.dtype)
    assert uniform is not None, f"{mode} binarisation needs noise"
    return (uniform < x).to(x.dtype)  # strict: x = 0 is never 1, x = 1 always


def dequantize(x: Tensor, uniform: Tensor, bits: int = 8) -> Tensor:
    """(255 x + u) / 256: 8-bit value k spread evenly over [k/256, (k+1)/256); in [0, 1]. Alike for fewer bits.

    Uria, Murray & Larochelle 2013, arXiv:1306.0186

    Example:
        >>> dequantize(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))
        tensor([0.0000, 0.9980])
    """
    return ((2**bits - 1) * x + uniform) / 2**bits
