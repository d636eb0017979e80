"""Normal priors: standard, learned, and one for each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaekit.densities.codes import DiagonalNormal, LatentDistribution
from vaekit.errors import ConfigError
from vaekit.models.posteriors import Posterior
from vaekit.networks.trunks import Shape

# e^-7 of the unit that codes begin with is narrower than any decoder uses; wider than e^5 is an overflow to come.
PRIOR_LOG_SCALE = (-7.0, 5.0)


class Prior(nn.Module):
    """p(z | context). It is shown the posterior, because some priors are made of posteriors (VampPrior).

    Made from the length of a code, the shape of an image, and the number of classes that a context names (0 without).
    """

    factorises: ClassVar[bool] = False  # into dimensions, with a KL of each in closed form
    discrete: ClassVar[bool] = False  # over codes out of a finite set
    fixed: ClassVar[bool] = False  # nothing to learn
    of_class: ClassVar[bool] = False  # another density for each class of the context
    components = 0  # of a mixture: at most one for each training image

    def __init__(self, latent_dim: int, shape: Shape, classes: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.shape, self.classes = latent_dim, shape, classes

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> LatentDistribution:
        raise NotImplementedError

    def take(self, draw: Callable[[int], Tensor]) -> None:
        """What a new prior takes from the training set: `draw(count)` gives images (count, C, H, W). Most: nothing."""


class StandardNormal(Prior):
    """N(0, I)."""

    factorises = True
    fixed = True

    def __init__(self, latent_dim: int, shape: Shape, classes: int = 0) -> None:
        super().__init__(latent_dim, shape, classes)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.zeros: Tensor

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        return DiagonalNormal(self.zeros, self.zeros, validate_args=False)


class LearnedNormal(Prior):
    """Normal with a learned mean and scale for each dimension; starts standard."""

    factorises = True

    def __init__(self, latent_dim: int, shape: Shape, classes: int = 0) -> None:
        super().__init__(latent_dim, shape, classes)
        self.loc, self.log_scale = nn.Parameter(torch.zeros(latent_dim)), nn.Parameter(torch.zeros(latent_dim))

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.log_scale.clamp(*PRIOR_LOG_SCALE), validate_args=False)


class NormalPerClass(Prior):
    """A learned diagonal normal for each class of the context; all start standard."""

    factorises = True
    of_class = True

    def __init__(self, latent_dim: int, shape: Shape, classes: int = 0) -> None:
        super().__init__(latent_dim, shape, classes)
        if classes < 1:
            raise ConfigError("a prior per class needs the classes: set model.context=class, or another model.prior")
        self.loc = nn.Parameter(torch.zeros(classes, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(classes, latent_dim))

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> DiagonalNormal:
        assert context is not None  # the model has checked it
        log_scale = self.log_scale.clamp(*PRIOR_LOG_SCALE)
        return DiagonalNormal(self.loc[context], log_scale[context], validate_args=False)
