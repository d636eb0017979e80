"""The model with a hierarchy of groups of latents: one loop over levels is posterior, prior and everything between.

Sønderby et al. 2016, arXiv:1602.02282 (inference from the top down); Vahdat & Kautz 2020, arXiv:2007.03898 (posteriors
relative to the prior); Child 2021, arXiv:2011.10650 (many levels at several sizes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.config.schema import Count
from vaekit.densities.codes import DiagonalNormal, LatentDistribution
from vaekit.densities.noise import Noise, generator_noise
from vaekit.errors import ConfigError
from vaekit.models.layout import Codes, as_layout
from vaekit.models.likelihoods import Conditional, Likelihood
from vaekit.models.model import Model
from vaekit.models.posteriors import Event
from vaekit.models.priors import Prior
from vaekit.models.trace import Latent, Trace
from vaekit.networks.convolutions import Conv
from vaekit.networks.hierarchy import Bottleneck, Places, from_image, larger, sizes_of, smaller
from vaekit.networks.trunks import Shape

# Of every level, and of the posterior's difference from the prior: e^±8 is far beyond what any level uses.
LEVEL_LOG_SCALE = (-8.0, 8.0)

Levels = Annotated[tuple[tuple[Count, Count], ...], "(places along the shorter side, how many levels), coarsest first"]

# (number of the level, its prior, the features so far) -> its code (*lead, *event)
Choose = Callable[[int, LatentDistribution, Tensor], Tensor]


class Plan(NamedTuple):
    """How a hierarchy is built."""

    shape: Shape  # of an image
    sizes: tuple[Places, ...]  # of the image, and of every halving of it
    levels: tuple[int, ...]  # halvings of each level, coarsest first
    channels: int  # numbers of a code at each of its places
    width: int  # channels of the features
    depth: int  # blocks at each size on the way up

    @property
    def finest(self) -> int:
        """Halvings of the last level."""
        return self.levels[-1]

    def event(self, level: int) -> Event:
        """Of a level's code: a grid, or a flat one at one place."""
        places = self.sizes[self.levels[level]]
        return (self.channels,) if places == (1, 1) else (self.channels, *places)

    @property
    def scale(self) -> float:
        """Of the last weights of each block."""
        return 1 / math.sqrt(len(self.levels))


def plan_of(
    shape: Shape, latent_dim: int, *, levels: Levels = ((1, 1), (4, 2), (7, 2)), width: Count = 64, depth: Count = 1
) -> Plan:
    """Residual blocks of convolutions on the way up, `depth` at each size, and on the way down, two at each level.

    `levels` are (places along the shorter side, how many), coarsest first; sizes are halvings of the image, rounded
    up. Each place of each level has `latent_dim` numbers. ConfigError for a size that the image has not.
    """
    sizes = sizes_of(shape)
    halvings: list[int] = []
    for side, count in levels:
        fits = [number for number, size in enumerate(sizes) if min(size) == side]
        if not fits:
            have = ", ".join(str(side) for side in sorted({min(size) for size in sizes}))
            raise ConfigError(
                f"images of {shape[1]}×{shape[2]} have no level with {side} places along the shorter side, but with "
                f"{have}; change model.network.levels, or the images by data.size or data.pad"
            )
        if halvings and fits[-1] >= halvings[-1]:
            said = ", ".join(f"[{side}, {count}]" for side, count in levels)
            raise ConfigError(
                f"model.network.levels=[{said}] is out of order: each size once, coarsest first, such as "
                "[[1, 1], [4, 2], [7, 2]]"
            )
        halvings += [fits[-1]] * count
    if not halvings:
        raise ConfigError("model.network.levels is empty; give at least one [side, count]")
    return Plan(shape, tuple(sizes), tuple(halvings), latent_dim, width, depth)


class Encoded(NamedTuple):
    """A batch of images, what the way up says of them at each size of a level, and their labels."""

    x: Tensor
    features: dict[int, Tensor]  # halvings -> (B, width, h, w)
    context: Tensor | None


class BottomUp(nn.Module):
    """Images to features at every size that has levels."""

    def __init__(self, plan: Plan, classes: int) -> None:
        super().__init__()
        self.halvings = sorted(set(plan.levels))
        self.start = Conditional(from_image(plan.shape[0], plan.width, plan.finest))
        self.label = nn.Embedding(classes, plan.width) if classes else None

        def blocks(halvings: int) -> Conditional:
            made = (Bottleneck(plan.width, plan.width, plan.sizes[halvings], plan.scale) for _ in range(plan.depth))
            return Conditional(nn.Sequential(*made))

        self.blocks = nn.ModuleList(blocks(halvings) for halvings in self.halvings)

    def forward(self, x: Tensor, context: Tensor | None) -> dict[int, Tensor]:
        """halvings -> (B, width, h, w)."""
        h = self.start.parameters_of(2 * x - 1)  # networks like inputs around zero
        if self.label is not None and context is not None:
            h = h + self.label(context)[..., None, None]
        features, before = {}, self.halvings[0]
        for halvings, blocks in zip(self.halvings, self.blocks, strict=True):
            assert isinstance(blocks, Conditional)
            h = blocks.parameters_of(smaller(h, halvings - before))
            features[halvings], before = h, halvings
        return features


