"""Config to parts. The tables here are the only place where something is chosen by its name.

To add a part: write the class or function, and one line in its table; the conformance tests walk the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from vaekit.config.schema import LatentConfig, ModelConfig, Part
from vaekit.errors import ConfigError, DataError, suggest
from vaekit.models import likelihoods as conditionals
from vaekit.models import posteriors, priors
from vaekit.models.autoencoder import Autoencoder, Encoder
from vaekit.models.likelihoods import Likelihood
from vaekit.models.model import Model
from vaekit.models.posteriors import Event, Posterior
from vaekit.models.priors import Prior
from vaekit.models.topdown import Plan, TopDownVAE, plan_of
from vaekit.models.vae import VAE
from vaekit.networks import trunks as networks
from vaekit.networks.grids import grid_decoder, grid_encoder
from vaekit.networks.hierarchy import to_image
from vaekit.networks.trunks import Shape


class Network(NamedTuple):
    """A pair of trunks with the same options; and another for codes that are grids, where the network has one."""

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    grid_encoder: Callable[..., nn.Module] | None = None
    grid_decoder: Callable[..., nn.Module] | None = None
    multiple: int = 1  # of which the sides of an image must be; the network refuses others by a ConfigError


NETWORKS: Mapping[str, Network] = {
    "mlp": Network(networks.mlp_encoder, networks.mlp_decoder),
    "conv": Network(networks.conv_encoder, networks.conv_decoder, grid_encoder, grid_decoder),
    "resnet": Network(
        networks.resnet_encoder,
        networks.resnet_decoder,
        partial(grid_encoder, residual=True),
        partial(grid_decoder, residual=True),
    ),
}
# networks that bring groups of latents of their own, each with a diagonal posterior
HIERARCHIES: Mapping[str, Callable[..., Plan]] = {"top-down": plan_of}
POSTERIORS: Mapping[str, type[Posterior]] = {
    "diagonal": posteriors.DiagonalGaussian,
    "iaf": posteriors.InverseAutoregressive,
    "maf": posteriors.MaskedAutoregressive,
    "vq": posteriors.VectorQuantised,
    "fsq": posteriors.FiniteScalar,
}
PRIORS: Mapping[str, type[Prior]] = {
    "standard": priors.StandardNormal,
    "learned": priors.LearnedNormal,
    "per-class": priors.NormalPerClass,
    "mixture": priors.GaussianMixture,
    "vamp": priors.Vamp,
    "flow": priors.Flow,
    "codes": priors.Codes,
}
LIKELIHOODS: Mapping[str, type[Likelihood]] = {
    "bernoulli": conditionals.Bernoulli,
    "bce": conditionals.CrossEntropy,
    "continuous-bernoulli": conditionals.ContinuousBernoulli,
    "gaussian": conditionals.Gaussian,
    "laplace": conditionals.Laplace,
    "charbonnier": conditionals.Charbonnier,
    "discretised-logistic": conditionals.DiscretisedLogistic,
    "discretised-logistic-mixture": conditionals.DiscretisedLogisticMixture,
}


def _choose(table: Mapping[str, Any], part: Part, what: str) -> Any:
    if part.kind not in table:
        raise ConfigError(f"unknown {what} '{part.kind}'; {suggest(part.kind, table)}")
    return table[part.kind]


CLASS_VECTOR = 16  # numbers that stand for a class beside a code


def build_model(config: ModelConfig, shape: Shape, classes: int = 0) -> Model:
    """The model for images of this (channels, height, width), with fresh weights from torch's generator.

    `classes` is how many the data has; a model with `context: class` is given them, others do not look.
    """
    classes = _classes(config, classes)
    event = event_of(config, shape)
    if config.network.kind in HIERARCHIES:
        return _top_down(config, event, shape, classes)
    made = (
        _flat_networks(config, shape, classes)
        if config.latent is None
        else _grid_networks(config, event, shape, classes)
    )
    likelihood: Likelihood = _choose(LIKELIHOODS, config.likelihood, "likelihood")(
        made.decoder, shape, **config.likelihood.options
    )
    likelihood.event_dims = len(event)
    if config.kind == "autoencoder":
        return Autoencoder(Encoder(made.encoder, event), likelihood, config.corruption, config.corruption_level)
    prior = _choose(PRIORS, config.prior, "prior")(event, shape, classes, **config.prior.options)
    posterior = _choose(POSTERIORS, config.posterior, "posterior")(made.encoder, event, **config.posterior.options)
    return VAE(prior, posterior, likelihood, classes)


def _top_down(config: ModelConfig, event: Event, shape: Shape, classes: int) -> TopDownVAE:
    if config.kind == "autoencoder":
        raise ConfigError(f"an autoencoder has no levels; choose model.network={' or '.join(NETWORKS)}")
    plan = _plan(config, shape)

    def decoder(channels: int) -> nn.Module:
        return to_image(plan.width, channels, plan.sizes[: plan.finest + 1])

    likelihood: Likelihood = _choose(LIKELIHOODS, config.likelihood, "likelihood")(
        decoder, shape, **config.likelihood.options
    )
    likelihood.event_dims = 3  # it is given features
    prior = _choose(PRIORS, config.prior, "prior")(event, shape, classes, **config.prior.options)
    return TopDownVAE(plan, prior, likelihood, classes)


def _plan(config: ModelConfig, shape: Shape) -> Plan:
    made: Plan = HIERARCHIES[config.network.kind](shape, config.latent_dim, **config.network.options)
    return made


class Made(NamedTuple):
    """How a part gets its network, from how many numbers it wants: of a code (or a place of it), of a pixel."""

    encoder: Callable[[int], nn.Module]
    decoder: Callable[[int], nn.Module]


def _flat_networks(config: ModelConfig, shape: Shape, classes: int) -> Made:
    network: Network = _choose(NETWORKS, config.network, "network")
    options = config.network.options

    def encoder(outputs: int) -> nn.Module:
        if not classes:
            return network.encoder(shape, outputs, **options)
        wide = (shape[0] + 1, *shape[1:])
        return networks.WithPlane(network.encoder(wide, outputs, **options), classes, shape)

    def decoder(channels: int) -> nn.Module:
        images = (channels, *shape[1:])
        if not classes:
            return network.decoder(config.latent_dim, images, **options)
        made = network.decoder(config.latent_dim + CLASS_VECTOR, images, **options)
        return networks.WithVector(made, classes, CLASS_VECTOR)

    return Made(encoder, decoder)


def _grid_networks(config: ModelConfig, event: Event, shape: Shape, classes: int) -> Made:
    network: Network = _choose(NETWORKS, config.network, "network")
    to_grid, from_grid = network.grid_encoder, network.grid_decoder
    if to_grid is None or from_grid is None:
        have = " or ".join(name for name, each in NETWORKS.items() if each.grid_encoder)
        raise ConfigError(f"the network '{config.network.kind}' gives no grid of codes; choose model.network={have}")
    halvings, options = (shape[1] // event[1]).bit_length() - 1, config.network.options
    more = CLASS_VECTOR if classes else 0

    def conditioned(made: nn.Module) -> nn.Module:
        return networks.WithVector(made, classes, CLASS_VECTOR) if classes else made

    def encoder(outputs: int) -> nn.Module:
        return conditioned(to_grid(shape[0] + more, outputs, halvings, **options))

    def decoder(channels: int) -> nn.Module:
        return conditioned(from_grid(event[0] + more, channels, halvings, **options))

    return Made(encoder, decoder)


def event_of(config: ModelConfig, shape: Shape) -> Event:
    """The shape of a code, or of the first level's: (D,), or of a grid (C, h, w). ConfigError for other images."""
    if config.network.kind in HIERARCHIES:
        return _plan(config, shape).event(0)
    if config.latent is None:
        return (config.latent_dim,)
    _, height, width = shape
    side, short = config.latent.side, min(height, width)
    factor = short // side
    fits = short % side == 0 and factor >= 2 and factor & (factor - 1) == 0
    if not fits or height % factor or width % factor:
        sides = [short // 2**i for i in range(1, 7) if height % 2**i == 0 and width % 2**i == 0 and short >= 2**i]
        allowed = f"choose model.latent.side={' or '.join(map(str, sides))}" if sides else "give images of even sides"
        raise ConfigError(
            f"images of {height}×{width} have no grid of codes with {side} places along the shorter side: it is the "
            f"image divided by 2, 4, 8 …; {allowed}, or other images with data.size or data.pad"
        )
    return config.latent.channels, height // factor, width // factor


def _classes(config: ModelConfig, classes: int) -> int:
    if config.context == "none":
        return 0
    if classes < 2:
        raise DataError(
            f"model.context=class needs labelled images of 2 or more classes, but the data has {classes}; "
            "use a folder for each class, or model.context=none"
        )
    return classes


def vae(
    shape: Shape,
    latent_dim: int = 16,
    network: Part | str = "mlp",
    likelihood: Part | str = "bernoulli",
    posterior: Part | str = "diagonal",
    prior: Part | str = "standard",
    classes: int = 0,
    latent: tuple[int, int] | None = None,
) -> VAE:
    """A VAE for (channels, height, width) from Python, part by part; with `classes`, one that is given the class.

    `latent`, (channels, places along the shorter side), makes its code a small image instead of `latent_dim` numbers.

    Example:
        >>> vae((1, 28, 28), 20, Part("mlp", {"widths": (200,)})).encode(torch.rand(5, 1, 28, 28))[0].shape
        torch.Size([5, 20])
        >>> vae((1, 28, 28), network="conv", latent=(2, 7)).encode(torch.rand(5, 1, 28, 28))[0].shape
        torch.Size([5, 2, 7, 7])
    """

    def part(choice: Part | str) -> Part:
        return Part(choice) if isinstance(choice, str) else choice

    config = ModelConfig(
        latent_dim=latent_dim,
        latent=None if latent is None else LatentConfig(channels=latent[0], side=latent[1]),
        network=part(network),
        likelihood=part(likelihood),
        posterior=part(posterior),
        prior=part(prior),
        context="class" if classes else "none",
    )
    model = build_model(config, shape, classes)
    assert isinstance(model, VAE)
    return model
