"""Mixtures of distributions of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.densities.codes import LatentDistribution


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
