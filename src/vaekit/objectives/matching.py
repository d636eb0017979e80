"""Codes of all images together, matched with the prior by a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vaekit.config.schedule_shapes import Schedule, ScheduleValue, Weight, as_schedule
from vaekit.config.schema import Positive
from vaekit.models.trace import Latent, Objective, Trace, distortion
from vaekit.objectives.evidence import rate
from vaekit.objectives.needs import Needs, only_group

Kernel = Callable[[Tensor, float], Tensor]  # (squared distances, squared bandwidth) -> similarities in (0, 1]


def rbf(squared: Tensor, scale: float) -> Tensor:
    """exp(-|a - b|² / (2 h²))."""
    return torch.exp(squared * (-0.5 / scale))


def imq(squared: Tensor, scale: float) -> Tensor:
    """Inverse multiquadratic, with heavier tails: 2 h² / (2 h² + |a - b|²). Tolstikhin et al. 2018, arXiv:1711.01558"""
    return 1 / (1 + squared * (0.5 / scale))


KERNELS: dict[str, Kernel] = {"rbf": rbf, "imq": imq}


def mmd_squared(a: Tensor, b: Tensor, kernel: Kernel, scale: float) -> Tensor:
    """Squared maximum mean discrepancy of points a and b (*lead, count, D): (*lead), in units of the kernel.

    The unbiased U-statistic, below 0 at times. One point alone has no pairs: its own term is 0 then.
    Gretton et al. 2012, JMLR 13, lemma 6
    """
    return _within(a, kernel, scale) + _within(b, kernel, scale) - 2 * kernel(_squared(a, b), scale).mean((-2, -1))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    # by differences: |a|² + |b|² - 2ab of two near points is what rounding leaves of it
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def _within(points: Tensor, kernel: Kernel, scale: float) -> Tensor:
    count = points.shape[-2]
    others = ~torch.eye(count, dtype=torch.bool, device=points.device)
    return (kernel(_squared(points, points), scale) * others).sum((-2, -1)) / max(count * (count - 1), 1)


def prior_draws(latent: Latent) -> Tensor:
    """As many codes of the prior as the latent has of the posterior: (S, B, *event)."""
    lead = latent.z.shape[:2]
    return latent.p.rsample(lead[: 2 - len(latent.p.batch_shape)])


class Mmd:
    """distortion + (1 - alpha) * rate + (alpha + strength - 1) * MMD²(q(z), p(z)) + penalty."""

    needs = Needs(latents=True, continuous=True, coupled=True, one_group=True)

    def __init__(self, alpha: Schedule, strength: Schedule, kernel: Kernel, bandwidth: float) -> None:
        self.alpha, self.strength, self.kernel, self.bandwidth = alpha, strength, kernel, bandwidth

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        alpha = self.alpha(step)
        discrepancy = self.discrepancy(only_group(trace, "the MMD of codes and prior"))
        weighted = (alpha + self.strength(step) - 1) * discrepancy
        return distortion(trace) + (1 - alpha) * rate(trace) + weighted + trace.penalty.mean()

    def discrepancy(self, latent: Latent) -> Tensor:
        """MMD² of the batch's codes and as many fresh ones of the prior: scalar, mean over the samples."""
        z, drawn = latent.z.flatten(2), prior_draws(latent).flatten(2)
        return mmd_squared(z, drawn, self.kernel, self.bandwidth**2 * z.shape[-1]).mean()


def mmd(
    *,
    alpha: ScheduleValue = 1.0,
    strength: Weight = 1000.0,
    kernel: Literal["rbf", "imq"] = "rbf",
    bandwidth: Positive = 1.0,
) -> Objective:
    """distortion + (1 - α) rate + (α + λ - 1) MMD² (InfoVAE, with λ the `strength`); α = 1 is the MMD-VAE.

    The kernel's squared bandwidth is bandwidth² D, half the mean squared distance of two codes of a standard prior.
    Zhao, Song & Ermon 2017, arXiv:1706.02262
    """
    return Mmd(as_schedule(alpha), as_schedule(strength), KERNELS[kernel], bandwidth)
