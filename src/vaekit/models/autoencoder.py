"""The plain or denoising autoencoder that VAEs are compared with."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.densities.noise import Noise, generator_noise
from vaekit.models.layout import Codes, as_layout
from vaekit.models.likelihoods import Conditional, Likelihood, NetworkFor
from vaekit.models.model import Model
from vaekit.models.trace import Latent, Trace


class Encoder(Conditional):
    """Images to codes, without probability."""

    def __init__(self, network_for: NetworkFor, event: tuple[int, ...]) -> None:
        super().__init__(network_for(event[0]))
        self.event = event

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


class Autoencoder(Model):
    """The plain or denoising autoencoder that VAEs are compared with: no latents, so rate 0 and no prior samples.

    While training, the input is corrupted and the clean image is the target. Vincent et al. 2010, JMLR 11.
    """

    has_prior = False
    has_posterior = False

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
        self.layout = as_layout([encoder.event])

    def corrupt(self, x: Tensor) -> Tensor:
        """The input with the noise that it is trained to remove."""
        return corrupted(x, self.corruption, self.level)

    def encoded(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, self.encoder(self.corrupt(x) if self.training else x)

    def noise_shapes(self, encoded: Any) -> tuple[torch.Size, ...]:
        return ()

    def infer(
        self, encoded: Any, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False
    ) -> tuple[Latent, ...]:
        """Nothing: the code is no random variable."""
        return ()

    def trace(self, encoded: Any, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False) -> Trace:
        """One pass; `samples` and `noise` have nothing to act on."""
        x, code = encoded
        px = self.likelihood(code.unsqueeze(0))
        return Trace(x, (), px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        return (self.encoder(x),)

    def decode(
        self,
        codes: Codes,
        context: Tensor | None = None,
        *,
        count: int | None = None,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
    ) -> Distribution:
        (code,) = codes
        px: Distribution = self.likelihood(code)
        return px
