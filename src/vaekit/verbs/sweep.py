"""`vaekit sweep`: a recipe trained for every combination of some values and seeds, and what it comes to on average."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vaekit import plots
from vaekit.config.schema import Config
from vaekit.config.yaml_source import read_yaml
from vaekit.errors import ConfigError
from vaekit.evaluation.report import csv_text
from vaekit.files import write_text_atomically
from vaekit.plots.sweep import Point, rate_distortion
from vaekit.training.combinations import read_config
from vaekit.verbs.evaluate import known_metrics
from vaekit.verbs.train import refuse_another_run, train, train_on

BETA = "objective.beta"


class Key(NamedTuple):
    """A key of the config and the values that it takes in turn."""

    name: str
    values: list[Any]


class Job(NamedTuple):
    """One training: its values of the varied keys, its seed, its overrides and its folder."""

    values: dict[str, Any]
    seed: int
    overrides: list[str]
    folder: Path


class Mean(NamedTuple):
    """Over the seeds; the standard deviation (n - 1) is None for one seed."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Combination:
    """The metrics of one combination of values over its seeds."""

    values: Mapping[str, Any]
    seeds: Sequence[int]
    metrics: Mapping[str, Mean]


@dataclass(frozen=True)
class Sweep:
    """What came out, and the files that it was written to."""

    combinations: list[Combination]
    paths: list[Path]


def sweep(
    recipe: str,
    *overrides: str | Mapping[str, Sequence[Any]],
    seeds: int = 1,
    out: str | Path | None = None,
    samples: int = 100,
    data_dir: str | None = None,
    device: str = "auto",
    announce: Callable[[str], None] = lambda text: None,
    train_run: Callable[..., Path] = train,
) -> Sweep:
    """Train and evaluate `recipe` for every combination of `key=a,b,c` overrides and seed; write the means.

    Overrides are also mappings of keys to lists of values, {"objective.beta": [0.1, 1]}.

    In `out` (default runs/sweep-RECIPE): one run per combination and seed, sweep.csv (a row for each combination),
    sweep.json (the runs too), and rate_distortion.png where objective.beta varies. A run that is there and finished
    is not trained again, an interrupted one goes on. Seeds count from training.seed; the splits stay those of
    data.seed. ConfigError for an unknown key or value before anything is trained.
    """
    keys = [key for given in overrides for key in _keys_of(given)]
    folder = Path(out) if out is not None else Path("runs") / f"sweep-{Path(recipe).stem}"
    planned = plan(recipe, keys, seeds, folder, data_dir)
    for job, config in planned:
        refuse_another_run(job.folder, config)
    results = []
    for number, (job, config) in enumerate(planned, start=1):
        said = " ".join([*(f"{name}={short(value)}" for name, value in job.values.items()), f"seed {job.seed}"])
        announce(f"{number} of {len(planned)}: {said}")
        train_on(recipe, job.overrides, job.folder, device=device, data_dir=data_dir, train_run=train_run)
        where = config.data.path or config.data.root  # where it lies now, also for runs that are there already
        results.append((job, known_metrics(job.folder, samples=samples, device=device, data_dir=where)))
    combinations = averaged(results)
    paths = _write(folder, recipe, samples, results, combinations)
    points = points_of(combinations)
    if points:
        picture = plots.save_figure(rate_distortion(points), folder / "rate_distortion.png")
        paths.append(picture)
    return Sweep(combinations, paths)


def _keys_of(given: str | Mapping[str, Sequence[Any]]) -> list[Key]:
    if not isinstance(given, Mapping):
        return [parse_key(given)]
    for name, values in given.items():
        if not isinstance(values, list | tuple):
            raise ConfigError(f"{name} is {values!r}; a sweep takes a list of values, {{{name!r}: [{values!r}]}}")
    return [Key(name, list(values)) for name, values in given.items()]


def parse_key(text: str) -> Key:
    """A key and its values, which are YAML: `objective.beta=0.1,1` has two, `model.network.widths=[64, 64]` one.

    Example:
        >>> parse_key("objective.beta=0.1,{kind: linear, over: 2}")
        Key(name='objective.beta', values=[0.1, {'kind': 'linear', 'over': 2}])
    """
    name, equals, written = text.partition("=")
    document = read_yaml(f"[{written}]")
    if not equals or not name.strip() or not written.strip():
        raise ConfigError(f"'{text}' is no key with values; write section.key=a,b,c, such as objective.beta=0.1,1")
    if document.faults or any(value == "" for value in document.value):
        raise ConfigError(f"'{text}': the values cannot be read as YAML; write them as a,b,c, lists in brackets")
    return Key(name.strip(), document.value)


def plan(
    recipe: str, keys: Sequence[Key], seeds: int, folder: Path, data_dir: str | None = None
) -> list[tuple[Job, Config]]:
    """Every training in its order, seeds innermost, with its config checked. ConfigError for the first wrong one."""
    names = [key.name for key in keys]
    if len(set(names)) < len(names):
        raise ConfigError(f"{next(n for n in names if names.count(n) > 1)} is given twice; write its values as a,b,c")
    if any(key.name == "training.seed" and len(key.values) > 1 for key in keys):
        raise ConfigError("training.seed cannot be swept; --seeds N trains every combination with N seeds")
    if seeds < 1:
        raise ConfigError(f"{seeds} seeds; give 1 or more")
    fixed = [override(key.name, key.values[0]) for key in keys if len(key.values) == 1]
    varied = [key for key in keys if len(key.values) > 1]
    planned = []
    for chosen in itertools.product(*(key.values for key in varied)):
        values = {key.name: value for key, value in zip(varied, chosen, strict=True)}
        wishes = [*fixed, *(override(name, value) for name, value in values.items())]
        first = read_config(recipe, wishes, data_dir).training.seed
        place = folder / (",".join(f"{name}={slug(value)}" for name, value in values.items()) or "run")
        for seed in range(first, first + seeds):
            whole = [wish for wish in wishes if not wish.startswith("training.seed=")] + [f"training.seed={seed}"]
            job = Job(values, seed, whole, place / f"seed-{seed}")
            planned.append((job, read_config(recipe, whole, data_dir)))
    return planned


def override(name: str, value: Any) -> str:
    """`key=value` as the config takes it. JSON is YAML."""
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def short(value: Any) -> str:
    """A value as a person would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def slug(value: Any) -> str:
    """A value as part of a folder's name; what a name cannot hold is replaced, and a digest keeps it apart."""
    text = short(value)
    safe = re.sub(r"[^\w.+-]+", "_", text).strip("_.")[:40]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def averaged(results: Sequence[tuple[Job, Mapping[str, Any]]]) -> list[Combination]:
    """Mean and standard deviation over the seeds of every metric that is a number in all of them."""
    groups: dict[str, list[tuple[Job, Mapping[str, Any]]]] = {}
    for job, metrics in results:
        groups.setdefault(json.dumps(job.values), []).append((job, metrics))
    combinations = []
    for group in groups.values():
        found = [metrics for _, metrics in group]
        numbers = [k for k, v in found[0].items() if isinstance(v, int | float) and not isinstance(v, bool)]
        means = {key: mean_of([float(m[key]) for m in found]) for key in numbers if all(key in m for m in found)}
        combinations.append(Combination(group[0][0].values, [job.seed for job, _ in group], means))
    return combinations


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and sample standard deviation.

    Example:
        >>> mean_of([1.0, 2.0, 3.0])
        Mean(mean=2.0, sd=1.0)
    """
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, None)
    return Mean(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))


def points_of(combinations: Sequence[Combination]) -> list[Point]:
    """The points of the rate–distortion curve: none where β does not vary, or the models have no rate."""
    points = []
    for found in combinations:
        rate, distortion = found.metrics.get("rate_nats"), found.metrics.get("distortion_nats")
        if BETA in found.values and rate and distortion:
            others = " ".join(f"{k}={short(v)}" for k, v in found.values.items() if k != BETA)
            points.append(Point(others, short(found.values[BETA]), *rate, *distortion))
    return points


def _write(
    folder: Path,
    recipe: str,
    samples: int,
    results: Sequence[tuple[Job, Mapping[str, Any]]],
    combinations: Sequence[Combination],
) -> list[Path]:
    varied = list(combinations[0].values)
    metrics = list(dict.fromkeys(key for found in combinations for key in found.metrics))
    header = [*varied, "seeds", *(f"{key}_{part}" for key in metrics for part in Mean._fields)]
    rows = [
        [
            *map(short, found.values.values()),
            len(found.seeds),
            *(part for key in metrics for part in found.metrics.get(key, (None, None))),
        ]
        for found in combinations
    ]
    write_text_atomically(folder / "sweep.csv", csv_text([header, *rows]))
    whole = {
        "recipe": recipe,
        "nll_samples": samples,
        "combinations": [
            {
                "values": dict(found.values),
                "seeds": list(found.seeds),
                "metrics": {key: mean._asdict() for key, mean in found.metrics.items()},
            }
            for found in combinations
        ],
        "runs": [
            {"folder": str(job.folder.relative_to(folder)), "values": job.values, "seed": job.seed, "metrics": metrics}
            for job, metrics in results
        ],
    }
    write_text_atomically(folder / "sweep.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return [folder / "sweep.csv", folder / "sweep.json"]
