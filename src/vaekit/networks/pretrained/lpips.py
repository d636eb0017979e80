"""LPIPS: a distance of images that agrees with people's judgement, from the layers of a trained AlexNet."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.networks.pretrained.weights import WeightFile, fill, find_weights, how_to_get, read_weights

TRUNK = WeightFile(
    "alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"
)
HEADS = WeightFile(
    "alex.pth",
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
)
WIDTHS = (64, 192, 384, 256, 256)
SMALLEST_SIDE = 64  # AlexNet's second pooling has nothing left of images below 31 pixels


class _Trunk(nn.Module):
    """AlexNet's convolutions, named as in its published weights; gives the five rectified layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        layers = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                layers.append(x)
        return layers


class Lpips(nn.Module):
    """Distance of (N, C, H, W) in [0, 1] to targets: (N,), 0 for equal images; colour or grey.

    Sum over five layers of the mean over positions of w · (f(x) - f(y))², f normalised over channels. Images whose
    shorter side is below 64 are enlarged by a whole factor, bilinearly. Zhang, Isola, Efros, Shechtman & Wang 2018,
    arXiv:1801.03924, version 0.1 with AlexNet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _Trunk()
        self.heads = nn.ParameterList(nn.Parameter(torch.full((width,), 1 / width)) for width in WIDTHS)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.shift: Tensor
        self.scale: Tensor
        self.sha256 = ""  # of the heads and of the trunk, where they came from files
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        total = images.new_zeros(len(images))
        for head, x, y in zip(self.heads, self._layers(images), self._layers(targets), strict=True):
            total = total + (head.view(-1, 1, 1) * (x - y).square()).sum(1).mean((1, 2))
        return total

    def _layers(self, images: Tensor) -> list[Tensor]:
        channels, height, width = images.shape[1:]
        colour = images.expand(-1, 3, -1, -1) if channels == 1 else images
        factor = -(-SMALLEST_SIDE // min(height, width))
        if factor > 1:
            size = (height * factor, width * factor)
            colour = F.interpolate(colour, size, mode="bilinear", align_corners=False)
        layers: list[Tensor] = self.trunk((2 * colour - 1 - self.shift) / self.scale)
        return [layer / (layer.square().sum(1, keepdim=True).sqrt() + 1e-10) for layer in layers]


def load_lpips(folder: Path | None = None) -> Lpips | None:
    """LPIPS with its published weights, from a folder or from where weights lie; None where a file is absent.

    CheckpointError where one is there but is not the published one.
    """
    trunk, heads = find_weights(TRUNK, folder), find_weights(HEADS, folder)
    if trunk is None or heads is None:
        return None
    made = Lpips()
    trunk_weights, head_weights = read_weights(trunk, TRUNK), read_weights(heads, HEADS)
    fill(made.trunk, trunk_weights.tensors, trunk)
    named = {f"{i}": head_weights.tensors.get(f"lin{i}.model.1.weight", torch.empty(0)) for i in range(len(WIDTHS))}
    fill(made.heads, {name: value.flatten() for name, value in named.items()}, heads)
    made.sha256 = f"{head_weights.sha256} {trunk_weights.sha256}"
    return made


def lpips_unavailable(folder: Path | None = None) -> str:
    """What to fetch, its checksum and where to put it, as one line."""
    return how_to_get((TRUNK, HEADS), folder)
