"""What everything above asks of a model, whatever its latents are like."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.densities.codes import LatentDistribution
from vaekit.densities.noise import Noise, generator_noise
from vaekit.errors import ConfigError
from vaekit.models.layout import Codes, Layout
from vaekit.models.likelihoods import Likelihood
from vaekit.models.trace import Latent, Trace

Draw = Callable[[int], Tensor]  # (count) -> training images (count, C, H, W) as the model sees them


class Model(nn.Module):
    """Images to a `Trace`, and codes to images. Subclasses are final: they say what their latents are.

    Codes are a tuple with one tensor (*lead, *event) for each group, coarsest first.
    """

    has_prior: ClassVar[bool] = True
    has_posterior: ClassVar[bool] = True
    likelihood: Likelihood
    layout: Layout
    classes: int = 0
    components: int = 0  # of a mixture as the prior: at most one for each training image
    given: Tensor | None = None  # the class, int64 (1,), of every image for which a call names none

    # What a subclass says

    def encoded(self, x: Tensor, context: Tensor | None = None) -> Any:
        """What an image says of its codes before any is drawn: made once for a batch, however many samples follow."""
        raise NotImplementedError

    def noise_shapes(self, encoded: Any) -> tuple[torch.Size, ...]:
        """Of the standard-normal noise behind one draw of each group."""
        raise NotImplementedError

    def infer(
        self, encoded: Any, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False
    ) -> tuple[Latent, ...]:
        """Codes drawn from the posterior, group by group, with q and p of each. `stopped` also fills log_q_stopped."""
        raise NotImplementedError

    def trace(self, encoded: Any, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False) -> Trace:
        """The pass from what was encoded on."""
        raise NotImplementedError

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """The codes that stand for images, without noise, each (B, *event): means, given the means above."""
        raise NotImplementedError

    def draw(
        self,
        count: int,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
        context: Tensor | None = None,
        places: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, ...]:
        """`count` codes of the prior, group after group, each (count, *event); the temperature multiplies spreads.

        `places` (h, w), where the one group is a grid, are others than those that the model was made with.
        """
        raise NotImplementedError

    def decode(
        self,
        codes: Codes,
        context: Tensor | None = None,
        *,
        count: int | None = None,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
    ) -> Distribution:
        """p(x | z) for codes (*lead, *event). A group that is None is drawn from its prior given the groups above.

        The temperature multiplies the spread of what is drawn: 0 gives the prior's mean (of a mixture that of the
        component which the noise chooses). `count` is how many to draw where no group is given. ConfigError without.
        """
        raise NotImplementedError

    def centre(self, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """The codes of the prior's mean, each (*batch, *event): what is decoded where nothing is known of an image."""
        raise NotImplementedError

    # What follows from it

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
        return self.trace(self.encoded(x, context), samples, noise, stopped=stopped)

    def generate(
        self,
        count: int,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
        context: Tensor | None = None,
    ) -> Distribution:
        """p(x | z) for `count` codes from the prior, whose spread is multiplied by the temperature."""
        nothing = (None,) * len(self.layout.groups)
        return self.decode(nothing, context, count=count, noise=noise, temperature=temperature)

    @property
    def one_group(self) -> bool:
        """Whether the latents are one group, so that q(z | x) and p(z) can be had alone."""
        return self.has_posterior and len(self.layout.groups) == 1

    def q(self, x: Tensor, context: Tensor | None = None) -> LatentDistribution:
        """q(z | x) of a model with one group: batch (B,). ConfigError for others."""
        raise ConfigError(self._without("a posterior"))

    def p(self, context: Tensor | None = None) -> LatentDistribution:
        """p(z) of a model with one group: batch (), or (B,) where it depends on the context. ConfigError for others."""
        raise ConfigError(self._without("a prior"))

    def p_of_classes(self) -> LatentDistribution:
        """p(z) of the class that is given, or of each class (batch () where it is the same for all)."""
        if not self.classes or self.given is not None:
            return self.p()
        return self.p(torch.arange(self.classes, device=next(self.parameters()).device))

    def _without(self, part: str) -> str:
        if not self.has_prior:
            return f"an autoencoder has no posterior and no prior; train a model with model.kind=vae to have {part}"
        return f"this model has {len(self.layout.groups)} groups of latents, of which none has {part} by itself"

    def checked(self, context: Tensor | None) -> Tensor | None:
        """The labels, or the given class. ConfigError unless they are there just where the model was made for them."""
        context = self.given if context is None else context
        if (context is not None) != (self.classes > 0):
            made = (
                f"conditional on {self.classes} classes: give the label of each image (--given CLASS)"
                if self.classes
                else "not conditional: give no labels"
            )
            raise ConfigError(f"this model is {made}")
        return context

    def adopt(self, draw: Draw) -> None:
        """Let a new model's prior take the training images that it begins with. Most take none."""

    def restart(self, draw: Draw) -> dict[str, Tensor]:
        """Put codes that no training image uses where images are: parameter → rows that were moved. Most have none."""
        return {}

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Let the likelihood fix what it estimates from (x, context) of the training set; codes are posterior means."""
        self.likelihood.calibrate((x, self.decode(self.encode(x, context), context).mean) for x, context in batches)
