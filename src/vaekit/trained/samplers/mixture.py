"""A Gaussian mixture with full covariances over codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from vaekit.densities.noise import derived_seed

Array = np.ndarray[Any, Any]
CODES_PER_COMPONENT = 20  # fewer give a covariance of chance
HELD_OUT = 0.1  # of the codes, to choose by
SHRINKAGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the correlations
RIDGE = 1e-6  # added to each variance, in units of the codes: a component on one point stays a density


def _mixture(codes: Array, count: int, seed: int) -> tuple[Array, Array, Array]:
    """Weights (K,), means (K, D) and covariances (K, D, D), by expectation maximisation."""
    from sklearn.mixture import GaussianMixture

    random = derived_seed(seed, "mixture") % 2**32
    fitted = GaussianMixture(count, covariance_type="full", reg_covar=RIDGE, random_state=random).fit(codes)
    return fitted.weights_, fitted.means_, fitted.covariances_


class MixtureSampler:
    """p(z) = Σ_k weight_k · N(mean_k, covariance_k), fitted by expectation maximisation.

    Ghosh et al. 2020, arXiv:1903.12436, fit it to the codes of an autoencoder after training.
    """

    package = "sklearn"

    def __init__(self, weights: Array, means: Array, factors: Array) -> None:
        self.weights, self.means, self.factors = weights, means, factors  # (K,), (K, D), (K, D, D) lower triangular

    @classmethod
    def fit(cls, codes: Array, *, seed: int = 0, components: int = 10) -> Self:
        """From codes (N, D). A tenth of them, held out, chooses between many components and one, and how far each
        covariance is shrunk to its diagonal: as many numbers as codes describe those codes and no others.
        """
        values = np.asarray(codes, np.float64)
        order = np.random.default_rng(derived_seed(seed, "held out")).permutation(len(values))
        held, rest = np.split(values[order], [max(1, int(HELD_OUT * len(values)))])
        rest = rest if len(rest) > 1 else values
        counts = {max(1, min(components, len(rest) // CODES_PER_COMPONENT)), 1}
        tried = {}
        for count in sorted(counts, reverse=True):
            fitted = _mixture(rest, count, seed)
            for share in SHRINKAGES:
                tried[count, share] = float(cls._shrunk(*fitted, share).log_prob(held).mean())
        count, share = max(tried, key=lambda choice: tried[choice])
        return cls._shrunk(*_mixture(values, count, seed), share)

    @classmethod
    def _shrunk(cls, weights: Array, means: Array, covariances: Array, share: float) -> Self:
        """Covariances (K, D, D) moved to their diagonals by this share."""
        diagonals = np.einsum("kii->ki", covariances)[..., None] * np.eye(covariances.shape[-1])
        return cls(weights, means, np.linalg.cholesky((1 - share) * covariances + share * diagonals))

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
