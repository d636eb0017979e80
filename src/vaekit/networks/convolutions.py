"""Convolutions that compute what torch's do, laid out so that a CPU is fast at them. On other devices they are torch's.

Measured in docs/performance.md; tests/test_networks.py compares values and gradients with torch's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """A convolution that on a CPU adds its bias apart, whose fused gradient takes ten times as long as a sum."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input)
        y = F.conv2d(_channels_last(input), self.weight, None, self.stride, self.padding)
        return GradientChannelsLast.apply(y) + _channels(self.bias)


class TransposedConv(nn.ConvTranspose2d):
    """A 4×4 transposed convolution of stride 2 and padding 1: twice the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input, output_size)
        x = _channels_last(input)
        if self.out_channels == 1:
            # the CPU's kernel runs a single output channel at 3 % of the machine's matrix rate
            return ToOneChannel.apply(x, self.weight.to(x.dtype)) + _channels(self.bias)
        y = F.conv_transpose2d(x, self.weight, None, 2, 1)
        return GradientChannelsLast.apply(y) + _channels(self.bias)


def _channels(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias.view(1, -1, 1, 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class GradientChannelsLast(torch.autograd.Function):
    """The identity, whose gradient is laid out as the convolution before it wants it."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to remember."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _channels_last(gradients[0])


# A transposed convolution to one channel: a matrix product gives each pixel's 16 taps, and each output adds up to four
# of them. With the batch innermost, that sum is one of whole rows, which the CPU has a fast kernel for.


class Taps(NamedTuple):
    """What each output of an input of H × W pixels adds up. Taps are numbered (pixel, row of the filter, column)."""

    ordered: Tensor  # the taps that fall inside the image, by output pixel
    first: Tensor  # (4 H W,): where each output pixel's begin among them


@functools.lru_cache(maxsize=16)
def _taps(height: int, width: int) -> Taps:
    def along(side: int) -> Tensor:
        to = 2 * torch.arange(side)[:, None] + torch.arange(4) - 1
        return torch.where((to >= 0) & (to < 2 * side), to, -1)

    rows, columns = along(height)[:, None, :, None], along(width)[None, :, None, :]
    outputs = 4 * height * width
    # the output that each tap adds to; beyond the last one where it falls outside
    output = torch.where((rows >= 0) & (columns >= 0), rows * 2 * width + columns, outputs).flatten()
    order = torch.argsort(output, stable=True)
    ordered = order[: int((output < outputs).sum())]
    return Taps(ordered, torch.searchsorted(output[ordered], torch.arange(outputs)))


def _pixels_first(x: Tensor) -> Tensor:
    """(H W, B, C) of (B, C, H, W)."""
    return x.permute(2, 3, 0, 1).flatten(0, 1)


def _filter(weight: Tensor, pixels: int) -> Tensor:
    """(C, 1, 4, 4) as (H W, 16, C), for batched products: `matmul` would copy the images instead."""
    return weight.view(len(weight), 16).t().expand(pixels, 16, len(weight))


@torch.library.custom_op("vaekit::to_one_channel", mutates_args=())
def to_one_channel(x: Tensor, weight: Tensor) -> Tensor:
    """conv_transpose2d(x, weight, stride=2, padding=1): (B, 1, 2H, 2W) of (B, C, H, W) and (C, 1, 4, 4)."""
    batch, _, height, width = x.shape
    to = _taps(height, width)
    with torch.autocast(x.device.type, enabled=False):
        taps = torch.bmm(_filter(weight, height * width), _pixels_first(x).transpose(1, 2))
        sums = F.embedding_bag(to.ordered, taps.view(-1, batch), to.first, mode="sum")
    return sums.t().contiguous().view(batch, 1, 2 * height, 2 * width)


@torch.library.custom_op("vaekit::to_one_channel_gradients", mutates_args=())
def to_one_channel_gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of x and of weight."""
    batch, channels, height, width = x.shape
    padded = F.pad(gradient[:, 0], (1, 1, 1, 1))
    taps = x.new_empty(batch, height, width, 4, 4)
    for row in range(4):  # torch copies windows of a row faster than windows of an image
        rows = padded[:, row : row + 2 * height : 2]
        taps[:, :, :, row] = rows.unfold(2, 4, 2)
    taps, pixels = taps.view(-1, 16), x.permute(0, 2, 3, 1).reshape(-1, channels)
    with torch.autocast(x.device.type, enabled=False):
        of_x = taps @ weight.view(channels, 16).t()
        of_weight = taps.t() @ pixels
    images = of_x.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return images, of_weight.t().contiguous().view(weight.shape)


@to_one_channel.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    return x.new_empty(batch, 1, 2 * height, 2 * width)


@to_one_channel_gradients.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2), x.new_empty(weight.shape)


class ToOneChannel(torch.autograd.Function):
    """The operator with its gradients, in the form that can be differentiated inside a compiled function."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return to_one_channel(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Both are needed for each other's gradient."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return to_one_channel_gradients(gradients[0], x, weight)
