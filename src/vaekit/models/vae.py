"""Images to a `Trace`. Two classes, not one per paper: a method is a choice of parts and an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.densities.codes import LatentDistribution
from vaekit.densities.noise import Noise, generator_noise
from vaekit.errors import ConfigError
from vaekit.models.likelihoods import Likelihood
from vaekit.models.posteriors import Posterior
from vaekit.models.priors import Prior
from vaekit.models.trace import Latent, Trace


class VAE(nn.Module):
    """One group of latents: x -> q(z | x) -> z -> p(x | z). Kingma & Welling 2014, arXiv:1312.6114

    With `classes`, every part is given the class of its image: the `context`, int64 (B,). Sohn, Lee & Yan 2015
    (NeurIPS), Learning structured output representation using deep conditional generative models.
    """

    has_latents = True

    def __init__(self, prior: Prior, posterior: Posterior, likelihood: Likelihood, classes: int = 0) -> None:
        super().__init__()
        if prior.discrete != posterior.discrete:  # a density and a mass cannot be compared
            raise ConfigError("a quantised posterior (vq, fsq) and the prior codes go together, and only together")
        self.prior, self.posterior, self.likelihood, self.classes = prior, posterior, likelihood, classes
        self.given: Tensor | None = None  # the class, int64 (1,), of every image for which a call names none

    def q(self, x: Tensor, context: Tensor | None = None) -> LatentDistribution:
        """q(z | x): batch (B,)."""
        q: LatentDistribution = self.posterior(x, self._checked(context))
        return q

    def p(self, context: Tensor | None = None) -> LatentDistribution:
        """p(z): batch (), or (B,) where it depends on the context."""
        p: LatentDistribution = self.prior(self.posterior, self._checked(context))
        return p

    def p_of_classes(self) -> LatentDistribution:
        """p(z) of the class that is given, or of each class (batch () where it is the same for all)."""
        if not self.classes or self.given is not None:
            return self.p()
        return self.p(torch.arange(self.classes, device=next(self.parameters()).device))

    def _checked(self, context: Tensor | None) -> Tensor | None:
        """ConfigError unless a context is there exactly where the model was made for one."""
        context = self.given if context is None else context
        if (context is not None) != (self.classes > 0):
            made = (
                f"conditional on {self.classes} classes: give the label of each image (--given CLASS)"
                if self.classes
                else "not conditional: give no labels"
            )
            raise ConfigError(f"this model is {made}")
        return context

    def forward(
        self,
        x: Tensor,
        samples: int = 1,
        noise: Noise = generator_noise,
        context: Tensor | None = None,
        *,
        stopped: bool = False,
    ) -> Trace:
        """One pass: x (B, C, H, W) in [0, 1] with `samples` codes each. `stopped` also fills log_q_stopped."""
        return self.trace(x, self.q(x, context), self.p(context), samples, noise, context, stopped=stopped)

    def trace(
        self,
        x: Tensor,
        q: LatentDistribution,
        p: LatentDistribution,
        samples: int,
        noise: Noise,
        context: Tensor | None = None,
        *,
        stopped: bool = False,
    ) -> Trace:
        """The pass from q(z | x) and p(z) on, so that an evaluation with many samples makes them once."""
        z, log_q = q.drawn(noise(0, torch.Size((samples, *q.batch_shape, *q.noise_shape)), x))
        log_q_stopped = q.detach().log_prob(z) if stopped else None
        px = self.decode(z, context)
        penalty = x.new_zeros(()) if q.penalty is None else q.penalty
        return Trace(x, (Latent(z, q, p, log_q, log_q_stopped),), px, px.log_prob(x), penalty)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The code that stands for an image, without noise: (B, D). The mean of q(z | x), unless q is a flow."""
        return self.q(x, context).mean

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x | z) for codes (*lead, D)."""
        px: Distribution = self.likelihood(z, self._checked(context))
        return px

    def generate(
        self,
        count: int,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
        context: Tensor | None = None,
    ) -> Distribution:
        """p(x | z) for `count` codes from the prior, whose spread is multiplied by the temperature."""
        p = self.p(context)
        drawn = noise(0, torch.Size((1, count, *p.noise_shape)), p.like)[0]
        return self.decode(p.from_noise(drawn, temperature), context)

    def adopt(self, draw: Callable[[int], Tensor]) -> None:
        """Let a new prior take the training images that it begins with: `draw(count)` gives (count, C, H, W)."""
        self.prior.take(draw)

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Let the likelihood fix what it estimates from (x, context) of the training set; codes are posterior means."""
        self.likelihood.calibrate((x, self.decode(self.encode(x, context), context).mean) for x, context in batches)
