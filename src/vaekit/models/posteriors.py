"""q(z | x): networks that return a distribution of codes, batch (B,), event (D,) or (C, h, w).

Each is made from `network_for(outputs)`, which gives a network with so many numbers for a code, or for each place of
a grid of codes, and from the event.

The keyword-only parameters of a class are its options in a config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from vaekit.config.schema import Count, NotNegative
from vaekit.densities.codebooks import Quantised, channels_first, channels_last, nearest
from vaekit.densities.codes import DiagonalNormal, LatentDistribution
from vaekit.densities.flows import FlowNormal, InverseFlowNormal, MaskedFlowNormal, MaskedNetwork
from vaekit.errors import ConfigError
from vaekit.models.likelihoods import Conditional, NetworkFor

# A posterior narrower than e^-10 of the prior's unit is a float32 artefact; wider than e^5, an overflow to come.
POSTERIOR_LOG_SCALE = (-10.0, 5.0)
MOST_CODES = 65536  # of a group of `fsq`, whose rows are listed: more wants further groups

RESTART_IMAGES, RESTART_BATCH = 4096, 512  # by which it is told whether a code is used

Event = tuple[int, ...]  # (D,), or (C, h, w) of a grid
Widths = Annotated[tuple[Count, ...], "one entry per hidden layer of a flow"]
Levels = Annotated[tuple[Count, ...], "how many values each number of a group can take"]


class Posterior(Conditional):
    """q(z | x): images (B, C, H, W) in [0, 1] to a distribution of batch (B,)."""

    factorises: ClassVar[bool] = True  # into independent dimensions, each with a KL of its own
    discrete: ClassVar[bool] = False  # codes out of a finite set
    grids: ClassVar[bool] = False  # takes an event (C, h, w) too, and a network that gives its numbers place by place

    def __init__(self, network: nn.Module, event: Event) -> None:
        super().__init__(network)
        self.event = event

    @property
    def axis(self) -> int:
        """Of the network's numbers: the last one, or the channels of a grid."""
        return -len(self.event)

    def restart(self, draw: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Put codes that none of the images `draw(count)` uses where images are; parameter → rows. Most have none."""
        return {}

    def forward(self, x: Tensor, context: Tensor | None = None) -> LatentDistribution:
        raise NotImplementedError

    def parameters_of(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        return super().parameters_of(2 * given - 1, context)  # networks like inputs around zero


class DiagonalGaussian(Posterior):
    """Normal with independent dimensions. Kingma & Welling 2014, arXiv:1312.6114"""

    grids = True

    def __init__(self, network_for: NetworkFor, event: Event) -> None:
        super().__init__(network_for(2 * event[0]), event)

    def forward(self, x: Tensor, context: Tensor | None = None) -> DiagonalNormal:
        loc, log_scale = self.parameters_of(x, context).chunk(2, dim=self.axis)
        return DiagonalNormal(loc, log_scale.clamp(*POSTERIOR_LOG_SCALE), len(self.event), validate_args=False)


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
        event: Event,
        *,
        transforms: Count = 2,
        widths: Widths = (128,),
        context: Count = 32,
    ) -> None:
        (latent_dim,) = event
        super().__init__(network_for(2 * latent_dim + context), event)
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

    Of a grid (C, h, w) each place has such groups, along its channels. For the prior `codes`: uniform over the rows, so
    the rate is the constant groups * log(codes) of a place.
    """

    discrete = True
    grids = True
    groups: int  # of a flat code, or of a place
    codebook: Tensor  # (codes, numbers / groups): the rows that every group chooses from
    nats_per_dim: Tensor  # (numbers,): the rate of each number of a code or place

    @property
    def places(self) -> int:
        """Axes of places: 0 of a flat code, 2 of a grid."""
        return len(self.event) - 1

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantised:
        raise NotImplementedError


class VectorQuantised(Quantiser):
    """The nearest of learned vectors. van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937

    The penalty moves the vectors to the encodings by their squared distance, and with the weight `commitment` the
    encodings to the vectors. A squared distance counts as nats: those of a normal of variance 1/2 around the vector.
    Vectors are learned by gradient, not by moving averages. `groups` of the numbers of a code, by default 4, or of a
    place of a grid, by default 1. With `restart`, vectors that no training image uses are put at encodings of training
    images at each validation: Dhariwal et al. 2020, arXiv:2005.00341, section 3.2
    """

    def __init__(
        self,
        network_for: NetworkFor,
        event: Event,
        *,
        codes: Count = 256,
        groups: Count | None = None,
        commitment: NotNegative = 0.25,
        restart: bool = True,
    ) -> None:
        numbers = event[0]
        super().__init__(network_for(numbers), event)
        self.groups = (4 if len(event) == 1 else 1) if groups is None else groups
        if numbers % self.groups:
            what = "latent dimensions" if len(event) == 1 else "channels of a code"
            raise ConfigError(f"{numbers} {what} do not make {self.groups} equal groups; change one of them")
        self.commitment, self.restarts = commitment, restart
        dims = numbers // self.groups
        self.codebook = nn.Parameter(torch.randn(codes, dims))
        self.register_buffer("nats_per_dim", torch.full((numbers,), math.log(codes) / dims), persistent=False)

    def _vectors(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Encodings (B, *places, groups, d)."""
        found = channels_last(self.parameters_of(x, context), self.places)
        return found.unflatten(-1, (self.groups, -1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantised:
        encoded = self._vectors(x, context)
        index = nearest(encoded, self.codebook)
        codes = self.codebook[index]
        penalty = (codes - encoded.detach()).square() + self.commitment * (encoded - codes.detach()).square()
        z = codes.detach() + (encoded - encoded.detach())  # this order: the value is the code, bit for bit
        z = channels_first(z.flatten(-2), self.places)
        return Quantised(z, index, penalty.flatten(1).sum(1) if self.places else penalty.sum((-2, -1)), len(self.event))

    @torch.no_grad()
    def restart(self, draw: Callable[[int], Tensor]) -> dict[str, Tensor]:
        if not self.restarts:
            return {}
        images = draw(RESTART_IMAGES)
        vectors = torch.cat([self._vectors(part, None).flatten(0, -2) for part in images.split(RESTART_BATCH)])
        used = torch.bincount(nearest(vectors, self.codebook), minlength=len(self.codebook)) > 0
        unused = (~used).nonzero().flatten()
        # evenly spread over images and places, which are in no order: `draw` shuffles
        rows = torch.arange(len(unused), device=vectors.device) * len(vectors) // max(1, len(unused))
        self.codebook[unused] = vectors[rows]
        return {"codebook": unused} if len(unused) else {}


class FiniteScalar(Quantiser):
    """Each number rounded to one of a few values, evenly spaced from -1 to 1: no codebook to learn or to collapse.

    `levels` are the counts of values within a group, which is as long. Mentzer, Minnen, Agustsson & Tschannen 2023,
    arXiv:2309.15505
    """

    def __init__(self, network_for: NetworkFor, event: Event, *, levels: Levels = (8, 5, 5, 5)) -> None:
        numbers = event[0]
        super().__init__(network_for(numbers), event)
        if not levels or min(levels) < 2:
            raise ConfigError(f"levels {list(levels)}: each number needs 2 values or more")
        if numbers % len(levels):
            what = "latent dimensions" if len(event) == 1 else "channels of a code"
            raise ConfigError(f"{numbers} {what} are not a multiple of the {len(levels)} levels; change one of them")
        if math.prod(levels) > MOST_CODES:
            raise ConfigError(f"{math.prod(levels)} codes in a group; shorten levels to have {MOST_CODES} or fewer")
        self.groups = numbers // len(levels)
        counts = torch.tensor(levels)
        self.register_buffer("codebook", _rows(levels), persistent=False)
        self.register_buffer("levels", counts.float().repeat(self.groups), persistent=False)
        self.register_buffer("strides", counts.cumprod(0) // counts, persistent=False)
        self.register_buffer("nats_per_dim", counts.float().log().repeat(self.groups), persistent=False)
        self.levels: Tensor
        self.strides: Tensor

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantised:
        # every value gets an equal share of (-1/2, levels - 1/2), whose ends a sigmoid may round to
        place = self.levels * torch.sigmoid(channels_last(self.parameters_of(x, context), self.places)) - 0.5
        rounded = torch.minimum(place.detach().round(), self.levels - 1)
        z = (rounded + (place - place.detach())) * (2 / (self.levels - 1)) - 1
        index = (rounded.unflatten(-1, (self.groups, -1)).long() * self.strides).sum(-1)
        return Quantised(channels_first(z, self.places), index, event_dims=len(self.event))


def _rows(levels: Sequence[int]) -> Tensor:
    """Every combination of values, (codes, len(levels)); the first number runs fastest."""
    values = [torch.arange(count) * (2 / (count - 1)) - 1 for count in reversed(levels)]
    grids = torch.meshgrid(*values, indexing="ij")
    return torch.stack([grid.flatten() for grid in reversed(grids)], -1)
