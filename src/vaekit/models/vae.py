"""The model with one group of latents. Not a class per paper: a method is a choice of parts and an objective."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.densities.codes import LatentDistribution
from vaekit.densities.noise import Noise, generator_noise
from vaekit.errors import ConfigError
from vaekit.models.layout import Codes, as_layout
from vaekit.models.likelihoods import Likelihood
from vaekit.models.model import Draw, Model
from vaekit.models.posteriors import Posterior
from vaekit.models.priors import Prior
from vaekit.models.trace import Latent, Trace


class Encoded(NamedTuple):
    """A batch of images, and what does not change with the sample."""

    x: Tensor
    q: LatentDistribution
    p: LatentDistribution
    context: Tensor | None = None


class VAE(Model):
    """One group of latents: x -> q(z | x) -> z -> p(x | z). Kingma & Welling 2014, arXiv:1312.6114

    Its code is a vector (D,) or a small image (C, h, w). With `classes`, every part is given the class of its image:
    the `context`, int64 (B,). Sohn, Lee & Yan 2015 (NeurIPS), Learning structured output representation using deep
    conditional generative models.
    """

    def __init__(self, prior: Prior, posterior: Posterior, likelihood: Likelihood, classes: int = 0) -> None:
        super().__init__()
        if prior.discrete != posterior.discrete:  # a density and a mass cannot be compared
            raise ConfigError("a quantised posterior (vq, fsq) and the prior codes go together, and only together")
        self.prior, self.posterior, self.likelihood, self.classes = prior, posterior, likelihood, classes
        self.layout, self.components = as_layout([posterior.event]), prior.components

    def q(self, x: Tensor, context: Tensor | None = None) -> LatentDistribution:
        q: LatentDistribution = self.posterior(x, self.checked(context))
        return q

    def p(self, context: Tensor | None = None, places: tuple[int, ...] | None = None) -> LatentDistribution:
        """p(z): batch (), or (B,) where it depends on the context; of a grid, also on other `places` (h, w)."""
        p: LatentDistribution = self.prior(self.posterior, self.checked(context))
        return p if places is None or places == tuple(p.event_shape[1:]) else self.prior.of_places(p, places)

    def encoded(self, x: Tensor, context: Tensor | None = None) -> Encoded:
        q = self.q(x, context)
        return Encoded(x, q, self.p(context, tuple(q.event_shape[1:])), context)

    def noise_shapes(self, encoded: Encoded) -> tuple[torch.Size, ...]:
        return (encoded.q.noise_shape,)

    def infer(
        self, encoded: Encoded, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False
    ) -> tuple[Latent, ...]:
        x, q, p, _ = encoded
        z, log_q = q.drawn(noise(0, torch.Size((samples, *q.batch_shape, *q.noise_shape)), x))
        return (Latent(z, q, p, log_q, q.detach().log_prob(z) if stopped else None),)

    def trace(
        self, encoded: Encoded, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False
    ) -> Trace:
        x, q, _, context = encoded
        latents = self.infer(encoded, samples, noise, stopped=stopped)
        px = self.decode((latents[0].z,), context)
        penalty = x.new_zeros(()) if q.penalty is None else q.penalty
        return Trace(x, latents, px, px.log_prob(x), penalty)

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """The mean of q(z | x), unless q is a flow."""
        return (self.q(x, context).mean,)

    def draw(
        self,
        count: int,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
        context: Tensor | None = None,
        places: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, ...]:
        p = self.p(context, places)
        drawn = noise(0, torch.Size((1, count, *p.noise_shape)), p.like)[0]
        return (p.from_noise(drawn, temperature),)

    def decode(
        self,
        codes: Codes,
        context: Tensor | None = None,
        *,
        count: int | None = None,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
    ) -> Distribution:
        (z,) = codes
        if z is None:
            if count is None:
                raise ConfigError("no group of codes is given, so it is not known how many to draw; give a count")
            (z,) = self.draw(count, noise, temperature, context)
        px: Distribution = self.likelihood(z, self.checked(context))
        return px

    def centre(self, context: Tensor | None = None) -> tuple[Tensor, ...]:
        return (self.p(context).mean,)

    def adopt(self, draw: Draw) -> None:
        self.prior.take(draw)

    def restart(self, draw: Draw) -> dict[str, Tensor]:
        return {f"posterior.{name}": rows for name, rows in self.posterior.restart(draw).items()}
