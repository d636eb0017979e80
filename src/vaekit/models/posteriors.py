"""q(z | x): networks that return a distribution of codes, batch (B,).

The keyword-only parameters of a class are its options in a config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from vaekit.config.schema import Count, NotNegative
from vaekit.densities.codebooks import Quantised, nearest
from vaekit.densities.codes import DiagonalNormal, LatentDistribution
from vaekit.densities.flows import FlowNormal, InverseFlowNormal, MaskedFlowNormal, MaskedNetwork
from vaekit.errors import ConfigError
from vaekit.models.likelihoods import Conditional, NetworkFor

# A posterior narrower than e^-10 of the prior's unit is a float32 artefact; wider than e^5, an overflow to come.
POSTERIOR_LOG_SCALE = (-10.0, 5.0)
MOST_CODES = 65536  # of a group of `fsq`, whose rows are listed: more wants further groups

Widths = Annotated[tuple[Count, ...], "one entry per hidden layer of a flow"]
Levels = Annotated[tuple[Count, ...], "how many values each number of a group can take"]


class Posterior(Conditional):
    """q(z | x): images (B, C, H, W) in [0, 1] to a distribution of batch (B,)."""

    factorises: ClassVar[bool] = True  # into independent dimensions, each with a KL of its own
    discrete: ClassVar[bool] = False  # codes out of a finite set

    def forward(self, x: Tensor, context: Tensor | None = None) -> LatentDistribution:
        raise NotImplementedError

    def parameters_of(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        return super().parameters_of(2 * given - 1, context)  # networks like inputs around zero


class DiagonalGaussian(Posterior):
    """Normal with independent dimensions. Kingma & Welling 2014, arXiv:1312.6114"""

    def __init__(self, network_for: NetworkFor, latent_dim: int) -> None:
        super().__init__(network_for(2 * latent_dim))

    def forward(self, x: Tensor, context: Tensor | None = None) -> DiagonalNormal:
        loc, log_scale = self.parameters_of(x, context).chunk(2, dim=-1)
        return DiagonalNormal(loc, log_scale.clamp(*POSTERIOR_LOG_SCALE), validate_args=False)


# Flows


class Flow(Posterior):
    """A diagonal normal bent by autoregressive maps, which see the image through `context` numbers of the encoder.

    Starts as the diagonal normal. The order of the dimensions turns round from one map to the next. The maps run in
    float32 whatever the precision of the encoder: they are part of the density.
    """

    factorises = False
    family: ClassVar[type[FlowNormal]]

    def __init__(
        self,
        network_for: NetworkFor,
        latent_dim: int,
        *,
        transforms: Count = 2,
        widths: Widths = (128,),
        context: Count = 32,
    ) -> None:
        super().__init__(network_for(2 * latent_dim + context))
        self.latent_dim = latent_dim
        self.maps = nn.ModuleList(
            MaskedNetwork(latent_dim, context, widths, reverse=i % 2 == 1) for i in range(transforms)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> FlowNormal:
        found = self.parameters_of(x, context)
        loc, log_scale, h = found.tensor_split((self.latent_dim, 2 * self.latent_dim), dim=-1)
        maps = tuple(network(h) for network in self.maps)
        return self.family(loc, log_scale.clamp(*POSTERIOR_LOG_SCALE), maps)


class InverseAutoregressive(Flow):
    """Inverse autoregressive flow: codes and their densities in one pass. arXiv:1606.04934"""

    family = InverseFlowNormal


class MaskedAutoregressive(Flow):
    """Masked autoregressive flow: any code's density in one pass, drawing in latent_dim passes. arXiv:1705.07057"""

    family = MaskedFlowNormal


# Codes out of a finite set


class Quantiser(Posterior):
    """The encoder's numbers, in groups, each replaced by a row of a codebook; gradients pass straight through.

    For the prior `codes`: uniform over the rows, so the rate is the constant groups * log(codes).
    """

    discrete = True
    groups: int
    codebook: Tensor  # (codes, latent_dim / groups): the rows that every group chooses from
    nats_per_dim: Tensor  # (latent_dim,): the rate of each number

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantised:
        raise NotImplementedError


