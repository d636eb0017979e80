"""A discriminator beside the model tells codes of the posterior from a reference, and the model is judged by it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.config.schedule_shapes import Schedule, Weight, as_schedule
from vaekit.config.schema import Count, Positive, Share
from vaekit.models.trace import Latent, Objective, Trace, distortion
from vaekit.objectives.evidence import rate
from vaekit.objectives.learned import Learned
from vaekit.objectives.matching import prior_draws
from vaekit.objectives.needs import Facts, Needs, only_group

SLOPE = 0.2  # of the leaky rectifiers, below 0


class Discriminator(nn.Module):
    """Codes (*lead, D) to log-odds (*lead) of being the posterior's and not the reference's.

    At its optimum they are log q(z) - log reference(z).
    """

    def __init__(self, latent_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [latent_dim, *widths, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, z: Tensor, stopped: bool = False) -> Tensor:
        """`stopped`: no gradient for the weights here; through them, for z."""
        for i, layer in enumerate(self.layers):
            weight, bias = layer.weight, layer.bias
            assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
            z = F.leaky_relu(z, SLOPE) if i else z
            z = F.linear(z, weight.detach(), bias.detach()) if stopped else F.linear(z, weight, bias)
        return z.squeeze(-1)


class Discriminated(Learned):
    """cost(trace) + strength * charge(log-odds of the codes) + penalty; the discriminator minimises cross-entropy."""

    def __init__(
        self,
        network: Discriminator,
        cost: Callable[[Trace], Tensor],
        charge: Callable[[Tensor], Tensor],
        reference: Callable[[Latent], Tensor],
        strength: Schedule,
        needs: Needs,
        *,
        learning_rate: float,
        betas: tuple[float, float],
    ) -> None:
        """`reference` draws the codes to be told from the posterior's, of the same shape."""
        super().__init__(needs, learning_rate, betas)
        self.network, self.cost, self.charge, self.reference, self.strength = network, cost, charge, reference, strength

    def forward(self, trace: Trace, step: Tensor) -> Tensor:
        latent = only_group(trace, "a discriminator of codes")
        charged = self.charge(self.network(latent.z.flatten(2), stopped=True)).mean()
        return self.cost(trace) + self.strength(step) * charged + trace.penalty.mean()

    def own_loss(self, trace: Trace) -> Tensor:
        latent = only_group(trace, "a discriminator of codes")
        codes, others = latent.z.detach().flatten(2), self.reference(latent).detach().flatten(2)
        return 0.5 * (F.softplus(-self.network(codes)).mean() + F.softplus(self.network(others)).mean())


def permuted(latent: Latent) -> Tensor:
    """The codes with each dimension shuffled over the batch by itself: drawn from the product of the marginals."""
    order = torch.rand(latent.z.shape, device=latent.z.device).argsort(1)
    return latent.z.gather(1, order)


def negative_elbo(trace: Trace) -> Tensor:
    """distortion + rate: scalar, nats per example, without the penalty."""
    return distortion(trace) + rate(trace)


def factor(
    facts: Facts,
    *,
    gamma: Weight = 10.0,
    widths: tuple[Count, ...] = (256, 256, 256),
    learning_rate: Positive = 1e-4,
    betas: tuple[Share, Share] = (0.5, 0.9),
) -> Objective:
    """Negative ELBO + gamma * total correlation, which a discriminator's log-odds estimate (FactorVAE).

    It tells codes from codes whose dimensions are shuffled. Learning rate and betas are the discriminator's.
    Kim & Mnih 2018, arXiv:1802.05983
    """
    return Discriminated(
        Discriminator(facts.latent_dim, widths),
        negative_elbo,
        lambda log_odds: log_odds,
        permuted,
        as_schedule(gamma),
        Needs(latents=True, continuous=True, coupled=True, flat=True, one_group=True),
        learning_rate=learning_rate,
        betas=betas,
    )


def adversarial(
    facts: Facts,
    *,
    strength: Weight = 10.0,
    widths: tuple[Count, ...] = (256, 256, 256),
    learning_rate: Positive = 1e-4,
    betas: tuple[Share, Share] = (0.5, 0.9),
) -> Objective:
    """distortion + strength * (-log of the probability that a discriminator gives the codes of being the prior's).

    No rate: all codes together are to look like the prior's. Learning rate and betas are the discriminator's.
    Makhzani et al. 2015, arXiv:1511.05644
    """
    return Discriminated(
        Discriminator(facts.latent_dim, widths),
        distortion,
        F.softplus,
        prior_draws,
        as_schedule(strength),
        Needs(latents=True, continuous=True, fixed_prior=True, one_group=True),
        learning_rate=learning_rate,
        betas=betas,
    )
