"""Network to distribution: likelihoods p(x | z), and what they share with the posteriors.

Each class makes its network through `network_for(outputs)`, because only it knows how many numbers its distribution
needs. The keyword-only parameters of a class are its options in a config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.config.schema import Bits, Count, Positive
from vaekit.densities.images import (
    BernoulliImage,
    ContinuousBernoulliImage,
    CrossEntropyImage,
    GaussianImage,
    HyperbolicImage,
    ImageDistribution,
    LaplaceImage,
    OptimalScaleImage,
    optimal_log_scale,
)
from vaekit.densities.logistics import DiscretisedLogisticImage, LogisticMixtureImage
from vaekit.networks.trunks import Shape, full_precision

NetworkFor = Callable[[int], nn.Module]

# Scales are in units of x. Half a grey value is 1/510 = e^-6.2: a narrower density only memorises the 8-bit grid.
LIKELIHOOD_LOG_SCALE = (-6.2, 3.0)
# The discretised logistic integrates over a grey value, so there a narrow scale is harmless: a sure pixel costs 0 nats.
DISCRETISED_LOG_SCALE = (-9.0, 3.0)


class Conditional(nn.Module):
    """p(· | context): a network, and the distribution that its output parametrises."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.precision: torch.dtype | None = None  # of the network alone; None is the weights' own

    def parameters_of(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        """The network's output, computed in `precision`, returned in float32 or better.

        `context`, class labels int64 (N,), is for networks made with classes.
        """
        reduced = self.precision is not None
        with torch.autocast(given.device.type, dtype=self.precision, enabled=reduced):
            return full_precision(self.network(given) if context is None else self.network(given, context))


def set_precision(model: nn.Module, precision: torch.dtype | None) -> None:
    """Run every network of the model in this type; densities stay in float32."""
    for module in model.modules():
        if isinstance(module, Conditional):
            module.precision = precision


# Likelihoods


class Likelihood(Conditional):
    """p(x | z): codes (*lead, *event) to a distribution of images with batch (*lead).

    `family` says what the numbers mean: its base measure, and whether it is a likelihood at all.
    """

    family: ClassVar[type[ImageDistribution]]
    network_for: NetworkFor

    def __init__(self, network_for: NetworkFor, shape: Shape, outputs: int = 1, shared: int = 0) -> None:
        """`outputs` numbers for each value of an image, and `shared` ones for each pixel."""
        numbers = outputs * shape[0] + shared
        super().__init__(network_for(numbers))
        self.numbers, self.outputs, self.shape = numbers, outputs, shape
        self.event_dims = 1  # of a code; the model's builder says where it is another

    def forward(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """The distribution of images decoded from z; `context` broadcasts to its batch."""
        lead = z.shape[: z.ndim - self.event_dims]
        if context is not None:
            context = context.expand(lead).flatten()
        values = self.parameters_of(z.flatten(0, len(lead) - 1) if len(lead) > 1 else z, context)
        # a fully convolutional decoder gives an image of whatever size the grid of codes has
        return self.decoded(values.reshape(*lead, self.numbers, *values.shape[-2:]))

    def decoded(self, values: Tensor) -> Distribution:
        """From all that the network said of each pixel, (*lead, numbers, H, W)."""
        parameters = values.unflatten(-3, (self.outputs, self.shape[0]))
        return self.distribution(parameters.unbind(-4))

    def distribution(self, parameters: tuple[Tensor, ...]) -> Distribution:
        """From `outputs` tensors (*lead, C, H, W)."""
        (loc,) = parameters
        return self.family(loc, validate_args=False)

    @property
    def base_measure(self) -> str:
        """What the densities are with respect to: `binary`, `discrete-256`, `density` on [0, 1], or `none`."""
        return self.family.base_measure

    def calibrate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fix what is estimated from (x, decoded mean) pairs of the training set. Most have nothing to fix."""


class Bernoulli(Likelihood):
    """0/1 pixels; wants binarised data."""

    family = BernoulliImage


class CrossEntropy(Likelihood):
    """Binary cross-entropy of grey or colour values: a common loss, but not a likelihood."""

    family = CrossEntropyImage


class ContinuousBernoulli(Likelihood):
    """A density on [0, 1] with the form of the Bernoulli, and its normaliser. arXiv:1907.06845"""

    family = ContinuousBernoulliImage


class _Scaled(Likelihood):
    """A location and a scale: fixed, one learned number, learned per pixel, or optimal for the batch."""

    def __init__(self, network_for: NetworkFor, shape: Shape, scale: str, initial_scale: float) -> None:
        super().__init__(network_for, shape, outputs=2 if scale == "pixel" else 1)
        self.scale = scale
        initial = torch.tensor(math.log(initial_scale))
        self.log_scale: Tensor
        if scale == "scalar":
            self.register_parameter("log_scale", nn.Parameter(initial))
        else:
            self.register_buffer("log_scale", initial)
        self.floor, self.ceiling = LIKELIHOOD_LOG_SCALE

    def located(self, loc: Tensor, log_scale: Tensor) -> Distribution:
        """The family's distribution; subclasses with further parameters add them here."""
        raise NotImplementedError

    def distribution(self, parameters: tuple[Tensor, ...]) -> Distribution:
        loc = parameters[0] + 0.5  # an untrained network then says mid-grey
        # the floor keeps a density from rewarding precision beyond the 8-bit grid without limit
        shift = parameters[1] if self.scale == "pixel" else torch.zeros_like(self.log_scale)
        return self.located(loc, (self.log_scale + shift).clamp(self.floor, self.ceiling))


class _OptimalScaled(_Scaled):
    """Adds the scale that is optimal for the batch while training, and frozen from the training set after it."""

    location_family: ClassVar[type[GaussianImage]]

    def __init__(
        self,
        network_for: NetworkFor,
        shape: Shape,
        *,
        scale: Literal["fixed", "scalar", "pixel", "optimal"] = "scalar",
        initial_scale: Positive = 0.1,
    ) -> None:
        super().__init__(network_for, shape, scale, initial_scale)

    def located(self, loc: Tensor, log_scale: Tensor) -> Distribution:
        if self.scale == "optimal" and self.training:
            return OptimalScaleImage(loc, self.location_family, self.floor)
        return self.location_family(loc, log_scale, validate_args=False)

    @torch.no_grad()
    def calibrate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        if self.scale != "optimal":
            return
        # batches add up as mean squares (normal) or mean sizes (Laplace)
        power = 2 if self.location_family is GaussianImage else 1
        total, count = torch.zeros((), dtype=torch.float64), 0
        for x, loc in pairs:
            pixels = (x - loc).numel()
            total += (power * optimal_log_scale(self.location_family, x, loc).double()).exp().cpu() * pixels
            count += pixels
        if count:
            self.log_scale.fill_(float((total / count).log() / power))


class Gaussian(_OptimalScaled):
    """Normal pixels: the likelihood of an L2 loss. `optimal` is the σ-VAE, arXiv:2006.13202"""

    family = location_family = GaussianImage


class Laplace(_OptimalScaled):
    """Laplace pixels: the likelihood of an L1 loss."""

    family = location_family = LaplaceImage


class Charbonnier(_Scaled):
    """Hyperbolic pixels: the likelihood of the Charbonnier loss sqrt(d^2 + epsilon^2)."""

    family = HyperbolicImage

    def __init__(
        self,
        network_for: NetworkFor,
        shape: Shape,
        *,
        scale: Literal["fixed", "scalar"] = "scalar",
        initial_scale: Positive = 0.1,
        epsilon: Positive = 1e-3,
    ) -> None:
        super().__init__(network_for, shape, scale, initial_scale)
        self.epsilon = epsilon

    def located(self, loc: Tensor, log_scale: Tensor) -> Distribution:
        return HyperbolicImage(loc, log_scale, self.epsilon, validate_args=False)


class DiscretisedLogistic(_Scaled):
    """2^bits grey values, each with the mass of a logistic over its cell. arXiv:1606.04934"""

    family = DiscretisedLogisticImage

    def __init__(
        self,
        network_for: NetworkFor,
        shape: Shape,
        *,
        scale: Literal["fixed", "scalar", "pixel"] = "pixel",
        initial_scale: Positive = 0.1,
        bits: Bits = 8,
    ) -> None:
        super().__init__(network_for, shape, scale, initial_scale)
        self.bits = bits
        self.floor, self.ceiling = DISCRETISED_LOG_SCALE

    @property
    def base_measure(self) -> str:
        return f"discrete-{2**self.bits}"

    def located(self, loc: Tensor, log_scale: Tensor) -> Distribution:
        return DiscretisedLogisticImage(loc, log_scale, self.bits, validate_args=False)


class DiscretisedLogisticMixture(Likelihood):
    """2^bits grey values from a mixture of logistics, one choice of component for the channels of a pixel.

    `coupling` lets green lean on red and blue on both, by coefficients within ±1; it does nothing to one channel.
    Salimans et al. 2017, arXiv:1701.05517
    """

    family = LogisticMixtureImage

    def __init__(
        self,
        network_for: NetworkFor,
        shape: Shape,
        *,
        components: Count = 5,
        coupling: bool = True,
        initial_scale: Positive = 0.1,
        bits: Bits = 8,
    ) -> None:
        pairs = shape[0] * (shape[0] - 1) // 2 if coupling else 0
        super().__init__(network_for, shape, outputs=2 * components, shared=(1 + pairs) * components)
        self.components, self.pairs, self.bits = components, pairs, bits
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))
        # components that begin alike would stay alike for long; so an untrained network says every grey alike
        spread = (torch.arange(components) + 0.5) / components
        self.register_buffer("centres", spread.view(-1, 1, 1, 1), persistent=False)
        self.centres: Tensor

    @property
    def base_measure(self) -> str:
        return f"discrete-{2**self.bits}"

    def decoded(self, values: Tensor) -> Distribution:
        count, located = self.components, self.components * self.shape[0]
        logits, loc, log_scale, coupling = values.split([count, located, located, count * self.pairs], -3)
        log_scale = (self.log_scale + log_scale.unflatten(-3, (count, -1))).clamp(*DISCRETISED_LOG_SCALE)
        ties = coupling.unflatten(-3, (count, self.pairs)).tanh() if self.pairs else None
        loc = self.centres + loc.unflatten(-3, (count, -1))
        return LogisticMixtureImage(logits, loc, log_scale, ties, self.bits, validate_args=False)
