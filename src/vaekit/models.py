"""Images to a `Trace`. Two classes, not one per paper: a method is a choice of parts and an objective."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.conditionals import Conditional, Likelihood, NetworkFor, Posterior
from vaekit.data.dataset import Dataset
from vaekit.distributions import LatentDistribution
from vaekit.errors import ConfigError
from vaekit.noise import Noise, generator_noise
from vaekit.priors import Prior
from vaekit.trace import Latent, Trace


class VAE(nn.Module):
    """One group of latents: x -> q(z | x) -> z -> p(x | z). Kingma & Welling 2014, arXiv:1312.6114

    With `classes`, every part is given the class of its image: the `context`, int64 (B,). Sohn, Lee & Yan 2015
    (NeurIPS), Learning structured output representation using deep conditional generative models.
    """

    has_latents = True

    def __init__(self, prior: Prior, posterior: Posterior, likelihood: Likelihood, classes: int = 0) -> None:
        super().__init__()
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
        z, log_q = q.drawn(noise(0, torch.Size((samples, *q.batch_shape, *q.noise_shape)), q.mean))
        log_q_stopped = q.detach().log_prob(z) if stopped else None
        px = self.decode(z, context)
        return Trace(x, (Latent(z, q, p, log_q, log_q_stopped),), px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The posterior mean: (B, D)."""
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
        drawn = noise(0, torch.Size((1, count, *p.noise_shape)), p.mean)[0]
        return self.decode(p.from_noise(drawn, temperature), context)

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Let the likelihood fix what it estimates from (x, context) of the training set; codes are posterior means."""
        self.likelihood.calibrate((x, self.decode(self.encode(x, context), context).mean) for x, context in batches)


class Encoder(Conditional):
    """Images to codes, without probability."""

    def __init__(self, network_for: NetworkFor, latent_dim: int) -> None:
        super().__init__(network_for(latent_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.parameters_of(2 * x - 1)


def corrupted(x: Tensor, kind: str, level: float) -> Tensor:
    """x with noise: normal of standard deviation `level`, or that share of pixels set to 0 or to 0/1."""
    if kind == "gaussian":
        return x + level * torch.randn_like(x)
    if kind == "mask":
        return x * (torch.rand_like(x) >= level)
    if kind == "salt":
        return torch.where(torch.rand_like(x) < level, torch.rand_like(x).round(), x)
    return x


class Autoencoder(nn.Module):
    """The plain or denoising autoencoder that VAEs are compared with: no latents, so rate 0 and no prior samples.

    While training, the input is corrupted and the clean image is the target. Vincent et al. 2010, JMLR 11.
    """

    has_latents = False
    classes = 0

    def __init__(
        self,
        encoder: Encoder,
        likelihood: Likelihood,
        corruption: Literal["none", "gaussian", "mask", "salt"] = "none",
        level: float = 0.3,
    ) -> None:
        super().__init__()
        self.encoder, self.likelihood = encoder, likelihood
        self.corruption, self.level = corruption, level

    def corrupt(self, x: Tensor) -> Tensor:
        """The input with the noise that it is trained to remove."""
        return corrupted(x, self.corruption, self.level)

    def forward(
        self,
        x: Tensor,
        samples: int = 1,
        noise: Noise = generator_noise,
        context: Tensor | None = None,
        *,
        stopped: bool = False,
    ) -> Trace:
        """One pass; `samples`, `noise` and `context` have nothing to act on."""
        code = self.encoder(self.corrupt(x) if self.training else x)
        px = self.likelihood(code.unsqueeze(0))
        return Trace(x, (), px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The code: (B, D)."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x | z) for codes (*lead, D)."""
        px: Distribution = self.likelihood(z)
        return px

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """As in the VAE."""
        self.likelihood.calibrate((x, self.likelihood(self.encode(x)).mean) for x, _ in batches)


Model = VAE | Autoencoder


def context_of(model: Model, dataset: Dataset, start: int, count: int) -> Tensor | None:
    """The labels of images start … of a data set for a conditional model, None for others.

    Images without labels are left to the class that the model is `given`.
    """
    if not model.classes or dataset.labels is None:
        return None
    return dataset.context(next(model.parameters()).device, start, count)
