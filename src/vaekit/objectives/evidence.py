"""The evidence lower bound, its terms weighted, with free bits, and with three estimators of its rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vaekit.config.schedule_shapes import Schedule, Weight, as_schedule
from vaekit.config.schema import NotNegative
from vaekit.errors import ConfigError
from vaekit.models.trace import Latent, Objective, Trace, distortion, kl, kl_per_dim, log_q
from vaekit.objectives.needs import NOTHING, Needs

Rate = Callable[[Latent], Tensor]  # nats per example, mean over the batch


def rate(trace: Trace) -> Tensor:
    """KL(q || p) of all latents: scalar, nats per example, mean over the batch."""
    return torch.stack([kl(latent).mean() for latent in trace.latents]).sum()


def _closed(latent: Latent) -> Tensor:
    return kl(latent).mean()


def _sampled(latent: Latent) -> Tensor:
    return (log_q(latent) - latent.p.log_prob(latent.z)).mean()


def log_q_stopped(latent: Latent) -> Tensor:
    """log q(z | x) that the posterior's parameters change through z alone: (S, B), nats."""
    assert latent.log_q_stopped is not None, "the model was not asked for it: pass stopped=True"
    return latent.log_q_stopped


def _sticking(latent: Latent) -> Tensor:
    return (log_q_stopped(latent) - latent.p.log_prob(latent.z)).mean()


RATES: dict[str, Rate] = {"closed": _closed, "sampled": _sampled, "stl": _sticking}


def _free_per_level(rate: Rate, free_bits: float) -> Rate:
    return lambda latent: rate(latent).clamp_min(free_bits)


def _free_per_dim(free_bits: float) -> Rate:
    def rate(latent: Latent) -> Tensor:
        per_dim = kl_per_dim(latent)
        return per_dim.flatten(0, -2).mean(0).clamp_min(free_bits).sum()  # the batch mean first, then the floor

    return rate


class Elbo:
    """weight * distortion + beta * rate + penalty; with weight = beta = 1 the negative ELBO.

    `free_bits` (nats): each dimension, or each level, costs at least this much on batch average, so that keeping it
    in use is free. β: Higgins et al. 2017; free bits: Kingma et al. 2016, arXiv:1606.04934
    """

    def __init__(self, weight: Schedule, beta: Schedule, rate: Rate, needs: Needs = NOTHING) -> None:
        self.weight, self.beta, self.rate, self.needs = weight, beta, rate, needs

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        loss = self.weight(step) * distortion(trace) + trace.penalty.mean()
        for latent in trace.latents:
            loss = loss + self.beta(step) * self.rate(latent)
        return loss


def elbo(
    *,
    weight: Weight = 1.0,
    beta: Weight = 1.0,
    free_bits: NotNegative = 0.0,
    free_bits_per: Literal["dimension", "level"] = "dimension",
    estimator: Literal["closed", "sampled", "stl"] = "closed",
) -> Objective:
    """weight * distortion + beta * rate + penalty, with free bits where asked for.

    `estimator` of the rate: `closed` form where there is one, `sampled` as log q(z) - log p(z), or `stl`, the same
    number without the score of q in its gradient, which then has no variance where q is exact (sticking the landing:
    Roeder, Wu & Duvenaud 2017, arXiv:1703.09194). ConfigError for free bits per dimension of a sampled rate.

    Example:
        >>> import torch
        >>> from vaekit.models.build import vae
        >>> trace = vae((1, 8, 8))(torch.rand(4, 1, 8, 8).round())
        >>> elbo(beta=4)(trace, torch.tensor(0)) > elbo()(trace, torch.tensor(0))
        tensor(True)
    """
    rate, per_dim = RATES[estimator], free_bits > 0 and free_bits_per == "dimension"
    if per_dim and estimator != "closed":
        raise ConfigError(
            f"a rate of estimator={estimator} has no parts per dimension; set free_bits_per=level, or estimator=closed"
        )
    if per_dim:
        rate = _free_per_dim(free_bits)
    elif free_bits > 0:
        rate = _free_per_level(rate, free_bits)
    needs = Needs(
        latents=estimator != "closed",
        continuous=estimator != "closed",
        stopped=estimator == "stl",
    )
    return Elbo(as_schedule(weight), as_schedule(beta), rate, needs)