class VectorQuantised(Quantiser):
    """The nearest of learned vectors. van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937

    The penalty moves the vectors to the encodings by their squared distance, and with the weight `commitment` the
    encodings to the vectors. A squared distance counts as nats: those of a normal of variance 1/2 around the vector.
    Vectors are learned by gradient; there are no moving averages, and unused vectors are not put elsewhere.
    """

    def __init__(
        self,
        network_for: NetworkFor,
        latent_dim: int,
        *,
        codes: Count = 256,
        groups: Count = 4,
        commitment: NotNegative = 0.25,
    ) -> None:
        super().__init__(network_for(latent_dim))
        if latent_dim % groups:
            raise ConfigError(f"{latent_dim} latent dimensions do not make {groups} equal groups; change one of them")
        self.groups, self.commitment = groups, commitment
        dims = latent_dim // groups
        self.codebook = nn.Parameter(torch.randn(codes, dims))
        self.register_buffer("nats_per_dim", torch.full((latent_dim,), math.log(codes) / dims), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantised:
        encoded = self.parameters_of(x, context).unflatten(-1, (self.groups, -1))
        index = nearest(encoded, self.codebook)
        codes = self.codebook[index]
        penalty = (codes - encoded.detach()).square() + self.commitment * (encoded - codes.detach()).square()
        z = codes.detach() + (encoded - encoded.detach())  # this order: the value is the code, bit for bit
        return Quantised(z.flatten(-2), index, penalty.sum((-2, -1)))


class FiniteScalar(Quantiser):
    """Each number rounded to one of a few values, evenly spaced from -1 to 1: no codebook to learn or to collapse.

    `levels` are the counts of values within a group, which is as long. Mentzer, Minnen, Agustsson & Tschannen 2023,
    arXiv:2309.15505
    """

    def __init__(self, network_for: NetworkFor, latent_dim: int, *, levels: Levels = (8, 5, 5, 5)) -> None:
        super().__init__(network_for(latent_dim))
        if not levels or min(levels) < 2:
            raise ConfigError(f"levels {list(levels)}: each number needs 2 values or more")
        if latent_dim % len(levels):
            raise ConfigError(
                f"{latent_dim} latent dimensions are not a multiple of the {len(levels)} levels; change one of them"
            )
        if math.prod(levels) > MOST_CODES:
            raise ConfigError(f"{math.prod(levels)} codes in a group; shorten levels to have {MOST_CODES} or fewer")
        self.groups = latent_dim // len(levels)
        counts = torch.tensor(levels)
        self.register_buffer("codebook", _rows(levels), persistent=False)
        self.register_buffer("levels", counts.float().repeat(self.groups), persistent=False)
        self.register_buffer("strides", counts.cumprod(0) // counts, persistent=False)
        self.register_buffer("nats_per_dim", counts.float().log().repeat(self.groups), persistent=False)
        self.levels: Tensor
        self.strides: Tensor

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantised:
        # every value gets an equal share of (-1/2, levels - 1/2), whose ends a sigmoid may round to
        place = self.levels * torch.sigmoid(self.parameters_of(x, context)) - 0.5
        rounded = torch.minimum(place.detach().round(), self.levels - 1)
        z = (rounded + (place - place.detach())) * (2 / (self.levels - 1)) - 1
        index = (rounded.unflatten(-1, (self.groups, -1)).long() * self.strides).sum(-1)
        return Quantised(z, index)


def _rows(levels: Sequence[int]) -> Tensor:
    """Every combination of values, (codes, len(levels)); the first number runs fastest."""
    values = [torch.arange(count) * (2 / (count - 1)) - 1 for count in reversed(levels)]
    grids = torch.meshgrid(*values, indexing="ij")
    return torch.stack([grid.flatten() for grid in reversed(grids)], -1)
