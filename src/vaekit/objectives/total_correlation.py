"""The rate in three parts: what codes tell of the image, how dimensions depend on each other, how each is spread."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vaekit.config.schedule_shapes import Schedule, Weight, as_schedule
from vaekit.densities.codes import LatentDistribution
from vaekit.models.trace import Latent, Objective, Trace, distortion, log_q
from vaekit.objectives.aggregate import Sampling, log_aggregate
from vaekit.objectives.needs import Facts, Needs, only_group


class RateParts(NamedTuple):
    """They add up to log q(z | x) - log p(z): scalars, nats per example."""

    information: Tensor  # E log q(z | x) - log q(z): mutual information of image and code
    correlation: Tensor  # E log q(z) - Σ_d log q(z_d): total correlation
    marginals: Tensor  # E Σ_d log q(z_d) - log p(z): dimension by dimension, where p factorises


def rate_parts(latent: Latent, images: int, sampling: Sampling) -> RateParts:
    """Estimated from this batch, which is of a set of so many images."""
    assert isinstance(latent.q, LatentDistribution)
    joint, product = log_aggregate(latent.q, latent.z, images, sampling)
    return RateParts(
        (log_q(latent) - joint).mean(), (joint - product).mean(), (product - latent.p.log_prob(latent.z)).mean()
    )


class TotalCorrelation:
    """distortion + alpha * information + beta * correlation + gamma * marginals + penalty."""

    needs = Needs(latents=True, continuous=True, factorised=True, coupled=True, flat=True, one_group=True)

    def __init__(self, alpha: Schedule, beta: Schedule, gamma: Schedule, images: int, sampling: Sampling) -> None:
        self.alpha, self.beta, self.gamma, self.images, self.sampling = alpha, beta, gamma, images, sampling

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        loss = distortion(trace) + trace.penalty.mean()
        parts = rate_parts(only_group(trace, "the total correlation"), self.images, self.sampling)
        loss = loss + self.alpha(step) * parts.information
        return loss + self.beta(step) * parts.correlation + self.gamma(step) * parts.marginals


def total_correlation(
    facts: Facts,
    *,
    alpha: Weight = 1.0,
    beta: Weight = 6.0,
    gamma: Weight = 1.0,
    sampling: Sampling = "weighted",
) -> Objective:
    """The rate in parts with a weight of its own each (β-TCVAE); with all three 1 the sampled negative ELBO.

    Estimated from a batch, so its bias falls with training.batch_size. Chen, Li, Grosse & Duvenaud 2018,
    arXiv:1802.04942
    """
    return TotalCorrelation(as_schedule(alpha), as_schedule(beta), as_schedule(gamma), facts.images, sampling)