class Level(nn.Module):
    """One group of latents: q(z | z above, x) as a difference from p(z | z above), and what its code adds to h."""

    def __init__(self, plan: Plan, number: int) -> None:
        super().__init__()
        self.halvings, self.event = plan.levels[number], plan.event(number)
        places, width, channels, scale = plan.sizes[self.halvings], plan.width, plan.channels, plan.scale
        above = plan.levels[number - 1] if number else self.halvings
        self.path = [plan.sizes[halvings] for halvings in reversed(range(self.halvings, above))]
        # what tells one place of a grid from another
        self.place = nn.Parameter(torch.zeros(width, *places)) if self.path else None
        self.posterior = Conditional(Bottleneck(2 * width, 2 * channels, places, scale, skip=False))
        self.prior = Conditional(Bottleneck(width, 2 * channels + width, places, 0, skip=False)) if number else None
        self.of_code = Conditional(Conv(channels, width, 1))
        self.after = Conditional(Bottleneck(width, width, places, scale))

    def begin(self, h: Tensor) -> Tensor:
        """The features of the level above, at this level's size."""
        h = larger(h, self.path)
        return h if self.place is None else h + self.place

    def p(self, h: Tensor, lead: torch.Size) -> tuple[DiagonalNormal, Tensor]:
        """p(z | z above), batch (*lead), and the features with what the same network says of them."""
        assert self.prior is not None
        numbers, more = self.prior.parameters_of(h).split((2 * self.channels, len(h[0])), 1)
        loc, log_scale = self._parts(numbers, lead)
        return self._normal(loc, log_scale.clamp(*LEVEL_LOG_SCALE)), h + more

    def q(self, h: Tensor, features: Tensor, p: LatentDistribution, lead: torch.Size) -> DiagonalNormal:
        """q(z | z above, x), batch (*lead). Where p is no normal, as at the top it may be, it stands for itself."""
        loc, log_scale = self._parts(self.posterior.parameters_of(torch.cat([h, features], 1)), lead)
        if isinstance(p, DiagonalNormal):
            loc, log_scale = p.loc + loc, p.log_scale + log_scale.clamp(*LEVEL_LOG_SCALE)
        return self._normal(loc, log_scale.clamp(*LEVEL_LOG_SCALE))

    def end(self, h: Tensor, z: Tensor) -> Tensor:
        """The features with what the code (N, *event) adds to them."""
        grid = z if len(self.event) == 3 else z[..., None, None]
        return self.after.parameters_of(h + self.of_code.parameters_of(grid))

    @property
    def channels(self) -> int:
        """Of a code."""
        return self.event[0]

    def _parts(self, numbers: Tensor, lead: torch.Size) -> tuple[Tensor, Tensor]:
        loc, log_scale = (part.reshape(*lead, *self.event) for part in numbers.chunk(2, 1))
        return loc, log_scale

    def _normal(self, loc: Tensor, log_scale: Tensor) -> DiagonalNormal:
        return DiagonalNormal(loc, log_scale, len(self.event), validate_args=False)


