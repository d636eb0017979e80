"""Trunks: tensor to tensor, no probability. Encoders map (N, C, H, W) to (N, outputs); decoders (N, inputs) to images.

Any height, width and channel count works: a side of h pixels is halved to ceil(h / 2), and the decoder crops on the
way back, so nothing depends on powers of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.config.schema import Count, Index
from vaekit.networks.convolutions import Conv, TransposedConv

Shape = tuple[int, int, int]  # channels, height, width
Activation = Literal["silu", "relu", "gelu", "elu", "tanh", "leaky_relu"]
Block = Literal["plain", "residual", "gated"]
Norm = Literal["none", "batch", "group"]
Widths = Annotated[tuple[Count, ...], "one entry per layer (mlp) or per halving of the image (conv, resnet)"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


def default_widths(shape: Shape) -> tuple[int, ...]:
    """Convolution widths that bring the shorter side to about 4 pixels: 32, 64, 128, 256, 256 …

    Example:
        >>> default_widths((1, 28, 28)), default_widths((3, 64, 64))
        ((32, 64, 128), (32, 64, 128, 256))
    """
    halvings = max(1, round(math.log2(max(8, min(shape[1:])) / 4)))
    return tuple(min(256, 32 * 2**i) for i in range(halvings))


# Class labels


class WithPlane(nn.Module):
    """An encoder that is given the class of each image, as one more channel: a learned plane for each class."""

    def __init__(self, encoder: nn.Module, classes: int, shape: Shape) -> None:
        super().__init__()
        self.encoder, self.side = encoder, shape[1:]
        self.planes = nn.Embedding(classes, math.prod(self.side))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        plane = self.planes(context).view(-1, 1, *self.side).expand(len(x), -1, -1, -1)
        return self.encoder(torch.cat([x, plane.to(x.dtype)], 1))


class WithVector(nn.Module):
    """A network that is given the class of each input, as further numbers or channels: a learned vector for each."""

    def __init__(self, decoder: nn.Module, classes: int, size: int) -> None:
        super().__init__()
        self.decoder, self.vectors = decoder, nn.Embedding(classes, size)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        vectors = self.vectors(context).to(z.dtype)
        if z.ndim == 4:  # a grid: the same at every place
            vectors = vectors[:, :, None, None].expand(-1, -1, *z.shape[2:])
        return self.decoder(torch.cat([z, vectors], 1))


# MLP


class Residual(nn.Module):
    """x + W2 act(W1 norm(x)); starts as the identity, so depth does not hurt early training."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.activation = activation()
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.activation(self.inner(self.norm(x))))


class Gated(nn.Module):
    """A linear map times a sigmoid gate. Dauphin et al. 2017, arXiv:1612.08083"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x), dim=-1)


def _dense(inputs: int, widths: Sequence[int], outputs: int, block: Block, activation: Activation) -> list[nn.Module]:
    layers: list[nn.Module] = []
    act = ACTIVATIONS[activation]
    for i, width in enumerate(widths):
        if block == "gated":
            layers.append(Gated(inputs, width))
        elif block == "residual" and i > 0 and width == inputs:
            layers.append(Residual(width, act))
        elif block == "residual":
            layers.append(nn.Linear(inputs, width))
        else:
            layers += [nn.Linear(inputs, width), act()]
        inputs = width
    if block == "residual" and widths:
        layers.append(act())
    return [*layers, nn.Linear(inputs, outputs)]


def mlp_encoder(
    shape: Shape,
    outputs: int,
    *,
    widths: Widths = (512, 512),
    block: Block = "plain",
    activation: Activation = "silu",
) -> nn.Module:
    """Flattens the image; no widths make it one linear map."""
    return nn.Sequential(nn.Flatten(), *_dense(math.prod(shape), widths, outputs, block, activation))


def mlp_decoder(
    inputs: int,
    shape: Shape,
    *,
    widths: Widths = (512, 512),
    block: Block = "plain",
    activation: Activation = "silu",
) -> nn.Module:
    """The encoder's widths in reverse, then one value per pixel and channel."""
    return nn.Sequential(
        *_dense(inputs, tuple(reversed(widths)), math.prod(shape), block, activation), nn.Unflatten(1, shape)
    )


# Convolutions


def _halved(side: int) -> int:
    return (side + 1) // 2


def norm_layers(kind: Norm, width: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(width)]
    if kind == "group":
        return [nn.GroupNorm(math.gcd(8, width), width)]
    return []


