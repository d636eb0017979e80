"""p(z): modules that return a distribution of batch () when called."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.distributions import DiagonalNormal


class StandardNormal(nn.Module):
    """N(0, I) over latent_dim dimensions."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.zeros: Tensor

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.zeros, self.zeros, validate_args=False)
