"""Trace to scalar: nats per example, mean over the batch; lower is better.

The keyword-only parameters of an objective are its options in a config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from vaekit.config.schema import NotNegative
from vaekit.schedules import Schedule, ScheduleValue, as_schedule
from vaekit.trace import Latent, Objective, Trace, distortion, kl, kl_per_dim


def _rate(latent: Latent) -> Tensor:
    return kl(latent).mean()


def _rate_free_per_level(free_bits: float) -> Callable[[Latent], Tensor]:
    return lambda latent: kl(latent).mean().clamp_min(free_bits)


def _rate_free_per_dim(free_bits: float) -> Callable[[Latent], Tensor]:
    def rate(latent: Latent) -> Tensor:
        per_dim = kl_per_dim(latent)
        return per_dim.flatten(0, -2).mean(0).clamp_min(free_bits).sum()  # the batch mean first, then the floor

    return rate


class Elbo:
    """weight * distortion + beta * rate + penalty; with weight = beta = 1 the negative ELBO.

    `free_bits` (nats): each dimension, or each level, costs at least this much on batch average, so that keeping it
    in use is free. β: Higgins et al. 2017; free bits: Kingma et al. 2016, arXiv:1606.04934
    """

    def __init__(self, weight: Schedule, beta: Schedule, rate: Callable[[Latent], Tensor]) -> None:
        self.weight, self.beta, self.rate = weight, beta, rate

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        loss = self.weight(step) * distortion(trace) + trace.penalty.mean()
        for latent in trace.latents:
            loss = loss + self.beta(step) * self.rate(latent)
        return loss


def elbo(
    *,
    weight: ScheduleValue = 1.0,
    beta: ScheduleValue = 1.0,
    free_bits: NotNegative = 0.0,
    free_bits_per: Literal["dimension", "level"] = "dimension",
) -> Objective:
    """weight * distortion + beta * rate + penalty, with free bits where asked for.

    Example:
        >>> import torch
        >>> from vaekit.build import vae
        >>> trace = vae((1, 8, 8))(torch.rand(4, 1, 8, 8).round())
        >>> elbo(beta=4)(trace, torch.tensor(0)) > elbo()(trace, torch.tensor(0))
        tensor(True)
    """
    rate: Callable[[Latent], Tensor] = _rate
    if free_bits > 0:
        rate = _rate_free_per_dim(free_bits) if free_bits_per == "dimension" else _rate_free_per_level(free_bits)
    return Elbo(as_schedule(weight), as_schedule(beta), rate)
