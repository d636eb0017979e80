"""What images are compared by: a named feature extractor, the best that is at hand.

`inception` where its published weights are: then the Fréchet distance is the FID. `proxy` where there are labels: a
small classifier of the training images, trained here in seconds and kept. `random` otherwise: the same
network as it was drawn, as in Naeem et al. 2020, arXiv:2002.09797. Numbers of different extractors, or of proxies of
different data, cannot be compared.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from vaekit.config.schedule_shapes import cosine, with_warmup
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import content_of
from vaekit.data.store import cache_root
from vaekit.errors import CheckpointError
from vaekit.files import storage_errors
from vaekit.networks.pretrained.inception import INCEPTION, Inception
from vaekit.networks.pretrained.weights import fill, find_weights, read_weights
from vaekit.training.optimizer import AdamW, Update

FEATURES = 64  # few enough that 2,000 images pin down a covariance
SEED = 0  # fixed: every run on the same data is scored by the same proxy
FORMAT = 2  # part of the file's name: raise it when the network or its training changes
BATCH = 64
MOST_PASSES = 40
MOST_SHOWN, MOST_PIXELS_SHOWN = (
    30_000,
    9_200 * 64 * 64,
)  # images: three or four seconds on one core, whatever their size
LEARNING_RATE = 5e-3  # at its peak
RISING = 0.15  # share of the steps


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network from images (N, C, H, W) in [0, 1] to features (N, D), and what to call it."""

    name: str  # inception, proxy or random: the first word of every metric that it gives
    about: str
    network: nn.Module
    sha256: str = ""  # of the published weights

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """float32 (N, D) on the CPU; the images may be uint8."""
        device = next(self.network.parameters()).device
        parts = (part.to(device) for part in images.split(BATCH))
        return torch.cat([self.network(p.float() / 255 if p.dtype == torch.uint8 else p).cpu() for p in parts])


class SmallConvolutions(nn.Module):
    """A classifier whose last layer but one is `FEATURES` wide; called, it gives that layer, standardised.

    Strided convolutions until the shorter side is at most 7 pixels, then two linear layers. Narrow, behind wide first
    filters: on MNIST as good as twice the width behind filters of 3×3, at half the cost.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        stride = 1 if min(height, width) <= 16 else 2
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 5, stride, 2), nn.ReLU()]
        height, width, channels = -(-height // stride), -(-width // stride), 16
        while min(height, width) > 7:
            layers += [nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU()]
            height, width, channels = -(-height // 2), -(-width // 2), 32
        layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * height * width, FEATURES)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.mean: Tensor
        self.scale: Tensor
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return (self.trunk(2 * images - 1) - self.mean) / self.scale

    def logits(self, images: Tensor) -> Tensor:
        """Of the classes: (N, classes)."""
        return self.head(F.relu(self.trunk(2 * images - 1)))

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Let the features of these images (uint8) have mean 0 and variance 1, so that distances have a unit."""
        found = torch.cat([self.trunk(2 * part.float() / 255 - 1) for part in images.split(256)])
        self.mean.copy_(found.mean(0))
        self.scale.copy_(found.std(0).clamp_min(1e-6))


def extractor_for(
    train: Dataset,
    fingerprint: str,
    content_size: tuple[int, int],
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    announce: Callable[[str], None] = lambda text: None,
) -> Extractor:
    """The best extractor for a data set: Inception where its weights are (in `weights`, or where weights lie).

    A proxy is trained once per fingerprint and kept in the cache folder. CheckpointError for a damaged weight file.
    """
    path = find_weights(INCEPTION, weights)
    if path is not None:
        network = Inception()
        found = read_weights(path, INCEPTION)
        fill(network, found.tensors, path)
        about = "Inception-v3 with its published weights: Fréchet is FID"
        return Extractor("inception", about, network.to(device), found.sha256)
    if train.labels is None or len(train.class_names) < 2:
        about = "a convolutional network with random weights, as the data has no labels: not FID"
        return Extractor("random", about, _random(train, content_size).to(device))
    about = f"a classifier of the {len(train.class_names)} classes, trained by vaekit: not FID"
    return Extractor("proxy", about, _proxy(train, fingerprint, content_size, announce).to(device))


def accuracy(extractor: Extractor, dataset: Dataset, content_size: tuple[int, int]) -> float | None:
    """Share of a data set that a proxy names rightly; None for other extractors and without labels."""
    network = extractor.network
    if extractor.name != "proxy" or not isinstance(network, SmallConvolutions) or dataset.labels is None:
        return None
    device = network.mean.device
    with torch.no_grad():
        images = content_of(dataset.images, content_size)
        named = torch.cat([network.logits(part.to(device).float() / 255).argmax(1).cpu() for part in images.split(256)])
    return float((named == dataset.labels).double().mean())


def _drawn(train: Dataset, content_size: tuple[int, int]) -> SmallConvolutions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return SmallConvolutions((train.shape[0], *content_size), max(2, len(train.class_names)))


def _random(train: Dataset, content_size: tuple[int, int]) -> SmallConvolutions:
    network = _drawn(train, content_size).eval().requires_grad_(False)
    network.standardise(content_of(_some(train, 2000), content_size))
    return network


def _some(train: Dataset, count: int) -> Tensor:
    return train.images[torch.linspace(0, len(train) - 1, min(count, len(train))).long()]


def _proxy(
    train: Dataset, fingerprint: str, content_size: tuple[int, int], announce: Callable[[str], None]
) -> SmallConvolutions:
    path = cache_root() / "features" / f"proxy-{FORMAT}-{fingerprint[:24]}.safetensors"
    network = _drawn(train, content_size)
    if path.is_file():
        try:
            fill(network, read_weights(path).tensors, path)
            return network
        except CheckpointError as error:
            announce(f"{error}; it is trained again")
    announce(f"training a small classifier on {len(train):,} labelled images, once for this data: some seconds")
    train_classifier(network, train, content_size)
    _keep(network, path)
    return network


def train_classifier(network: SmallConvolutions, train: Dataset, content_size: tuple[int, int]) -> None:
    """Fit the classes of the training images, by a seeded order; torch's generator is left as it was."""
    assert train.labels is not None
    shown = min(MOST_PASSES * len(train), MOST_SHOWN, MOST_PIXELS_SHOWN // math.prod(content_size))
    steps = max(1, shown // BATCH)
    rate = with_warmup(cosine(LEARNING_RATE, 0.0, steps), RISING * steps)
    optimizer = AdamW([(list(network.parameters()), 0.05)], (0.9, 0.99), 1e-8)
    images = content_of(train.images, content_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        order = torch.cat([torch.randperm(len(train)) for _ in range(-(-steps * BATCH // len(train)))])
        network.train()
        for step, chosen in enumerate(order[: steps * BATCH].split(BATCH)):
            x = images[chosen].float() / 255
            loss = F.cross_entropy(network.logits(x), train.labels[chosen], label_smoothing=0.05)
            network.zero_grad()
            loss.backward()
            optimizer.step(Update(rate(torch.tensor(step))))
    network.eval().requires_grad_(False)
    network.standardise(content_of(_some(train, 5000), content_size))


def _keep(network: nn.Module, path: Path) -> None:
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.partial")
        part.write_bytes(to_safetensors({k: v.contiguous() for k, v in network.state_dict().items()}))
        part.replace(path)
