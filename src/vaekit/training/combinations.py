"""A config against the tables: what the schema alone cannot know."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import torch

from vaekit.config.load import Override, Problem, load_config, option_problems
from vaekit.config.paths import absolute
from vaekit.config.schedule_shapes import ScheduleValue, Weight
from vaekit.config.schedules import PER_PIXEL, build_schedule, in_steps
from vaekit.config.schema import Config, Part
from vaekit.config.schema import Schedule as ScheduleSpec
from vaekit.data.places import with_data_dir
from vaekit.data.sources import SOURCES
from vaekit.densities.images import ImageDistribution
from vaekit.errors import ConfigError, suggest
from vaekit.models.build import HIERARCHIES, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS
from vaekit.models.posteriors import Posterior
from vaekit.models.priors import Prior
from vaekit.objectives import Facts, Needs, needs_of
from vaekit.objectives.build import OBJECTIVES, build_objective, scheduled_defaults

T = TypeVar("T")
WRITTEN_AS = {
    ScheduleValue: ScheduleSpec,
    Weight: ScheduleSpec,
}  # a config has a description where an objective takes a function of the step


def part_factories(config: Config) -> Iterator[tuple[tuple[str, ...], Part, Mapping[str, Callable[..., Any]]]]:
    """(path, part, name -> the callable whose keyword-only parameters are its options) of every part of a config."""
    yield (
        ("model", "network"),
        config.model.network,
        {**{n: pair.encoder for n, pair in NETWORKS.items()}, **HIERARCHIES},
    )
    yield ("model", "posterior"), config.model.posterior, POSTERIORS
    yield ("model", "prior"), config.model.prior, PRIORS
    yield ("model", "likelihood"), config.model.likelihood, LIKELIHOODS
    yield ("objective",), config.objective, OBJECTIVES


def check_config(config: Config) -> Iterator[Problem]:
    """What the schema alone cannot know: unknown parts, options that a part does not take, parts that do not fit."""
    if config.name in ("", ".", "..") or set("/\\:\0") & set(config.name):
        yield Problem(
            ("name",), f"a run is called by one plain name, not {config.name!r}: it is the folder below runs/"
        )
    unknown = wrong = False
    for path, part, table in part_factories(config):
        if part.kind in table:
            _, problems = option_problems(path, table[part.kind], part.options, written_as=WRITTEN_AS)
            problems += _schedule_text_problems(path, part)
            problems += _weight_problems(path, part, table[part.kind])
            yield from problems
            wrong = wrong or bool(problems)
        else:
            unknown = True
            yield Problem((*path, "kind"), f"unknown {path[-1]} '{part.kind}'; {suggest(part.kind, table)}")
    source = SOURCES.get(config.data.source)
    if source is not None and config.data.path is not None and not source.reads_path:
        yield Problem(
            ("data", "path"),
            f"'{config.data.source}' reads no path; for images of your own: vaekit train folder data.path=…",
        )
    if config.data.source not in SOURCES:
        yield Problem(("data", "source"), f"unknown data set; {suggest(config.data.source, SOURCES)}")
    if not unknown:
        yield from (Problem(path, message) for path, message in combination_problems(config))
    if not (unknown or wrong):
        yield from (Problem(("objective",), message) for message in objective_problems(config))


def _schedule_text_problems(path: tuple[str, ...], part: Part) -> Iterator[Problem]:
    for name, value in part.options.items():
        if path == ("objective",) and isinstance(value, str) and name in scheduled_defaults(OBJECTIVES[part.kind]):
            try:
                build_schedule(value, 1)
            except ConfigError as error:
                yield Problem((*path, name), str(error))


def _weight_problems(path: tuple[str, ...], part: Part, factory: Callable[..., Any]) -> Iterator[Problem]:
    parameters = inspect.signature(factory, eval_str=True).parameters
    for name, value in part.options.items():
        kind = parameters[name].annotation if name in parameters else None
        if kind not in (Weight, ScheduleValue):
            continue
        if value in ([], ()):
            yield Problem((*path, name), "an empty list has no value; give (epoch, value) pairs, or a number")
        numbers = list(_numbers(value))
        if wild := [number for number in numbers if not math.isfinite(number)]:
            yield Problem((*path, name), f"{wild[0]} is no finite number; choose another")
        elif kind == Weight and min(numbers, default=0.0) < 0:
            yield Problem((*path, name), f"a weight is 0 or more, but this one is {min(numbers):g}; choose another")


def _numbers(spec: Any) -> Iterator[float]:
    """The values that a schedule takes, as far as a config says them."""
    if isinstance(spec, int | float):
        yield float(spec)
    elif isinstance(spec, str):
        match = PER_PIXEL.fullmatch(spec)
        with suppress(ValueError):
            yield from [float(match[1])] if match else []
    elif isinstance(spec, Mapping):
        yield from (float(spec[name]) for name in ("start", "end") if name in spec)
        yield from _numbers(spec.get("pairs", ()))
    elif isinstance(spec, list | tuple):
        yield from (number for _, value in spec for number in _numbers(value))


def combination_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, message) of choices that exist, but not together."""
    family = LIKELIHOODS[config.model.likelihood.kind].family
    yield from _likelihood_problems(config, family)
    try:
        in_steps(config.training.warmup, 1)
    except ConfigError as error:
        yield ("training", "warmup"), str(error)
    size = config.training.batch_size
    if config.training.accumulate > size:
        yield ("training", "accumulate"), f"a batch of {size} cannot be computed in {config.training.accumulate} parts"
    if config.model.kind == "autoencoder" and config.model.context != "none":
        yield ("model", "context"), "an autoencoder takes no labels; remove it, or set model.kind=vae"
    if config.model.kind == "autoencoder" and config.model.prior.kind != "standard":
        yield ("model", "prior"), "an autoencoder has no prior; remove it, or set model.kind=vae"
    yield from _hierarchy_problems(config)
    yield from _grid_problems(config)
    yield from _side_problems(config)
    if config.model.kind == "vae":
        yield from _prior_problems(config)
        yield from _quantised_problems(config)
        yield from _free_bits_problems(config)


def _hierarchy_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    model = config.model
    kind, levels = model.network.kind, model.network.options.get("levels", ())
    if kind not in HIERARCHIES:
        return
    if model.kind == "autoencoder":
        yield ("model", "network"), f"an autoencoder has no levels; choose model.network={' or '.join(NETWORKS)}"
    if model.posterior != Part("diagonal"):
        yield ("model", "posterior"), f"the levels of '{kind}' have diagonal posteriors; leave model.posterior out"
    if model.latent is not None:
        yield ("model", "latent"), f"the levels of '{kind}' say their sizes by model.network.levels; leave this out"
    if model.prior.kind == "vamp":
        yield ("model", "prior"), "'vamp' is made of posteriors of images, which no level has by itself; choose mixture"
    elif not PRIORS[model.prior.kind].grids and levels and levels[0][0] != 1:
        have = " or ".join(name for name, made in PRIORS.items() if made.grids and not made.discrete)
        yield (
            ("model", "prior"),
            f"'{model.prior.kind}' is of flat codes, and the first level is a grid; begin model.network.levels with "
            f"[1, 1], or choose model.prior={have}",
        )


def _side_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    kind = config.model.network.kind
    if kind in HIERARCHIES:
        return  # any side
    source, data = SOURCES.get(config.data.source), config.data
    sides = data.pad or data.size or (source.shape[1:] if source and source.shape else None)
    if sides is None:
        return  # only the files know
    multiple, sides = NETWORKS[kind].multiple, (sides, sides) if isinstance(sides, int) else sides
    if any(side % multiple for side in sides):
        said = "×".join(map(str, sides))
        yield (
            ("model", "network"),
            f"'{kind}' takes images whose sides are multiples of {multiple}, not {said}; set data.size or data.pad",
        )


def _grid_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    model = config.model
    if model.latent is None or model.network.kind in HIERARCHIES:
        return
    if NETWORKS[model.network.kind].grid_encoder is None:
        have = " or ".join(name for name, network in NETWORKS.items() if network.grid_encoder)
        yield (
            ("model", "network"),
            f"'{model.network.kind}' gives no grid of codes; choose model.network={have}, or model.latent=null",
        )
    asked = ((("model", "posterior"), model.posterior.kind, POSTERIORS), (("model", "prior"), model.prior.kind, PRIORS))
    for path, kind, table in asked if model.kind == "vae" else ():
        if not table[kind].grids:
            have = " or ".join(name for name, made in table.items() if made.grids)
            yield (
                path,
                f"'{kind}' is of flat codes, and model.latent asks for a grid; choose {'.'.join(path)}={have}",
            )


def _prior_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    kind, labelled = config.model.prior.kind, config.model.context == "class"
    if PRIORS[kind].of_class and not labelled:
        yield ("model", "prior"), f"'{kind}' needs the classes: set model.context=class, or another prior"
    if kind == "vamp" and labelled:
        yield ("model", "prior"), "'vamp' has no labels for its pseudo-inputs; set model.context=none, or per-class"


def _quantised_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    posterior, prior = config.model.posterior.kind, config.model.prior.kind
    quantised, codes = POSTERIORS[posterior].discrete, PRIORS[prior].discrete
    if quantised and not codes:
        yield (
            ("model", "prior"),
            f"'{posterior}' gives codes out of a finite set, of which '{prior}' is no prior; set model.prior=codes",
        )
    if codes and not quantised:
        yield (
            ("model", "posterior"),
            f"the prior codes is uniform over a codebook, which '{posterior}' has not; choose vq or fsq",
        )


def _free_bits_problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    free = config.objective.options.get("free_bits", 0)
    per_dimension = config.objective.options.get("free_bits_per", "dimension") == "dimension"
    if not (isinstance(free, int | float) and free > 0 and per_dimension):
        return
    for part, kind, table in (
        ("posterior", config.model.posterior.kind, POSTERIORS),
        ("prior", config.model.prior.kind, PRIORS),
    ):
        if not table[kind].factorises:
            yield (
                ("objective", "free_bits"),
                f"the {part} '{kind}' has no KL per dimension; set objective.free_bits_per=level, "
                "for the KL of all together",
            )


