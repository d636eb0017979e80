"""The same work for every contender: images, networks of equal layers, pythae's trainer and a stock loader loop.

Peers are measured as their own trainers run them: pythae 0.1.2 (Chadebec, Vincent & Allassonnière 2022,
arXiv:2206.08309), and the loop of most tutorials, a DataLoader over a TensorDataset with torch's Adam.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.config.load import load_config
from vaekit.config.schema import Config
from vaekit.data.dataset import Dataset
from vaekit.data.splits import Splits
from vaekit.models.build import build_model
from vaekit.models.vae import VAE
from vaekit.training.combinations import check_config
from vaekit.training.loggers import Several
from vaekit.training.loop import Trainer

LATENT = 16


@dataclass(frozen=True)
class Network:
    """One network in our terms: options of `model.network`."""

    name: str
    kind: str
    widths: tuple[int, ...]
    norm: str = "none"

    def override(self) -> str:
        """As `vaekit train … model.network=…` wants it."""
        norm = f", norm: {self.norm}" if self.kind == "conv" else ""
        return f"model.network={{kind: {self.kind}, widths: {list(self.widths)}, activation: relu{norm}}}"


MLP = Network("MLP 784-512-16", "mlp", (512,))  # pythae's default
SMALL_CONV = Network("conv 32-64-128", "conv", (32, 64, 128))
LARGE_CONV = Network("conv 128-256-512-1024, BatchNorm", "conv", (128, 256, 512, 1024), "batch")

BARE = ("training.clip=null", "training.ema=null", "training.guard=false")


def images(count: int, side: int = 28, channels: int = 1) -> Tensor:
    """uint8 (N, C, H, W); speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def config_of(network: Network, batch: int, *overrides: str) -> Config:
    """Grey-pixel cross-entropy and Adam at a constant rate, whatever the recipe would choose."""
    return load_config(
        "digits",
        [
            network.override(),
            f"training.batch_size={batch}",
            f"model.latent_dim={LATENT}",
            "model.likelihood=bce",
            "data.binarize=none",
            "objective.beta=1",
            "training.optimizer=adam",
            "training.learning_rate=1e-4",
            "training.schedule=constant",
            "training.warmup=0",
            "training.weight_decay=0",
            *overrides,
        ],
        check=check_config,
    )


def trainer_of(network: Network, pixels: Tensor, batch: int, *overrides: str) -> Trainer:
    """Our trainer, ready for its first update."""
    torch.manual_seed(0)
    data = Dataset(pixels)
    none = data.subset(torch.arange(0))
    config = config_of(network, batch, *overrides)
    trainer = Trainer(config, Splits(data, none, none, {}), Path(tempfile.gettempdir()), Several([]))
    trainer.model.train()
    return trainer


def plain_model(network: Network, shape: tuple[int, int, int]) -> VAE:
    """Our model with its layers as torch lays them out."""
    torch.manual_seed(0)
    model = build_model(config_of(network, 1).model, shape)
    assert isinstance(model, VAE)
    return model


def pythae_trainer(network: Network, pixels: Tensor, batch: int, device: torch.device, amp: bool = False) -> Any:
    """pythae's trainer over the same layers, its default network for the MLP."""
    from pythae import models
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    shape = tuple(pixels.shape[1:])
    config = models.VAEConfig(input_dim=shape, latent_dim=LATENT, reconstruction_loss="bce")
    torch.manual_seed(0)
    model = models.VAE(config, *([] if network.kind == "mlp" else _pythae_parts(network, shape)))
    training = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=1,
        per_device_train_batch_size=batch,
        learning_rate=1e-4,
        optimizer_cls="Adam",
        no_cuda=device.type == "cpu",
        amp=amp,
    )
    data = BaseDataset(pixels.float() / 255, torch.zeros(len(pixels)))
    with quiet():
        trainer = BaseTrainer(model, data, training_config=training, callbacks=[])
        trainer.prepare_training()
    return trainer


def _pythae_parts(network: Network, shape: tuple[int, ...]) -> list[Any]:
    """Encoder and decoder with the layers of our convolutional network, written plainly."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    model = plain_model(network, (shape[0], shape[1], shape[2]))
    # A GPU or a CPU may run one output channel by other kernels in our layer; here it is torch's own
    likelihood = nn.Sequential(*[PlainUp(layer) if hasattr(layer, "height") else layer for layer in _layers(model)])

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = model.posterior.network

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = likelihood

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    return [Encoder(), Decoder()]


def _layers(model: VAE) -> list[nn.Module]:
    network = model.likelihood.network
    assert isinstance(network, nn.Sequential)
    return list(network)


class PlainUp(nn.Module):
    """A transposed convolution and a crop."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.conv, self.height, self.width = layer.conv, layer.height, layer.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y[..., : self.height, : self.width]


@contextlib.contextmanager
def quiet() -> Any:
    """Without pythae's progress bars."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def tutorial_epoch(network: Network, pixels: Tensor, batch: int, device: torch.device) -> Callable[[], None]:
    """One epoch of the loop that tutorials show: DataLoader, torch's Adam, loss.item() at each step."""
    model = plain_model(network, (pixels.shape[1], pixels.shape[2], pixels.shape[3])).to(device).train()
    data = torch.utils.data.TensorDataset(pixels.float() / 255)
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    decoder = nn.Sequential(*[PlainUp(layer) if hasattr(layer, "height") else layer for layer in _layers(model)])

    def epoch() -> None:
        total = 0.0
        for (x,) in loader:
            x = x.to(device)
            mean, log_variance = model.posterior.network(x).chunk(2, -1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            logits = decoder(z)
            distortion = F.binary_cross_entropy_with_logits(logits.flatten(1), x.flatten(1), reduction="none").sum(1)
            rate = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
            loss = (distortion + rate).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch
