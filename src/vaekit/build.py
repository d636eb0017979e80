"""Config to parts. The tables here are the only place where something is chosen by its name.

To add a part: write the class or function, and one line in its table; the conformance tests walk the tables.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from vaekit import conditionals, networks, objectives, posteriors, priors, schedules
from vaekit.conditionals import Likelihood
from vaekit.config.schema import ModelConfig, Part, ScheduleConfig, TrainingConfig
from vaekit.config.schema import Schedule as ScheduleSpec
from vaekit.errors import ConfigError, DataError, suggest
from vaekit.models import VAE, Autoencoder, Encoder, Model
from vaekit.networks import Shape
from vaekit.objectives import Facts
from vaekit.posteriors import Posterior
from vaekit.priors import Prior
from vaekit.schedules import Schedule, ScheduleValue
from vaekit.trace import Objective


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
OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "elbo": objectives.elbo,
    "iwae": objectives.iwae,
    "capacity": objectives.capacity,
    "geco": objectives.geco,
    "total-correlation": objectives.total_correlation,
    "mmd": objectives.mmd,
    "factor": objectives.factor,
    "adversarial": objectives.adversarial,
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


class BuiltObjective(NamedTuple):
    """An objective and its scheduled options by name, so that a log can show their current values."""

    objective: Objective
    schedules: Mapping[str, Schedule]


def build_objective(part: Part, steps_per_epoch: int, pixels: int, facts: Facts | None = None) -> BuiltObjective:
    """The objective, its schedules in steps. `pixels` is C * H * W, for weights such as "500/pixels".

    `facts` of the run are for the objectives whose first parameter asks for them.
    """
    factory = _choose(OBJECTIVES, part, "objective")
    options = {**scheduled_defaults(factory), **part.options}
    named = {name: build_schedule(options[name], steps_per_epoch, pixels) for name in scheduled_defaults(factory)}
    told = [facts] if _asks_for_facts(factory) else []
    assert None not in told, f"the objective '{part.kind}' depends on the facts of the run"
    return BuiltObjective(factory(*told, **{**options, **named}), named)


def _asks_for_facts(factory: Callable[..., Any]) -> bool:
    return any(p.annotation is Facts for p in inspect.signature(factory, eval_str=True).parameters.values())


def scheduled_defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """Name to default of the options that are schedules."""
    parameters = inspect.signature(factory, eval_str=True).parameters.values()
    return {p.name: p.default for p in parameters if p.annotation == ScheduleValue}


PER_PIXEL = re.compile(r"\s*([-+.\deE]+)\s*/\s*pixels\s*")


def build_schedule(spec: ScheduleSpec | Schedule | dict[str, Any], steps_per_epoch: int, pixels: int = 1) -> Schedule:
    """A function of the step from a number, "number/pixels", (epoch, value) pairs or a mapping."""
    if isinstance(spec, str):
        match = PER_PIXEL.fullmatch(spec)
        if match is None:
            raise ConfigError(f"'{spec}' is not a schedule; write a number, or a number over pixels such as 500/pixels")
        return schedules.constant(float(match[1]) / pixels)
    if callable(spec):
        return spec
    if isinstance(spec, int | float):
        return schedules.constant(float(spec))
    if isinstance(spec, dict):  # the options of a part stay as they were written
        spec = ScheduleConfig(**spec)
    if not isinstance(spec, ScheduleConfig):
        return schedules.pairs([(time * steps_per_epoch, value) for time, value in spec])
    unit = steps_per_epoch if spec.unit == "epoch" else 1
    over, delay = spec.over * unit, spec.delay * unit
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(spec.end),
        "linear": lambda: schedules.linear(spec.start, spec.end, over, delay),
        "cosine": lambda: schedules.cosine(spec.start, spec.end, over, delay),
        "cyclical": lambda: schedules.cyclical(spec.start, spec.end, over, spec.ratio, delay),
        "pairs": lambda: schedules.pairs([(time * unit, value) for time, value in spec.pairs]),
    }
    return makers[spec.kind]()


def build_learning_rate(config: TrainingConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, with its warm-up."""
    unit = steps_per_epoch if config.schedule_unit == "epoch" else 1
    rate, warmup = config.learning_rate, config.warmup * unit
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(rate),
        "cosine": lambda: schedules.cosine(rate, rate * config.final_factor, max(1, total_steps - warmup), warmup),
        "step": lambda: schedules.step_decay(rate, config.decay_every * unit, config.decay_factor),
    }
    schedule = makers[config.schedule]()
    if config.schedule_unit == "epoch":
        schedule = schedules.held_per_epoch(schedule, steps_per_epoch)
    return schedules.with_warmup(schedule, warmup)
