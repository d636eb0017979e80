"""p(z): modules that return a distribution of codes, batch () or, given a context, (B,)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vaekit.conditionals import Posterior
from vaekit.distributions import DiagonalNormal, LatentDistribution


class Prior(nn.Module):
    """p(z | context). It is shown the posterior, because some priors are made of posteriors (VampPrior)."""

    factorises: ClassVar[bool] = False  # whether its dimensions are independent
    fixed: ClassVar[bool] = False  # whether it has nothing to learn

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> LatentDistribution:
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, I) over latent_dim dimensions."""

    factorises, fixed = True, True

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.zeros: Tensor

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        return DiagonalNormal(self.zeros, self.zeros, validate_args=False)
