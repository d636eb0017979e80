"""What an objective asks of the trace and of the run, and what it may be told of the run."""

from __future__ import annotations

from typing import NamedTuple

from vaekit.models.trace import Objective


class Needs(NamedTuple):
    """The attribute `needs` of an objective that asks for more than any model gives."""

    latents: bool = False  # q(z | x) and p(z): not an autoencoder's
    continuous: bool = False  # codes that move smoothly with the posterior's parameters, and their density
    stopped: bool = False  # log q with its parameters stopped: `Latent.log_q_stopped`
    factorised: bool = False  # a posterior with independent dimensions
    fixed_prior: bool = False  # one without weights, which would get no gradient
    coupled: bool = False  # a term that couples the images of a batch: a part of the batch gives another one
    groups: int = 1  # that the samples of an image are divided into


NOTHING = Needs()


class Facts(NamedTuple):
    """Of the run: the first parameter, annotated so, of an objective that depends on them. Not options."""

    images: int  # to train on
    latent_dim: int


def needs_of(objective: Objective) -> Needs:
    """What it asks for; a plain function asks for nothing.

    Example:
        >>> from vaekit.objectives import elbo
        >>> needs_of(elbo(estimator="stl")).stopped, needs_of(lambda trace, step: trace.log_px.mean()).stopped
        (True, False)
    """
    needs: Needs = getattr(objective, "needs", NOTHING)
    return needs
