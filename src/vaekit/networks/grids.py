"""Trunks of convolutions alone: images to grids of numbers (N, outputs, h, w), and grids to images, of whatever size.

A grid is the image with both sides divided by 2^halvings.
"""

from __future__ import annotations

from torch import nn

from vaekit.config.schema import Index
from vaekit.errors import ConfigError
from vaekit.networks.convolutions import Conv, TransposedConv
from vaekit.networks.trunks import ACTIVATIONS, Activation, Down, Norm, Widths, norm_layers, same_size


def widths_of(widths: Widths | None, halvings: int) -> tuple[int, ...]:
    """One for each halving, by default 32, 64, 128, 256, 256 … ConfigError for another number of them.

    Example:
        >>> widths_of(None, 3)
        (32, 64, 128)
    """
    if widths is None:
        return tuple(min(256, 32 * 2**i) for i in range(halvings))
    if len(widths) != halvings:
        raise ConfigError(
            f"{len(widths)} widths halve the image as often, but from its side to that of its code are {halvings} "
            "halvings; give a width for each in model.network.widths, or another model.latent.side"
        )
    return widths


def grid_encoder(
    channels: int,
    outputs: int,
    halvings: int,
    *,
    widths: Widths | None = None,
    depth: Index | None = None,
    activation: Activation = "silu",
    norm: Norm = "none",
    residual: bool = False,
) -> nn.Module:
    """Strided convolutions, each with `depth` more of the same size (0; 1 of residual blocks), then the numbers."""
    act, depth = ACTIVATIONS[activation], int(residual) if depth is None else depth
    layers: list[nn.Module] = []
    for width in widths_of(widths, halvings):
        layers.append(Down(channels, width))
        if not residual:
            layers += [*norm_layers(norm, width), act()]
        layers += same_size(width, depth, act, norm, residual)
        channels = width
    if residual:
        layers += [*norm_layers(norm, channels), act()]
    return nn.Sequential(*layers, Conv(channels, outputs, 3, padding=1))


def grid_decoder(
    inputs: int,
    channels: int,
    halvings: int,
    *,
    widths: Widths | None = None,
    depth: Index | None = None,
    activation: Activation = "silu",
    norm: Norm = "none",
    residual: bool = False,
) -> nn.Module:
    """The encoder turned round, with transposed convolutions."""
    act, depth = ACTIVATIONS[activation], int(residual) if depth is None else depth
    sizes = widths_of(widths, halvings)
    layers: list[nn.Module] = [Conv(inputs, sizes[-1], 3, padding=1)]
    if not residual:
        layers.append(act())
    for i in reversed(range(halvings)):
        layers += same_size(sizes[i], depth, act, norm, residual)
        if residual:
            layers += [*norm_layers(norm, sizes[i]), act()]
        outputs = sizes[i - 1] if i > 0 else channels
        layers.append(TransposedConv(sizes[i], outputs))
        if i > 0 and not residual:
            layers += [*norm_layers(norm, outputs), act()]
    return nn.Sequential(*layers)
