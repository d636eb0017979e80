"""The plain or denoising autoencoder that VAEs are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.densities.noise import Noise, generator_noise
from vaekit.models.likelihoods import Conditional, Likelihood, NetworkFor
from vaekit.models.trace import Trace
from vaekit.models.vae import VAE


class Encoder(Conditional):
    """Images to codes, without probability."""

    def __init__(self, network_for: NetworkFor, latent_dim: int) -> None:
        super().__init__(network_for(latent_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.parameters_of(2 * x - 1)


def corrupted(x: Tensor, kind: str, level: float) -> Tensor:
    """x with noise: normal of standard deviation `level`, or that share of pixels set to 0 or to 0/1."""
    if kind == "gaussian":
        return x + level * torch.randn_like(x)
    if kind == "mask":
        return x * (torch.rand_like(x) >= level)
    if kind == "salt":
        return torch.where(torch.rand_like(x) < level, torch.rand_like(x).round(), x)
    return x


class Autoencoder(nn.Module):
    """The plain or denoising autoencoder that VAEs are compared with: no latents, so rate 0 and no prior samples.

    While training, the input is corrupted and the clean image is the target. Vincent et al. 2010, JMLR 11.
    """

    has_latents = False
    classes = 0

    def __init__(
        self,
        encoder: Encoder,
        likelihood: Likelihood,
        corruption: Literal["none", "gaussian", "mask", "salt"] = "none",
        level: float = 0.3,
    ) -> None:
        super().__init__()
        self.encoder, self.likelihood = encoder, likelihood
        self.corruption, self.level = corruption, level

    def corrupt(self, x: Tensor) -> Tensor:
        """The input with the noise that it is trained to remove."""
        return corrupted(x, self.corruption, self.level)

    def forward(
        self,
        x: Tensor,
        samples: int = 1,
        noise: Noise = generator_noise,
        context: Tensor | None = None,
        *,
        stopped: bool = False,
    ) -> Trace:
        """One pass; `samples`, `noise` and `context` have nothing to act on."""
        code = self.encoder(self.corrupt(x) if self.training else x)
        px = self.likelihood(code.unsqueeze(0))
        return Trace(x, (), px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The code: (B, D)."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x | z) for codes (*lead, D)."""
        px: Distribution = self.likelihood(z)
        return px

    def adopt(self, draw: Callable[[int], Tensor]) -> None:
        """Nothing: there is no prior."""

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """As in the VAE."""
        self.likelihood.calibrate((x, self.likelihood(self.encode(x)).mean) for x, _ in batches)


Model = VAE | Autoencoder
