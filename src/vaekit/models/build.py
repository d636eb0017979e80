"""Config to parts. The tables here are the only place where something is chosen by its name.

To add a part: write the class or function, and one line in its table; the conformance tests walk the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from vaekit.config.schema import ModelConfig, Part
from vaekit.errors import ConfigError, DataError, suggest
from vaekit.models import likelihoods as conditionals
from vaekit.models import posteriors, priors
from vaekit.models.autoencoder import Autoencoder, Encoder, Model
from vaekit.models.likelihoods import Likelihood
from vaekit.models.posteriors import Posterior
from vaekit.models.priors import Prior
from vaekit.models.vae import VAE
from vaekit.networks import trunks as networks
from vaekit.networks.trunks import Shape


class Network(NamedTuple):
    """A pair of trunks with the same options."""

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]


NETWORKS: Mapping[str, Network] = {
    "mlp": Network(networks.mlp_encoder, networks.mlp_decoder),
    "conv": Network(networks.conv_encoder, networks.conv_decoder),
    "resnet": Network(networks.resnet_encoder, networks.resnet_decoder),
}
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

    likelihood = _choose(LIKELIHOODS, config.likelihood, "likelihood")(
        decoder,
        shape,
        **config.likelihood.options,
    )

    if config.kind == "autoencoder":
        return Autoencoder(Encoder(encoder, config.latent_dim), likelihood, config.corruption, config.corruption_level)
    prior = _choose(PRIORS, config.prior, "prior")(config.latent_dim, shape, classes, **config.prior.options)
    posterior = _choose(POSTERIORS, config.posterior, "posterior")(
        encoder, config.latent_dim, **config.posterior.options
    )
    return VAE(prior, posterior, likelihood, classes)


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
) -> VAE:
    """A VAE for (channels, height, width) from Python, part by part; with `classes`, one that is given the class.

    Example:
        >>> vae((1, 28, 28), 20, Part("mlp", {"widths": (200,)})).encode(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 20])
    """

    def part(choice: Part | str) -> Part:
        return Part(choice) if isinstance(choice, str) else choice

    config = ModelConfig(
        latent_dim=latent_dim,
        network=part(network),
        likelihood=part(likelihood),
        posterior=part(posterior),
        prior=part(prior),
        context="class" if classes else "none",
    )
    model = build_model(config, shape, classes)
    assert isinstance(model, VAE)
    return model
