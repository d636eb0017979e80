"""Before training: does the data fit the likelihood, do the shapes work, is there memory, what does β amount to?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from vaekit.config.schedules import build_learning_rate, in_steps
from vaekit.config.schema import Config
from vaekit.data.batches import Batches
from vaekit.data.pixels import Pixels
from vaekit.data.splits import Splits, load_splits
from vaekit.densities.images import refusal
from vaekit.models.build import build_model
from vaekit.models.model import Model
from vaekit.models.trace import terms
from vaekit.objectives import Facts
from vaekit.objectives.build import build_objective
from vaekit.system import free_memory
from vaekit.training.device import choose_device
from vaekit.training.validation import adopt

FIRST_IMAGES = 256  # of the first batch: enough to see what it is like, whatever the memory


class Finding(NamedTuple):
    """One thing looked at: fine, worth a thought, or certain to fail."""

    verdict: Literal["ok", "look", "problem"]
    topic: str
    text: str


def doctor(config: Config) -> list[Finding]:
    """Every finding for a config and its data. Trains nothing; raises what a training would raise at its start."""
    splits = load_splits(config.data)
    return [
        *_data(config, splits),
        *_values(config, splits),
        *_model(config, splits),
        *_objective(config, splits),
        *_length(config, splits),
    ]


def _length(config: Config, splits: Splits) -> Iterator[Finding]:
    """Of the warm-up, beside the run's."""
    per_epoch = max(1, len(splits.train) // config.training.batch_size)
    total, warmup = config.training.epochs * per_epoch, in_steps(config.training.warmup, per_epoch)
    if warmup > total / 10:
        yield Finding(
            "look",
            "warm-up",
            f"{warmup:,.0f} of {total:,.0f} steps pass before the learning rate is reached; lower training.warmup",
        )


def _data(config: Config, splits: Splits) -> Iterator[Finding]:
    channels, height, width = splits.train.shape
    counts = f"{len(splits.train):,} train, {len(splits.validation):,} validation, {len(splits.test):,} test"
    yield Finding("ok", "data", f"{height}×{width}×{channels}, {counts}")
    size = config.training.batch_size
    if len(splits.train) < size:
        yield Finding(
            "look", "batch size", f"{size} is more than the {len(splits.train)} images; a batch is all of them"
        )
    if len(splits.validation) == 0:
        yield Finding("look", "validation", "no images: the last checkpoint counts as the best; set data.validation")
    if splits.facts.get("skipped"):
        listed = splits.facts["skipped_csv"]
        yield Finding("look", "skipped", f"{splits.facts['skipped']} unreadable images, listed in {listed}")
    if splits.facts.get("others"):
        yield Finding("look", "other files", f"no images by their endings, left out: {splits.facts['others']}")
    if named := splits.train.class_names:
        yield Finding("ok", "classes", f"{len(named)}: {', '.join(named[:10])}{', …' if len(named) > 10 else ''}")
    if splits.train.images[:1000].float().std() < 1:
        yield Finding("problem", "data", "the first 1,000 images are all alike; is this the right folder?")


def _values(config: Config, splits: Splits) -> Iterator[Finding]:
    images = splits.train.images[:2000]
    kind = config.model.likelihood.kind
    extremes = float(((images == 0) | (images == 255)).float().mean())
    share = f"{extremes:.0%} of pixel values are black or white"
    if config.data.binarize != "none" and extremes < 0.3:
        text = f"only {share}: binarising throws most of the picture away; try discretised-logistic or gaussian"
        yield Finding("look", "likelihood", text)
    elif kind == "bce":
        text = f"bce is a loss, not a likelihood ({share}): no NLL or bits/dim; continuous-bernoulli is its density"
        yield Finding("look", "likelihood", text)
    elif kind in ("gaussian", "laplace", "charbonnier") and not config.data.dequantize:
        text = f"{kind} is a density on 8-bit values: set data.dequantize=true for bits/dim"
        yield Finding("look", "likelihood", text)
    else:
        yield Finding("ok", "likelihood", f"{kind} fits the values ({share})")


def _model(config: Config, splits: Splits) -> Iterator[Finding]:
    shape = splits.train.shape
    model = build_model(config.model, shape, len(splits.train.class_names))
    adopt(model, splits.train, Pixels.of(config.data), config.training.seed)
    weights = sum(p.numel() for p in model.parameters())
    pixels = math.prod(shape)
    yield Finding("ok", "model", f"{weights:,} weights; {pixels:,} values to {model.layout.width} and back")
    if model.layout.width >= pixels:
        text = f"a code of {model.layout.width} numbers is not below the {pixels} values of an image"
        yield Finding("look", "latent_dim", text)
    per_image = _activation_bytes(model, shape)
    images = min(config.training.batch_size, len(splits.train))
    batch = images * config.training.samples / config.training.accumulate
    need = weights * 4 * 5 + per_image * batch  # weights, gradients, two moments, average
    have = _free_bytes(config)
    text = f"about {need / 2**30:.2f} GiB of {have / 2**30:.1f} GiB free"
    if need > have:
        parts = 2 ** math.ceil(math.log2(need / have)) * config.training.accumulate
        advice = (
            f"set training.accumulate={parts}" if parts <= images else "lower training.samples or the network's size"
        )
        yield Finding("problem", "memory", f"{text}; {advice}")
    else:
        yield Finding("ok", "memory", text)


def _activation_bytes(model: Model, shape: tuple[int, int, int]) -> float:
    """What one image leaves in memory between forward and backward: what autograd keeps, the density's part too."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    context = torch.zeros(2, dtype=torch.int64) if model.classes else None
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trace = model(torch.zeros(2, *shape), context=context)
        total = sum(kept.values()) if trace.log_px.requires_grad else 0  # while the trace still holds them
    return total / 2 * 1.5  # of two images; the backward pass adds gradients as it frees


def _free_bytes(config: Config) -> float:
    device = choose_device(config.training.device)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(free_memory())


@torch.no_grad()
def _objective(config: Config, splits: Splits) -> Iterator[Finding]:
    """β as it acts: its own value, and in the units of a per-pixel mean."""
    batches = Batches(splits.train, config.training.batch_size, config.training.seed)
    steps = max(1, round(config.training.epochs * batches.steps_per_epoch))
    pixels = math.prod(splits.train.shape)
    model = build_model(replace(config.model), splits.train.shape, len(splits.train.class_names))
    facts = Facts(len(splits.train), model.layout.width)
    built = build_objective(config.objective, batches.steps_per_epoch, pixels, facts)
    ends = {name: (float(s(torch.tensor(0))), float(s(torch.tensor(steps)))) for name, s in built.schedules.items()}
    if "beta" in ends:
        weight = ends.get("weight", (1.0, 1.0))[1]
        effective = ends["beta"][1] / weight if weight else math.inf
        text = (
            f"β from {ends['beta'][0]:g} to {ends['beta'][1]:g}, weight {weight:g}: effective β {effective:g} in nats; "
            f"the same as a weight of {pixels / effective if effective else math.inf:g} on a per-pixel mean"
        )
        yield Finding("ok" if 0.05 <= effective <= 20 else "look", "effective β", text)
    indices = batches.indices(0)[:FIRST_IMAGES]
    seed = config.training.seed
    x = Pixels.of(config.data).for_training(batches.gather(indices), indices, torch.tensor(0), seed)
    context = splits.train.context(x.device)[indices] if model.classes else None
    trace = model(x, context=context)
    values = terms(trace)
    refused = refusal(trace.px, x)
    verdict: Literal["ok", "problem"] = "ok" if refused is None and bool(torch.isfinite(values["elbo"])) else "problem"
    distortion, rate = float(values["distortion"]), float(values["rate"])
    text = f"distortion {distortion:.1f} nats, rate {rate:.2f} nats, before training"
    text += f"; {config.model.likelihood.kind} does not fit: {refused}" if refused else ""
    yield Finding(verdict, "first batch", text)
    schedule = build_learning_rate(config.training, batches.steps_per_epoch, steps)
    rates = [float(schedule(torch.tensor(at))) for at in (0, steps // 2, steps - 1)]
    yield Finding("ok", "learning rate", "first, middle, last step: " + ", ".join(f"{rate:.3g}" for rate in rates))
    if model.has_posterior and config.objective.kind == "elbo" and steps < 100:
        yield Finding("look", "length", f"only {steps} updates in all; raise training.epochs or lower batch_size")
