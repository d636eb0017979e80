"""The prior over a codebook."""

from __future__ import annotations

from torch import Tensor

from vaekit.densities.codebooks import UniformCodes
from vaekit.densities.codes import LatentDistribution
from vaekit.models.posteriors import Posterior, Quantiser
from vaekit.models.priors.normal import Prior


class Codes(Prior):
    """Uniform over the codebook of a quantised posterior."""

    discrete = True
    factorises = True
    fixed = True
    grids = True

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> UniformCodes:
        assert isinstance(posterior, Quantiser)  # a VAE refuses other pairs
        return UniformCodes(posterior.codebook, posterior.groups, posterior.nats_per_dim, self.event[1:])

    def of_places(self, p: LatentDistribution, places: tuple[int, ...]) -> UniformCodes:
        assert isinstance(p, UniformCodes)
        return UniformCodes(p.codebook, p.groups, p.nats_of_place, places)
