"""Mixtures of distributions of codes, and a prior that is a learned mixture of normals."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.config.schema import Count, Share
from vaekit.distributions import DiagonalNormal, LatentDistribution
from vaekit.networks import Shape
from vaekit.posteriors import Posterior
from vaekit.priors.normal import PRIOR_LOG_SCALE, Prior

Weights = Literal["uniform", "learned"]


class Mixture(LatentDistribution):
    """Σ_k exp(log_weights_k) components_k: components of batch (K,) with moments, log_weights (K,) that sum to 1.

    A draw takes one number more than the components': through the normal CDF, it chooses among them, and the
    temperature leaves it alone. No gradient reaches the weights through a draw; through log_prob it does.
    """

    def __init__(self, components: LatentDistribution, log_weights: Tensor) -> None:
        self.components, self.log_weights = components, log_weights
        super().__init__(torch.Size(), components.event_shape, validate_args=False)

    @property
    def noise_shape(self) -> torch.Size:
        (own,) = self.components.noise_shape
        return torch.Size((own + 1,))

    @property
    def width(self) -> int:
        return len(self.log_weights) * self.components.width_each

    def chosen(self, noise: Tensor) -> Tensor:
        """Which component: (*sample,) from standard-normal noise."""
        edges = self.log_weights.detach().exp().cumsum(0)
        uniform = torch.special.ndtr(noise) * edges[-1]  # rounding may leave the last edge beside 1
        return torch.searchsorted(edges, uniform.contiguous(), right=True).clamp_max(len(edges) - 1)

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Of the chosen component; at temperature 0 its mean."""
        return self.components.at(self.chosen(noise[..., -1])).from_noise(noise[..., :-1], temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        terms = self.components.log_prob_each(value)
        return torch.logsumexp(terms + self.log_weights, -1).to(value.dtype)

    @property
    def mean(self) -> Tensor:
        return self.log_weights.exp() @ self.components.mean

    @property
    def variance(self) -> Tensor:
        apart = (self.components.mean - self.mean).square()
        return self.log_weights.exp() @ (self.components.variance + apart)

    @property
    def covariance(self) -> Tensor:
        weights, apart = self.log_weights.exp(), self.components.mean - self.mean
        inside = torch.einsum("k,kde->de", weights, self.components.covariance)
        return inside + apart.T @ (weights[:, None] * apart)

    def detach(self) -> Mixture:
        return Mixture(self.components.detach(), self.log_weights.detach())


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
        latent_dim: int,
        shape: Shape,
        classes: int = 0,
        *,
        components: Count = 10,
        weights: Weights = "learned",
        spread: Share = 0.5,
    ) -> None:
        super().__init__(latent_dim, shape, classes)
        self.components = components
        scale = torch.full((components, latent_dim), 1 - spread**2).sqrt()
        self.loc = nn.Parameter(spread * torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(scale.log())
        self.weights = ComponentWeights(components, weights)

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> Mixture:
        normals = DiagonalNormal(self.loc, self.log_scale.clamp(*PRIOR_LOG_SCALE), validate_args=False)
        return Mixture(normals, self.weights())
