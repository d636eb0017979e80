"""The contract: a model fills a `Trace`, an objective reads it, and neither imports the other.

Shapes: S samples, B batch, C H W image, D latent. Every term is in nats per example, summed over its event once.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.densities.codes import kl_of, kl_per_dim_of


class Latent(NamedTuple):
    """One group of latent variables."""

    z: Tensor  # (S, B, *event), drawn from q
    q: Distribution  # q(z_l | z_<l, x); batch (B,) where it depends on no sample, else (S, B)
    p: Distribution  # p(z_l | z_<l); batch () or (S, B)
    log_q: Tensor | None = None  # (S, B): log q(z), where it came with the drawing; see `log_q`
    log_q_stopped: Tensor | None = None  # (S, B): log q with its parameters stopped and z live, filled on request


class Trace(NamedTuple):
    """One pass over a batch; all that an objective may look at."""

    x: Tensor  # (B, C, H, W), float32 in [0, 1]: value k of b bits is k / (2^b - 1)
    latents: tuple[Latent, ...]  # flat VAE: one; top-down VAE: one per level; plain autoencoder: none
    px: Distribution  # p(x | z): batch (S, B), event = image shape
    log_px: Tensor  # (S, B), log p(x | z) in nats: computed once, read by the objective and by the log
    penalty: Tensor  # nats per example that the model itself owns (0 for most)


class Objective(Protocol):
    """(trace, step) -> scalar, nats per example, mean over the batch; lower is better.

    One with weights of its own (a discriminator, a multiplier) is a `vaekit.objectives.Learned`.
    """

    def __call__(self, trace: Trace, step: Tensor) -> Tensor: ...


def kl(latent: Latent) -> Tensor:
    """KL(q || p) in nats, (S, B) or broadcastable to it.

    Closed form where there is one, else the one-sample estimate log q(z) - log p(z).
    """
    closed = kl_of(latent.q, latent.p)
    return log_q(latent) - latent.p.log_prob(latent.z) if closed is None else closed


def log_q(latent: Latent) -> Tensor:
    """log q(z | x) of the drawn codes: (S, B), nats."""
    found: Tensor = latent.q.log_prob(latent.z) if latent.log_q is None else latent.log_q
    return found


def kl_per_dim(latent: Latent) -> Tensor:
    """KL(q || p) of each latent dimension in nats, (..., D). Only where q and p both factorise; else TypeError."""
    return kl_per_dim_of(latent.q, latent.p)


def log_weight(trace: Trace) -> Tensor:
    """log p(x, z) - log q(z | x) of every sample: (S, B), nats. Its log-mean-exp over S is the importance bound."""
    total = trace.log_px
    for latent in trace.latents:
        total = total + latent.p.log_prob(latent.z) - log_q(latent)
    return total


def distortion(trace: Trace) -> Tensor:
    """-log p(x | z): scalar, nats per example."""
    return -trace.log_px.mean()


def terms(trace: Trace) -> dict[str, Tensor]:
    """Scalars in nats per example, logged alike for every objective: distortion, rate, rate per level, elbo.

    Example:
        >>> import torch
        >>> from vaekit.models.build import vae
        >>> t = terms(vae((1, 8, 8))(torch.rand(4, 1, 8, 8).round()))
        >>> bool(torch.isclose(t["elbo"], -t["distortion"] - t["rate"]))
        True
    """
    rates = [kl(latent).mean() for latent in trace.latents]
    levels = {f"rate_{i}": rate for i, rate in enumerate(rates)} if len(rates) > 1 else {}
    rate = torch.stack(rates).sum() if rates else trace.x.new_zeros(())
    spent = distortion(trace)
    return {"distortion": spent, "rate": rate, **levels, "elbo": -spent - rate}
