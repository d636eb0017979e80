"""Mixtures of distributions of codes, and a prior that is a learned mixture of normals."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.config.schema import Count, Share
from vaekit.densities.codes import DiagonalNormal
from vaekit.densities.mixtures import Mixture
from vaekit.models.posteriors import Event, Posterior
from vaekit.models.priors.normal import PRIOR_LOG_SCALE, Prior
from vaekit.networks.trunks import Shape

Weights = Literal["uniform", "learned"]


class ComponentWeights(nn.Module):
    """Log-weights (K,) of a mixture: equal and fixed, or learned from equal ones."""

    def __init__(self, components: int, kind: Weights) -> None:
        super().__init__()
        self.logits: Tensor
        if kind == "learned":
            self.register_parameter("logits", nn.Parameter(torch.zeros(components)))
        else:
            self.register_buffer("logits", torch.zeros(components), persistent=False)

    def forward(self) -> Tensor:
        return torch.log_softmax(self.logits, 0)


class GaussianMixture(Prior):
    """Normals with independent dimensions and learned means and scales.

    They begin apart: means of standard deviation `spread` and scales that make up the rest of a standard normal.
    """

    def __init__(
        self,
        event: Event,
        shape: Shape,
        classes: int = 0,
        *,
        components: Count = 10,
        weights: Weights = "learned",
        spread: Share = 0.5,
    ) -> None:
        super().__init__(event, shape, classes)
        (latent_dim,) = event
        self.components = components
        scale = torch.full((components, latent_dim), 1 - spread**2).sqrt()
        self.loc = nn.Parameter(spread * torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(scale.log())
        self.weights = ComponentWeights(components, weights)

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> Mixture:
        normals = DiagonalNormal(self.loc, self.log_scale.clamp(*PRIOR_LOG_SCALE), validate_args=False)
        return Mixture(normals, self.weights())
