"""Importance-weighted bounds of several samples of each image, and gradients for them that do not fade with K."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vaekit.config.schedule_shapes import Schedule, Weight, as_schedule
from vaekit.config.schema import Count
from vaekit.models.trace import Latent, Objective, Trace, log_weight
from vaekit.objectives.evidence import log_q_stopped
from vaekit.objectives.needs import Needs


class Importance:
    """share * ELBO + (1 - share) * IWAE, each the mean over groups of samples; negative, plus penalty.

    IWAE of a group = log 1/K Σ_k w_k with w = p(x, z) / q(z | x).
    """

    def __init__(self, groups: int, share: Schedule, needs: Needs) -> None:
        self.groups, self.share, self.needs = groups, share, needs

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        return self.of(log_weight(trace), self.share(step)) + trace.penalty.mean()

    def of(self, log_weights: Tensor, share: Tensor) -> Tensor:
        """The negative bound of log w (S, B): scalar."""
        grouped = log_weights.unflatten(0, (self.groups, -1))
        bound = torch.logsumexp(grouped, 1) - math.log(grouped.shape[1])
        return -(share * log_weights.mean() + (1 - share) * bound.mean())


class DoublyImportance(Importance):
    """The same value, with the doubly reparameterised gradient of the encoder and the bound's own for the rest.

    With normalised weights v, the decoder and the prior get Σ v ∇ log w and the codes Σ v² ∂ log w / ∂z, so one
    backward pass of Σ v log w serves both if the gradient that arrives at z is multiplied by v. A share of the ELBO
    adds 1/S to both. Tucker, Lawson, Gu & Maddison 2019, arXiv:1810.04152
    """

    def __call__(self, trace: Trace, step: Tensor) -> Tensor:
        log_weights, share = _log_weight_stopped(trace), self.share(step)
        fixed = log_weights.detach()
        grouped = fixed.unflatten(0, (self.groups, -1))
        normalised = torch.softmax(grouped, 1).flatten(0, 1)
        plain, alone = share / len(fixed), (1 - share) / self.groups
        to_parameters = plain + alone * normalised
        to_codes = plain + alone * normalised.square()
        ratio = to_codes / to_parameters.clamp_min(torch.finfo(fixed.dtype).tiny)
        for latent in trace.latents:
            _scale_gradient(latent, ratio)
        surrogate = -(to_parameters * log_weights).sum(0).mean()
        return self.of(fixed, share) + surrogate - surrogate.detach() + trace.penalty.mean()


def _log_weight_stopped(trace: Trace) -> Tensor:
    """log w (S, B) in which the posterior's parameters act through z alone."""
    total = trace.log_px
    for latent in trace.latents:
        total = total + latent.p.log_prob(latent.z) - log_q_stopped(latent)
    return total


def _scale_gradient(latent: Latent, factor: Tensor) -> None:
    """Multiply what a backward pass brings to z by `factor` (S, B)."""
    if latent.z.requires_grad:  # not in validation
        shaped = factor.reshape(*factor.shape, *(1,) * (latent.z.ndim - 2))
        latent.z.register_hook(lambda gradient: gradient * shaped)  # type: ignore[no-untyped-call]


def iwae(
    *,
    gradient: Literal["plain", "doubly"] = "plain",
    groups: Count = 1,
    elbo_share: Weight = 0.0,
) -> Objective:
    """Negative importance-weighted bound: scalar, nats per example, mean over the batch.

    -log 1/K Σ_k p(x, z_k) / q(z_k | x), K = training.samples. One sample gives the ELBO; the bound tightens with K.
    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519. Its plain gradient says less and less to the encoder as K
    grows; cures: `gradient=doubly` (DReG; Tucker et al. 2019, arXiv:1810.04152), `groups` M of K samples each, so
    training.samples = M K (MIWAE), and `elbo_share` β of the ELBO in the objective (CIWAE). Both are Rainforth et al.
    2018, arXiv:1802.04537

    Example:
        >>> import torch
        >>> from vaekit.models.build import vae
        >>> from vaekit.models.trace import log_weight
        >>> trace = vae((1, 8, 8))(torch.rand(4, 1, 8, 8).round(), samples=9)
        >>> bool(iwae()(trace, torch.tensor(0)) < -log_weight(trace).mean())
        True
    """
    doubly = gradient == "doubly"
    needs = Needs(latents=True, continuous=True, stopped=doubly, groups=groups)
    return (DoublyImportance if doubly else Importance)(groups, as_schedule(elbo_share), needs)