class Down(nn.Module):
    """Half the side, rounded up: an odd side is padded by one row or column first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        odd_height, odd_width = x.shape[-2] % 2, x.shape[-1] % 2
        if odd_height or odd_width:
            x = F.pad(x, (0, odd_width, 0, odd_height))
        return self.conv(x)


class Up(nn.Module):
    """Twice the side, cropped to (height, width)."""

    def __init__(self, inputs: int, outputs: int, height: int, width: int) -> None:
        super().__init__()
        self.conv = TransposedConv(inputs, outputs)
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[..., : self.height, : self.width]


class ResidualConv(nn.Module):
    """x + conv(act(conv(act(x)))), the identity at first. He et al. 2016, arXiv:1603.05027"""

    def __init__(self, width: int, activation: type[nn.Module], norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *norm_layers(norm, width),
            activation(),
            Conv(width, width, 3, padding=1),
            *norm_layers(norm, width),
            activation(),
            Conv(width, width, 3, padding=1),
        )
        last = self.body[-1]
        assert isinstance(last, Conv)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _stages(shape: Shape, count: int) -> list[tuple[int, int]]:
    """(height, width) before the first halving, after it, and so on: count + 1 sizes."""
    sizes = [shape[1:]]
    for _ in range(count):
        sizes.append((_halved(sizes[-1][0]), _halved(sizes[-1][1])))
    return sizes


def same_size(width: int, depth: int, act: type[nn.Module], norm: Norm, residual: bool) -> list[nn.Module]:
    if residual:
        return [ResidualConv(width, act, norm) for _ in range(depth)]
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [Conv(width, width, 3, padding=1), *norm_layers(norm, width), act()]
    return layers


def _image_encoder(
    shape: Shape, outputs: int, widths: Widths | None, depth: int, activation: Activation, norm: Norm, residual: bool
) -> nn.Module:
    act = ACTIVATIONS[activation]
    widths = default_widths(shape) if widths is None else widths
    layers: list[nn.Module] = []
    channels = shape[0]
    for width in widths:
        layers.append(Down(channels, width))
        if not residual:
            layers += [*norm_layers(norm, width), act()]
        layers += same_size(width, depth, act, norm, residual)
        channels = width
    if residual:
        layers += [*norm_layers(norm, channels), act()]
    height, width = _stages(shape, len(widths))[-1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, outputs))


def _image_decoder(
    inputs: int, shape: Shape, widths: Widths | None, depth: int, activation: Activation, norm: Norm, residual: bool
) -> nn.Module:
    act = ACTIVATIONS[activation]
    widths = default_widths(shape) if widths is None else widths
    sizes = _stages(shape, len(widths))
    height, width = sizes[-1]
    top = widths[-1] if widths else shape[0]
    layers: list[nn.Module] = [nn.Linear(inputs, top * height * width), nn.Unflatten(1, (top, height, width))]
    if not residual:
        layers.append(act())
    for i in reversed(range(len(widths))):
        layers += same_size(widths[i], depth, act, norm, residual)
        if residual:
            layers += [*norm_layers(norm, widths[i]), act()]
        outputs = widths[i - 1] if i > 0 else shape[0]
        layers.append(Up(widths[i], outputs, *sizes[i]))
        if i > 0 and not residual:
            layers += [*norm_layers(norm, outputs), act()]
    return nn.Sequential(*layers)


def conv_encoder(
    shape: Shape,
    outputs: int,
    *,
    widths: Widths | None = None,
    depth: Index = 0,
    activation: Activation = "silu",
    norm: Norm = "none",
) -> nn.Module:
    """Strided convolutions, each halving the image, with `depth` more of the same size after each; then dense."""
    return _image_encoder(shape, outputs, widths, depth, activation, norm, residual=False)


def conv_decoder(
    inputs: int,
    shape: Shape,
    *,
    widths: Widths | None = None,
    depth: Index = 0,
    activation: Activation = "silu",
    norm: Norm = "none",
) -> nn.Module:
    """The convolutional encoder turned round, with transposed convolutions."""
    return _image_decoder(inputs, shape, widths, depth, activation, norm, residual=False)


def resnet_encoder(
    shape: Shape,
    outputs: int,
    *,
    widths: Widths | None = None,
    depth: Count = 1,
    activation: Activation = "silu",
    norm: Norm = "none",
) -> nn.Module:
    """Like `conv`, with `depth` pre-activation residual blocks at each size."""
    return _image_encoder(shape, outputs, widths, depth, activation, norm, residual=True)


def resnet_decoder(
    inputs: int,
    shape: Shape,
    *,
    widths: Widths | None = None,
    depth: Count = 1,
    activation: Activation = "silu",
    norm: Norm = "none",
) -> nn.Module:
    """The residual encoder turned round."""
    return _image_decoder(inputs, shape, widths, depth, activation, norm, residual=True)


def full_precision(values: Tensor) -> Tensor:
    """float32 of what a reduced-precision network gives; float32 and float64 pass unchanged."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
