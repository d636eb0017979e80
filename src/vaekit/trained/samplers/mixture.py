"""A Gaussian mixture with full covariances over codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from vaekit.densities.noise import derived_seed

Array = np.ndarray[Any, Any]
CODES_PER_COMPONENT = 20  # fewer give a covariance of chance
RIDGE = 1e-6  # added to each variance, in units of the codes: a component on one point stays a density


class MixtureSampler:
    """p(z) = Σ_k weight_k · N(mean_k, covariance_k), fitted by expectation maximisation.

    Ghosh et al. 2020, arXiv:1903.12436, fit it to the codes of an autoencoder after training.
    """

    package = "sklearn"

    def __init__(self, weights: Array, means: Array, factors: Array) -> None:
        self.weights, self.means, self.factors = weights, means, factors  # (K,), (K, D), (K, D, D) lower triangular

    @classmethod
    def fit(cls, codes: Array, *, seed: int = 0, components: int = 10) -> Self:
        """From codes (N, D); fewer components where the codes are few."""
        from sklearn.mixture import GaussianMixture

        count = max(1, min(components, len(codes) // CODES_PER_COMPONENT))
        fitted = GaussianMixture(
            count, covariance_type="full", reg_covar=RIDGE, random_state=derived_seed(seed, "mixture") % 2**32
        ).fit(np.asarray(codes, np.float64))
        return cls(fitted.weights_, fitted.means_, np.linalg.cholesky(fitted.covariances_))

    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Array:
        """Codes (count, D), float32. `temperature` multiplies the spread of each component."""
        draw = np.random.default_rng(derived_seed(seed, "component"))
        noise = np.random.default_rng(derived_seed(seed, "noise")).standard_normal((count, self.means.shape[1]))
        chosen = np.searchsorted(np.cumsum(self.weights), draw.random(count) * self.weights.sum(), side="right")
        chosen = chosen.clip(max=len(self.weights) - 1)
        spread = np.einsum("nij,nj->ni", self.factors[chosen], noise)
        return (self.means[chosen] + temperature * spread).astype(np.float32)

    def log_prob(self, codes: Array) -> Array:
        """log p(z) of codes (N, D): (N,), nats."""
        terms = []
        for weight, mean, factor in zip(self.weights, self.means, self.factors, strict=True):
            standard = np.linalg.solve(factor, (codes - mean).T)
            log_det = np.log(np.diag(factor)).sum()
            log_norm = -log_det - 0.5 * len(mean) * math.log(2 * math.pi)
            terms.append(math.log(weight) + log_norm - 0.5 * np.square(standard).sum(0))
        return np.logaddexp.reduce(terms)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Tensors and facts that `restore` takes."""
        tensors = {"weights": self.weights, "means": self.means, "factors": self.factors}
        return tensors, {"components": len(self.weights)}

    @classmethod
    def restore(cls, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The sampler whose `state` this is."""
        return cls(tensors["weights"], tensors["means"], tensors["factors"])
