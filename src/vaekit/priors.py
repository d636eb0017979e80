"""p(z): modules that return a distribution of codes, batch () or, given a context, (B,)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vaekit.codebooks import UniformCodes
from vaekit.distributions import DiagonalNormal, LatentDistribution
from vaekit.posteriors import Posterior, Quantiser


class Prior(nn.Module):
    """p(z | context). It is shown the posterior, because some priors are made of posteriors (VampPrior)."""

    discrete: ClassVar[bool] = False  # over codes out of a finite set

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> LatentDistribution:
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, I) over latent_dim dimensions."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.zeros: Tensor

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        return DiagonalNormal(self.zeros, self.zeros, validate_args=False)


class Codes(Prior):
    """Uniform over the codebook of a quantised posterior."""

    discrete = True

    def __init__(self, latent_dim: int) -> None:
        super().__init__()

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> UniformCodes:
        assert isinstance(posterior, Quantiser)  # a VAE refuses other pairs
        return UniformCodes(posterior.codebook, posterior.groups, posterior.nats_per_dim)
