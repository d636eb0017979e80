"""Inception-v3 as the Fréchet inception distance uses it: 2,048 features of an image, with published weights.

Szegedy et al. 2016, arXiv:1512.00567; its variant for this use averages without padding, and its last block takes the
largest value where the others average. Modules are named as in the published file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.networks.pretrained.weights import WeightFile

INCEPTION = WeightFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
SIDE = 299  # pixels

Layer = tuple[str, int, int | tuple[int, int], int]  # name, channels out, kernel, stride; padded unless it strides
Branch = tuple[tuple[Layer, ...], ...]  # stages in a row; a stage of two layers puts their results side by side
Pool = Callable[[Tensor], Tensor]


class _Convolution(nn.Module):
    """Convolution, batch norm, rectifier."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class _Mixed(nn.Module):
    """Branches side by side, the last one after a pooling (and without a layer where the block halves the image)."""

    def __init__(self, inputs: int, branches: Sequence[Branch], pool: Pool, pooled: int = 0) -> None:
        super().__init__()
        self.branches, self.pool, self.pooled = branches, pool, pooled
        for branch in branches:
            width = inputs
            for stage in branch:
                for name, outputs, kernel, stride in stage:
                    self.add_module(name, _Convolution(width, outputs, kernel, stride, padded=stride == 1))
                width = sum(layer[1] for layer in stage)
        if pooled:
            self.branch_pool = _Convolution(inputs, pooled, 1)
        self.outputs = sum(sum(layer[1] for layer in branch[-1]) for branch in branches) + (pooled or inputs)

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for branch in self.branches:
            value = x
            for stage in branch:
                value = torch.cat([self.get_submodule(layer[0])(value) for layer in stage], 1)
            results.append(value)
        pooled = self.pool(x)
        return torch.cat([*results, self.branch_pool(pooled) if self.pooled else pooled], 1)


def _chain(*layers: tuple[str, int, int | tuple[int, int]] | Layer) -> Branch:
    return tuple(((layer[0], layer[1], layer[2], layer[3] if len(layer) == 4 else 1),) for layer in layers)


def _double(prefix: str, middle: int, last: int, stride: int = 1) -> Branch:
    return _chain((f"{prefix}_1", 64, 1), (f"{prefix}_2", middle, 3), (f"{prefix}_3", last, 3, stride))


def _block_a(inputs: int, pooled: int) -> _Mixed:
    five = _chain(("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return _Mixed(inputs, [_chain(("branch1x1", 64, 1)), five, _double("branch3x3dbl", 96, 96)], _average, pooled)


def _block_b(inputs: int) -> _Mixed:
    return _Mixed(inputs, [_chain(("branch3x3", 384, 3, 2)), _double("branch3x3dbl", 96, 96, 2)], _halve)


def _block_c(inputs: int, width: int) -> _Mixed:
    across, down = (1, 7), (7, 1)
    seven = _chain(("branch7x7_1", width, 1), ("branch7x7_2", width, across), ("branch7x7_3", 192, down))
    kernels: tuple[int | tuple[int, int], ...] = (1, down, across, down, across)
    twice = _chain(*((f"branch7x7dbl_{i + 1}", 192 if i == 4 else width, k) for i, k in enumerate(kernels)))
    return _Mixed(inputs, [_chain(("branch1x1", 192, 1)), seven, twice], _average, 192)


def _block_d(inputs: int) -> _Mixed:
    seven = _chain(
        ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3, 2),
    )  # fmt: skip
    return _Mixed(inputs, [_chain(("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)), seven], _halve)


def _block_e(inputs: int, pool: Pool) -> _Mixed:
    def split(name: str) -> tuple[Layer, ...]:
        return ((f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1))

    three = (*_chain(("branch3x3_1", 384, 1)), split("branch3x3_2"))
    twice = (*_chain(("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)), split("branch3x3dbl_3"))
    return _Mixed(inputs, [_chain(("branch1x1", 320, 1)), three, twice], pool, 192)


class Inception(nn.Module):
    """Images (N, C, H, W) in [0, 1], grey or colour, of any size to features (N, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, padded=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, _average)
        self.Mixed_7c = _block_e(2048, _largest)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        x = 2 * F.interpolate(colour, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x)))
        x = _halve(x)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))
