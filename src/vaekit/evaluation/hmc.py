"""Hamiltonian Monte Carlo on a geometric path of densities, many images and chains at once.

Duane et al. 1987; Neal 2011, arXiv:1206.1901. Shapes: S chains, B images, D latent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ACCEPTANCE = 0.65  # what step sizes are adapted to: near the optimum in many dimensions. Beskos et al. 2013
ADAPTATION = 0.2  # of log(step) for each unit of acceptance above it
STEPS = (1e-6, 10.0)
JITTER = 0.2  # of the step, drawn for each trajectory: a fixed length can be a period of the target, and go nowhere
EXTRA_NOISE = 2  # numbers of a transition beside the momentum: its jitter, and whether it is accepted


class State(NamedTuple):
    """Where chains are, and log f_beta = base + beta * gain and its slope there."""

    z: Tensor  # (S, B, D)
    base: Tensor  # (S, B), nats
    gain: Tensor  # (S, B), nats
    base_slope: Tensor  # (S, B, D)
    gain_slope: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log f_beta: (S, B), nats, float64."""
        return self.base.double() + beta * self.gain.double()

    def slope(self, beta: float) -> Tensor:
        """The gradient of log f_beta: (S, B, D)."""
        return self.base_slope + beta * self.gain_slope


class Moved(NamedTuple):
    """Chains after a transition, and the probability with which each was to be moved."""

    state: State
    acceptance: Tensor  # (S, B)


def transition(
    at: Callable[[Tensor], State], state: State, beta: float, step: Tensor, noise: Tensor, leapfrogs: int
) -> Moved:
    """One trajectory of `leapfrogs` steps for each chain; leaves f_beta invariant.

    step: (B,). noise: standard normal (S, B, D + 2). A trajectory that leaves the finite numbers is rejected. The
    momentum is drawn anew each time, so that it need not be negated at the end.
    """
    momentum, extra = noise[..., :-EXTRA_NOISE], noise[..., -EXTRA_NOISE:]
    size = (step * (1 - JITTER + 2 * JITTER * torch.special.ndtr(extra[..., 0])))[..., None]
    before = state.log_density(beta) - _kinetic(momentum)
    velocity, proposed = momentum + 0.5 * size * state.slope(beta), state
    for leap in range(leapfrogs):
        proposed = at(proposed.z + size * velocity)
        velocity = velocity + (size if leap < leapfrogs - 1 else 0.5 * size) * proposed.slope(beta)
    log_ratio = (proposed.log_density(beta) - _kinetic(velocity) - before).nan_to_num(-torch.inf, posinf=-torch.inf)
    accepted = torch.special.log_ndtr(extra[..., 1]) < log_ratio  # the logarithm of a uniform number
    new = State(*(_where(accepted, a, b) for a, b in zip(proposed, state, strict=True)))
    return Moved(new, log_ratio.clamp_max(0).exp())


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(-1)


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted[..., None] if new.ndim > accepted.ndim else accepted, new, old)


def adapted(step: Tensor, acceptance: Tensor) -> Tensor:
    """The step (B,) after trajectories with this acceptance (S, B). Only for chains that no estimate is made of."""
    return (step * torch.exp(ADAPTATION * (acceptance.mean(0) - ACCEPTANCE)).to(step)).clamp(*STEPS)
