"""Normal priors: standard, learned, and one for each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vaekit.densities.codes import DiagonalNormal, LatentDistribution
from vaekit.errors import ConfigError
from vaekit.models.posteriors import Event, Posterior
from vaekit.networks.trunks import Shape

# e^-7 of the unit that codes begin with is narrower than any decoder uses; wider than e^5 is an overflow to come.
PRIOR_LOG_SCALE = (-7.0, 5.0)


class Prior(nn.Module):
    """p(z | context). It is shown the posterior, because some priors are made of posteriors (VampPrior).

    Made from the event of a code, (D,) or (C, h, w), the shape of an image, and the number of classes that a context
    names (0 without).
    """

    factorises: ClassVar[bool] = False  # into dimensions, with a KL of each in closed form
    discrete: ClassVar[bool] = False  # over codes out of a finite set
    fixed: ClassVar[bool] = False  # nothing to learn
    of_class: ClassVar[bool] = False  # another density for each class of the context
    grids: ClassVar[bool] = False  # takes an event (C, h, w) too
    package: ClassVar[str | None] = None  # that it needs beside those of a plain install
    components = 0  # of a mixture: at most one for each training image

    def __init__(self, event: Event, shape: Shape, classes: int = 0) -> None:
        super().__init__()
        self.event, self.shape, self.classes = event, shape, classes

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> LatentDistribution:
        raise NotImplementedError

    def take(self, draw: Callable[[int], Tensor]) -> None:
        """What a new prior takes from the training set: `draw(count)` gives images (count, C, H, W). Most: nothing."""

    def of_places(self, p: LatentDistribution, places: tuple[int, ...]) -> LatentDistribution:
        """The same prior on a grid of other places (h, w). ConfigError where each place has numbers of its own."""
        size = "×".join(map(str, places))
        raise ConfigError(
            f"this prior is of {'×'.join(map(str, self.event[1:]))} places and has no others, so codes of {size} have "
            "none; give images of the size that it was trained on, or train with"
            " model.prior=standard, or learned with per: channel"
        )


class Fixed(Prior):
    """One with nothing to learn; `zeros`, of the event's shape, tell device and type."""

    fixed = True

    def __init__(self, event: Event, shape: Shape, classes: int = 0) -> None:
        super().__init__(event, shape, classes)
        self.register_buffer("zeros", torch.zeros(event), persistent=False)
        self.zeros: Tensor


class StandardNormal(Fixed):
    """N(0, I)."""

    factorises = True
    grids = True

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        return DiagonalNormal(self.zeros, self.zeros, len(self.event), validate_args=False)

    def of_places(self, p: LatentDistribution, places: tuple[int, ...]) -> DiagonalNormal:
        zeros = self.zeros.new_zeros(self.event[0], *places)
        return DiagonalNormal(zeros, zeros, 3, validate_args=False)


class LearnedNormal(Prior):
    """Normal with a learned mean and scale for each number of a code; starts standard.

    Of a grid `per: channel` learns one of each for a channel, the same at every place, so it has any number of places.
    """

    factorises = True
    grids = True

    def __init__(
        self, event: Event, shape: Shape, classes: int = 0, *, per: Literal["number", "channel"] = "number"
    ) -> None:
        super().__init__(event, shape, classes)
        self.per_channel = per == "channel"
        learned = (event[0], *(1 for _ in event[1:])) if self.per_channel else event
        self.loc, self.log_scale = nn.Parameter(torch.zeros(learned)), nn.Parameter(torch.zeros(learned))

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        return self._on(self.event[1:])

    def of_places(self, p: LatentDistribution, places: tuple[int, ...]) -> LatentDistribution:
        return self._on(places) if self.per_channel else super().of_places(p, places)

    def _on(self, places: tuple[int, ...]) -> DiagonalNormal:
        loc, log_scale = (t.expand(-1, *places) for t in (self.loc, self.log_scale.clamp(*PRIOR_LOG_SCALE)))
        return DiagonalNormal(loc, log_scale, len(self.event), validate_args=False)


class NormalPerClass(Prior):
    """A learned diagonal normal for each class of the context; all start standard."""

    factorises = True
    of_class = True
    grids = True

    def __init__(self, event: Event, shape: Shape, classes: int = 0) -> None:
        super().__init__(event, shape, classes)
        if classes < 1:
            raise ConfigError("a prior per class needs the classes: set model.context=class, or another model.prior")
        self.loc = nn.Parameter(torch.zeros(classes, *event))
        self.log_scale = nn.Parameter(torch.zeros(classes, *event))

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        assert context is not None  # the model has checked it
        log_scale = self.log_scale.clamp(*PRIOR_LOG_SCALE)
        return DiagonalNormal(self.loc[context], log_scale[context], len(self.event), validate_args=False)
