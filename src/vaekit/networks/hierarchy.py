"""What a top-down hierarchy is made of: the sizes an image has on its way to one place, and blocks of convolutions.

A size is half of the one before, rounded up: 28×28, 14×14, 7×7, 4×4, 2×2, 1×1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.networks.convolutions import Conv
from vaekit.networks.trunks import Down, Shape, Up

Places = tuple[int, int]  # (height, width)


def sizes_of(shape: Shape) -> list[Places]:
    """(height, width) of an image and of every halving of it, down to one place.

    Example:
        >>> sizes_of((1, 28, 20))
        [(28, 20), (14, 10), (7, 5), (4, 3), (2, 2), (1, 1)]
    """
    sizes = [shape[1:]]
    while sizes[-1] != (1, 1):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def normalised(channels: int) -> nn.Module:
    """Groups of 8 channels or more: one channel by itself would lose what is the same at all its places."""
    return nn.GroupNorm(math.gcd(channels, max(1, min(8, channels // 8))), channels)


class Bottleneck(nn.Module):
    """x, or a projection of it, plus 1×1, 3×3, 3×3 and 1×1 convolutions of fewer channels. Child 2021, arXiv:2011.10650

    At one place the inner filters are 1×1. `scale` is of the last convolution's first weights: 1/√depth keeps the sum
    of many blocks as large as one of them.
    """

    def __init__(self, inputs: int, outputs: int, places: Places, scale: float, skip: bool = True) -> None:
        super().__init__()
        inner, side = max(8, outputs // 2), 1 if places == (1, 1) else 3
        self.body = nn.Sequential(
            normalised(inputs),
            nn.SiLU(),
            Conv(inputs, inner, 1),
            nn.SiLU(),
            Conv(inner, inner, side, padding=side // 2),
            nn.SiLU(),
            Conv(inner, inner, side, padding=side // 2),
            nn.SiLU(),
            Conv(inner, outputs, 1),
        )
        last = self.body[-1]
        assert isinstance(last, Conv) and last.bias is not None
        last.weight.data.mul_(scale)
        nn.init.zeros_(last.bias)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


def smaller(x: Tensor, halvings: int) -> Tensor:
    """Means over windows of 2×2, so many times; an odd side ends with a window of one row or column."""
    for _ in range(halvings):
        x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    return x


def larger(x: Tensor, path: Sequence[Places]) -> Tensor:
    """Each place repeated two by two and cropped to (height, width), for one size of the path after the other."""
    for height, width in path:
        *lead, rows, columns = x.shape
        # expanded, not interpolated: the gradient is a sum, which is the same every time on a GPU too
        x = x[..., :, None, :, None].expand(*lead, rows, 2, columns, 2).reshape(*lead, 2 * rows, 2 * columns)
        x = x[..., :height, :width]
    return x


def from_image(channels: int, width: int, halvings: int) -> nn.Module:
    """From an image to features at that many halvings."""
    if halvings == 0:
        return Conv(channels, width, 3, padding=1)
    layers: list[nn.Module] = [Down(channels, width)]
    for _ in range(halvings - 1):
        layers += [nn.SiLU(), Down(width, width)]
    return nn.Sequential(*layers)


def to_image(width: int, channels: int, sizes: Sequence[Places]) -> nn.Module:
    """From features at the last of these sizes to `channels` numbers of each pixel of the first."""
    layers: list[nn.Module] = [normalised(width), nn.SiLU()]
    for height, across in reversed(sizes[1:-1]):
        layers += [Up(width, width, height, across), nn.SiLU()]
    layers.append(Conv(width, channels, 3, padding=1) if len(sizes) == 1 else Up(width, channels, *sizes[0]))
    return nn.Sequential(*layers)
