"""What an objective asks of the trace and of the run, and what it may be told of the run."""

from __future__ import annotations

from typing import NamedTuple

from vaekit.errors import ConfigError
from vaekit.models.trace import Latent, Objective, Trace


class Needs(NamedTuple):
    """The attribute `needs` of an objective that asks for more than any model gives."""

    latents: bool = False  # q(z | x) and p(z): not an autoencoder's
    continuous: bool = False  # codes that move smoothly with the posterior's parameters, and their density
    stopped: bool = False  # log q with its parameters stopped: `Latent.log_q_stopped`
    factorised: bool = False  # a posterior with independent dimensions
    fixed_prior: bool = False  # one without weights, which would get no gradient
    flat: bool = False  # codes whose single numbers mean something: not a grid's
    one_group: bool = False  # of latents: the prior of a group below another is not the prior
    coupled: bool = False  # a term that couples the images of a batch: a part of the batch gives another one
    groups: int = 1  # that the samples of an image are divided into


NOTHING = Needs()


class Facts(NamedTuple):
    """Of the run: the first parameter, annotated so, of an objective that depends on them. Not options."""

    images: int  # to train on
    latent_dim: int  # numbers of a code, all groups together


def needs_of(objective: Objective) -> Needs:
    """What it asks for; a plain function asks for nothing.

    Example:
        >>> from vaekit.objectives import elbo
        >>> needs_of(elbo(estimator="stl")).stopped, needs_of(lambda trace, step: trace.log_px.mean()).stopped
        (True, False)
    """
    needs: Needs = getattr(objective, "needs", NOTHING)
    return needs


def only_group(trace: Trace, what: str) -> Latent:
    """The one group of latents of a trace. ConfigError where there are several.

    The posterior of a group below another depends on the codes drawn above it, so the batch's posteriors have no mean
    that would be the aggregate posterior, and the prior given those codes is not the prior.
    """
    if len(trace.latents) != 1:
        raise ConfigError(
            f"{what} is of one group of latents and this model has {len(trace.latents)}; choose objective=elbo, iwae, "
            "capacity or geco"
        )
    return trace.latents[0]