class TopDownVAE(Model):
    """p(z1) p(z2 | z1) … p(x | z), and q(z1 | x) q(z2 | z1, x) …: groups at one or more sizes, coarsest first.

    A way up gives features of an image at each size; the way down begins with a learned h, and each level adds what
    its code says. `prior` is that of the first level; each other has one that depends on the codes above.
    """

    def __init__(self, plan: Plan, prior: Prior, likelihood: Likelihood, classes: int = 0) -> None:
        super().__init__()
        self.layout = as_layout([plan.event(number) for number in range(len(plan.levels))])
        self.prior, self.likelihood, self.classes, self.components = prior, likelihood, classes, prior.components
        self.up = BottomUp(plan, classes)
        self.start = nn.Parameter(torch.zeros(plan.width, *plan.sizes[plan.levels[0]]))
        self.label = nn.Embedding(classes, plan.width) if classes else None
        self.levels = nn.ModuleList(Level(plan, number) for number in range(len(plan.levels)))

    @property
    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def _down(self, lead: torch.Size, context: Tensor | None, choose: Choose) -> Tensor:
        """The way down: the features (N, width, h, w) that an image is decoded from, N of the lead's members."""
        h = self.start.expand(lead.numel(), *self.start.shape)
        if self.label is not None and context is not None:
            h = h + self.label(context.expand(lead).flatten())[..., None, None]
        for number, level in enumerate(self._levels):
            h = level.begin(h)
            p, h = level.p(h, lead) if number else (self._top(context), h)
            z = choose(number, p, h)
            h = level.end(h, z.reshape(-1, *level.event))
        return h

    def _top(self, context: Tensor | None) -> LatentDistribution:
        p: LatentDistribution = self.prior(None, context)
        return p

    def _inferred(
        self, encoded: Encoded, samples: int, noise: Noise | None, stopped: bool = False
    ) -> tuple[list[Latent], Tensor]:
        """Codes from the posterior, or without noise its means; and the features below."""
        x, features, context = encoded
        lead, latents = torch.Size((samples, len(x))), []

        def choose(number: int, p: LatentDistribution, h: Tensor) -> Tensor:
            level = self._levels[number]
            seen = features[level.halvings]
            q = level.q(h, seen.repeat(samples, 1, 1, 1) if samples > 1 else seen, p, lead)
            z = q.mean if noise is None else q.from_noise(noise(number, torch.Size((*lead, *q.noise_shape)), x))
            latents.append(Latent(z, q, p, None, q.detach().log_prob(z) if stopped else None))
            return z

        return latents, self._down(lead, context, choose)

    def _px(self, h: Tensor, lead: Sequence[int]) -> Distribution:
        px: Distribution = self.likelihood(h.reshape(*lead, *h.shape[1:]))
        return px

    def encoded(self, x: Tensor, context: Tensor | None = None) -> Encoded:
        context = self.checked(context)
        return Encoded(x, self.up(x, context), context)

    def noise_shapes(self, encoded: Encoded) -> tuple[torch.Size, ...]:
        return tuple(torch.Size(group.event) for group in self.layout.groups)

    def infer(
        self, encoded: Encoded, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False
    ) -> tuple[Latent, ...]:
        return tuple(self._inferred(encoded, samples, noise, stopped)[0])

    def trace(
        self, encoded: Encoded, samples: int = 1, noise: Noise = generator_noise, *, stopped: bool = False
    ) -> Trace:
        latents, h = self._inferred(encoded, samples, noise, stopped)
        px = self._px(h, (samples, len(encoded.x)))
        return Trace(encoded.x, tuple(latents), px, px.log_prob(encoded.x), encoded.x.new_zeros(()))

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        latents, _ = self._inferred(self.encoded(x, context), 1, None)
        return tuple(latent.z[0] for latent in latents)

    def draw(
        self,
        count: int,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
        context: Tensor | None = None,
        places: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, ...]:
        if places is not None:
            raise ConfigError("a hierarchy has images of one size alone; leave the size out")
        nothing = (None,) * len(self.layout.groups)
        return self._completed(nothing, torch.Size((count,)), noise, temperature, self.checked(context))[0]

    def decode(
        self,
        codes: Codes,
        context: Tensor | None = None,
        *,
        count: int | None = None,
        noise: Noise = generator_noise,
        temperature: float = 1.0,
    ) -> Distribution:
        given = [(z, group) for z, group in zip(codes, self.layout.groups, strict=True) if z is not None]
        leads = [z.shape[: z.ndim - len(group.event)] for z, group in given]
        if not leads and count is None:
            raise ConfigError("no group of codes is given, so it is not known how many to draw; give a count")
        lead = leads[0] if leads else torch.Size((count or 0,))
        _, h = self._completed(codes, lead, noise, temperature, self.checked(context))
        return self._px(h, lead)

    def _completed(
        self, codes: Codes, lead: torch.Size, noise: Noise, temperature: float, context: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """All codes (*lead, *event), those that are None drawn given the others above; and the features below."""
        whole = []

        def choose(number: int, p: LatentDistribution, h: Tensor) -> Tensor:
            z = codes[number]
            if z is None:
                shape = lead if len(lead) == 2 else torch.Size((1, lead.numel()))  # of samples and images
                drawn = noise(number, torch.Size((*shape, *p.noise_shape)), self.start)
                z = p.from_noise(drawn.reshape(*lead, *p.noise_shape), temperature)
            whole.append(z)
            return z

        h = self._down(lead, context, choose)
        return tuple(whole), h

    def centre(self, context: Tensor | None = None) -> tuple[Tensor, ...]:
        context = self.checked(context)
        lead, means = torch.Size(()) if context is None else context.shape, []

        def choose(number: int, p: LatentDistribution, h: Tensor) -> Tensor:
            means.append(p.mean)
            return means[-1]

        self._down(lead, context, choose)
        return tuple(means)