def _likelihood_problems(config: Config, family: type[ImageDistribution]) -> Iterator[tuple[tuple[str, ...], str]]:
    binary = config.data.binarize != "none"
    kind = config.model.likelihood.kind
    where = ("model", "likelihood")
    if family.base_measure == "binary" and not binary:
        yield (
            where,
            (
                f"'{kind}' describes 0/1 pixels but data.binarize is none; set data.binarize=dynamic, "
                "or choose continuous-bernoulli, gaussian, discretised-logistic, or bce (not a likelihood)"
            ),
        )
    if family.base_measure != "binary" and binary:
        yield where, f"data.binarize={config.data.binarize} gives 0/1 pixels; use bernoulli, or data.binarize=none"
    discrete = family.base_measure.startswith("discrete")
    if config.data.dequantize and (binary or discrete or not family.is_likelihood):
        yield ("data", "dequantize"), f"dequantised values are for densities such as gaussian, not for '{kind}'"
    yield from _bits_problems(config, discrete)
    if config.model.likelihood.options.get("coupling") is True and _channels(config) == 1:
        yield (
            (*where, "coupling"),
            "coupling ties the colours of a pixel but these images have one channel; leave it out",
        )


def _bits_problems(config: Config, discrete: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    data, part = config.data.bits, config.model.likelihood
    if data != 8 and config.data.binarize != "none":
        yield ("data", "bits"), f"data.binarize={config.data.binarize} makes every value one bit; leave data.bits out"
    elif discrete:
        described = part.options.get("bits", 8)
        if isinstance(described, int) and described != data:
            yield (
                ("model", "likelihood", "bits"),
                f"'{part.kind}' describes values of {described} bits but data.bits={data}; set data.bits={described}, "
                f"or model.likelihood.bits={data}",
            )


def _channels(config: Config) -> int | None:
    """Of the images; None where only the files know."""
    shape = SOURCES[config.data.source].shape if config.data.source in SOURCES else None
    return config.data.channels or (shape[0] if shape else None)


def objective_problems(config: Config) -> Iterator[str]:
    """What an objective needs and this config does not give."""
    kind, model, training = config.objective.kind, config.model, config.training
    try:
        with torch.device("meta"):  # its weights are not wanted here, nor the random numbers that they would take
            built = build_objective(config.objective, 1, 1, Facts(1, model.latent_dim))
    except ConfigError as error:
        yield str(error)
        return
    needs = needs_of(built.objective)
    if needs.coupled and training.accumulate > 1:
        yield f"'{kind}' couples the images of a batch, so parts of it are another loss; set training.accumulate=1"
    if training.samples % needs.groups:
        yield (
            f"training.samples={training.samples} cannot be divided into {needs.groups} groups; "
            f"set training.samples={needs.groups * max(2, training.samples // needs.groups)}, or objective.groups=1"
        )
    if needs.latents and model.kind == "autoencoder":
        yield f"'{kind}' needs a posterior and a prior, which an autoencoder lacks; set model.kind=vae"
    if needs.one_group and model.network.kind in HIERARCHIES:
        yield f"'{kind}' is of one group of latents, and a hierarchy has many; choose objective=elbo or iwae"
    if model.kind == "vae":
        yield from _part_problems(config, needs)


def _part_problems(config: Config, needs: Needs) -> Iterator[str]:
    """Of the posterior and the prior."""
    posterior, prior = POSTERIORS[config.model.posterior.kind], PRIORS[config.model.prior.kind]
    said = " ".join([f"'{config.objective.kind}'", *(f"{k}={v}" for k, v in config.objective.options.items())])
    if needs.continuous and posterior.discrete:
        yield f"{said} needs codes with a density; {_of(POSTERIORS, 'posterior', _continuous)}, or objective=elbo"
    if needs.flat and config.model.latent is not None:
        yield f"{said} takes a code apart into numbers, which mean little alone in a grid; set model.latent=null"
    if needs.factorised and not posterior.factorises:
        yield f"{said} needs independent dimensions of the code; {_of(POSTERIORS, 'posterior', _independent)}"
    if needs.fixed_prior and not prior.fixed:
        yield f"{said} trains no prior; {_of(PRIORS, 'prior', _fixed)}, or objective=mmd"


def _continuous(made: type[Posterior]) -> bool:
    return not made.discrete


def _independent(made: type[Posterior]) -> bool:
    return made.factorises and not made.discrete


def _fixed(made: type[Prior]) -> bool:
    return made.fixed and not made.discrete


def _of(table: Mapping[str, type[T]], part: str, fits: Callable[[type[T]], bool]) -> str:
    return f"choose model.{part}=" + " or ".join(name for name, made in table.items() if fits(made))


def read_config(recipe: str, overrides: Sequence[Override] = (), data_dir: str | None = None) -> Config:
    """A recipe's name or a YAML file, with overrides, checked whole, its paths absolute.

    ConfigError with every problem at once.
    """
    config = load_config(recipe, overrides, check=check_config)
    where = config.data.root if data_dir is None else data_dir
    return absolute(config if where is None else replace(config, data=with_data_dir(config.data, where)))
