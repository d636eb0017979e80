"""Images to a `Trace`. Two classes, not one per paper: a method is a choice of parts and an objective."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.conditionals import Conditional, Likelihood, NetworkFor, Posterior
from vaekit.distributions import DiagonalNormal
from vaekit.noise import Noise, generator_noise
from vaekit.trace import Latent, Trace


class VAE(nn.Module):
    """One group of latents: x -> q(z | x) -> z -> p(x | z). Kingma & Welling 2014, arXiv:1312.6114"""

    has_latents = True

    def __init__(self, prior: nn.Module, posterior: Posterior, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood

    def forward(self, x: Tensor, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False) -> Trace:
        """One pass: x (B, C, H, W) in [0, 1] with `samples` codes each. `stopped` also fills log_q_stopped."""
        return self.trace(x, self.posterior(x), samples, noise, stopped=stopped)

    def trace(self, x: Tensor, q: DiagonalNormal, samples: int, noise: Noise, *, stopped: bool = False) -> Trace:
        """The pass from q(z | x) on, so that an evaluation with many samples encodes once."""
        z = q.from_noise(noise(0, torch.Size((samples, *q.batch_shape, *q.event_shape)), q.loc))
        log_q_stopped = q.detach().log_prob(z) if stopped else None
        px = self.likelihood(z)
        return Trace(x, (Latent(z, q, self.prior(), log_q_stopped),), px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x: Tensor) -> Tensor:
        """The posterior mean: (B, D)."""
        return self.posterior(x).mean

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z) for codes (*lead, D)."""
        px: Distribution = self.likelihood(z)
        return px

    def generate(self, count: int, noise: Noise = generator_noise, temperature: float = 1.0) -> Distribution:
        """p(x | z) for `count` codes from the prior, whose spread is multiplied by the temperature."""
        p = self.prior()
        spread = noise(0, torch.Size((1, count, *p.event_shape)), p.mean)[0]
        return self.decode(p.from_noise(temperature * spread))

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Let the likelihood fix what it estimates from the training set; codes are posterior means."""
        self.likelihood.calibrate((x, self.likelihood(self.encode(x)).mean) for x in batches)


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

    def forward(self, x: Tensor, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False) -> Trace:
        """One pass; `samples` and `noise` have nothing to act on."""
        code = self.encoder(self.corrupt(x) if self.training else x)
        px = self.likelihood(code.unsqueeze(0))
        return Trace(x, (), px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x: Tensor) -> Tensor:
        """The code: (B, D)."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z) for codes (*lead, D)."""
        px: Distribution = self.likelihood(z)
        return px

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """As in the VAE."""
        self.likelihood.calibrate((x, self.likelihood(self.encode(x)).mean) for x in batches)


Model = VAE | Autoencoder
