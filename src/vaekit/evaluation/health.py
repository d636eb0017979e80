"""A plain diagnosis of a model, from its metrics and its history: what is wrong, the numbers, and what to try.

The limits are stated once, below: they are where a reader would start to worry, not laws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vaekit.data.dataset import Dataset, spread
from vaekit.data.pixels import Pixels
from vaekit.evaluation.code_use import code_use
from vaekit.evaluation.evaluate import Metrics
from vaekit.evaluation.latents import latent_use
from vaekit.models.model import Model

UNUSED_SHARE = 0.5  # of the dimensions
FEW_CODES = 0.25  # of the codebook's rows, or of the choices where they are fewer
LOWEST_RATE = 1.0  # nats an image
AGGREGATE_NATS, AGGREGATE_SHARE = 1.0, 0.02  # of the rate; both must be passed
FAR_SAMPLES = 3.0  # times the Fréchet distance of reconstructions
FAR_RECONSTRUCTIONS = 10.0  # times that of real images
DIVERGED_NATS, DIVERGED_SHARE = 1.0, 0.1  # an image, and of the loss before the first update; both must be passed
OVERFIT_NATS = 1.0  # an image; and
OVERFIT_SHARE, WORSENED_SHARE = 0.1, 0.03  # of what the training ELBO has gained since its first row
FEW_EFFECTIVE = 2.0  # samples, where K is at least
MANY_SAMPLES = 10
SEEN_IMAGES = 1000  # of the validation set, evenly spread, during training: enough for moments

Row = Mapping[str, Any]  # of a run's history


class Finding(NamedTuple):
    """One thing that is wrong: what it is called, and the sentence with its numbers."""

    topic: str
    text: str


def diagnose(metrics: Metrics, history: Sequence[Row] = (), first_loss: float | None = None) -> list[Finding]:
    """Everything that looks wrong; nothing for a healthy model. What was not measured is not judged.

    `metrics` are those of metrics.json, with or without those of the quality table; `history` the rows of history.csv;
    `first_loss` the loss before the first update. Of the codes of a training that diverged nothing more is said.
    """
    common = [*_numbers(metrics), *_bound(metrics), *_skipped(history)]
    if diverged := list(_divergence(history, first_loss)):
        return [*common, *diverged]
    judges = (_codes, _codebook, _decoder, _prior)
    return [*common, *(finding for judge in judges for finding in judge(metrics)), *_overfitting(history)]


def _numbers(metrics: Metrics) -> Iterator[Finding]:
    broken = [key for key, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
    if broken:
        yield Finding(
            "not finite", f"{', '.join(broken)}: not finite; lower training.learning_rate or training.clip, train again"
        )


def _bound(metrics: Metrics) -> Iterator[Finding]:
    effective, samples = metrics.get("effective_samples", math.inf), metrics.get("nll_samples", 0)
    if effective < FEW_EFFECTIVE and samples >= MANY_SAMPLES:
        yield Finding(
            "loose bound",
            f"effective samples {effective:.1f} of {samples}: one code carries the importance-weighted bound, which is "
            "loose, and its errors are too small; try vaekit ais RUN, or vaekit evaluate RUN with more --samples",
        )


def _codes(metrics: Metrics) -> Iterator[Finding]:
    rate, dims = metrics.get("rate_nats", math.nan), metrics.get("latent_dim", 0)
    unused = dims - metrics.get("active_units", dims)
    if rate < LOWEST_RATE:
        yield Finding(
            "no code",
            f"the code carries {rate:.2f} nats an image, so every image decodes to the same (posterior collapse): "
            "try objective.beta={kind: linear, over: 20}, a smaller objective.beta, or objective.free_bits=0.1",
        )
    elif unused > UNUSED_SHARE * dims and "codes_used" not in metrics:  # else the codebook tells it better
        yield Finding(
            "unused dimensions",
            f"{unused} of {dims} dimensions are unused (posterior collapse): try objective.free_bits=0.1 or a slower β "
            f"(objective.beta={{kind: linear, over: 20}}); or model.latent_dim={max(1, dims - unused)}, "
            "if the reconstructions are good enough",
        )
    without, distortion = metrics.get("distortion_without_code_nats"), metrics.get("distortion_nats")
    if without is not None and distortion is not None and rate >= LOWEST_RATE and without - distortion < rate:
        remedy = "raise objective.beta towards 1"
        if "codes_used" in metrics:
            remedy = "choose fewer codes, levels or groups in model.posterior"  # a constant rate has no gradient
        yield Finding(
            "costly code",
            f"the code costs {rate:.1f} nats but saves only {without - distortion:.1f} nats of distortion "
            f"({without:.1f} without it, {distortion:.1f} with it): {remedy}, or train longer",
        )


def _codebook(metrics: Metrics) -> Iterator[Finding]:
    if "codes_used" not in metrics:
        return
    used, total = metrics["codes_used"], metrics["codes_total"]
    if used < FEW_CODES * metrics["codes_chances"]:
        yield Finding(
            "unused codes",
            f"{used} of {total} codes are used: the codebook has collapsed, and the others are never trained; try "
            f"model.posterior.codes={max(2, 2 * used)}, a larger model.posterior.groups, a smaller "
            "model.posterior.commitment, or model.posterior=fsq, which has no codebook to train",
        )


def _frechet(metrics: Metrics) -> tuple[str, dict[str, float]]:
    """The name of the features, and the Fréchet distance of each source, where the quality table is there."""
    name = metrics.get("quality_features", "")
    start = f"{name}_frechet_"
    return name, {key.removeprefix(start): value for key, value in metrics.items() if name and key.startswith(start)}


def _decoder(metrics: Metrics) -> Iterator[Finding]:
    name, found = _frechet(metrics)
    if {"real", "reconstructions"} <= found.keys() and found["reconstructions"] > FAR_RECONSTRUCTIONS * found["real"]:
        yield Finding(
            "reconstructions",
            f"reconstructions are far from real images (the {name} Fréchet distance is {found['reconstructions']:.1f}, "
            f"{found['real']:.1f} for real ones), and no sampler mends that: try a larger model.latent_dim or "
            "model.network, more training.epochs, or a smaller objective.beta",
        )


def _prior(metrics: Metrics) -> Iterator[Finding]:
    reasons = []
    gap, rate = metrics.get("aggregate_kl_nats", 0.0), metrics.get("rate_nats", math.inf)
    far = gap > AGGREGATE_NATS and gap > AGGREGATE_SHARE * rate
    if far:
        reasons.append(f"their moments differ by {gap:.1f} nats, of a rate of {rate:.1f}")
    name, found = _frechet(metrics)
    if {"real", "reconstructions", "prior_samples"} <= found.keys():
        samples, decoded = found["prior_samples"], found["reconstructions"]
        if samples > FAR_SAMPLES * max(decoded, found["real"]):
            reasons.append(
                f"the {name} Fréchet distance is {samples:.1f} for samples, {decoded:.1f} for reconstructions"
            )
    if reasons:
        yield Finding(
            "prior",
            f"prior samples are far {'from the aggregate posterior' if far else 'less real than reconstructions'} "
            f"({'; '.join(reasons)}): "
            "try a sampler fitted to the codes (vaekit sample RUN --sampler mixture), a richer model.prior, "
            "or a larger objective.beta",
        )


def _skipped(history: Sequence[Row]) -> Iterator[Finding]:
    if history and (skipped := int(history[-1].get("skipped") or 0)):
        steps = int(history[-1]["step"])
        yield Finding(
            "skipped updates",
            f"{skipped} of {steps} updates were not finite and were skipped: "
            "lower training.learning_rate or training.clip, or use training.precision=float32",
        )


def _divergence(history: Sequence[Row], first_loss: float | None) -> Iterator[Finding]:
    """Whether training left the model worse than it found it: on training images too, for else it is overfitting."""
    if first_loss is None or not history:
        return
    last = {row["split"]: row for row in history}
    losses = [row["selection" if split == "validation" else "loss"] for split, row in last.items()]
    if not min(losses) <= first_loss + max(DIVERGED_NATS, DIVERGED_SHARE * abs(first_loss)):
        yield Finding(
            "diverged",
            f"training diverged: the loss is {max(losses):.4g} nats, and was {first_loss:.4g} before the first update; "
            "train again with a lower training.learning_rate, a longer training.warmup, or training.clip=100",
        )


def _overfitting(history: Sequence[Row]) -> Iterator[Finding]:
    held = [row for row in history if row["split"] == "validation"]
    seen = [row for row in history if row["split"] == "train"]
    if len(held) < 2 or not seen:
        return
    best, last = max(row["elbo"] for row in held), held[-1]["elbo"]
    gained, gap = seen[-1]["elbo"] - seen[0]["elbo"], seen[-1]["elbo"] - last
    if not gap > OVERFIT_NATS or gained <= 0:
        return
    remedy = "stop earlier (training.patience=5), use more images, data.flip or data.shift, or training.weight_decay"
    if best - last > max(OVERFIT_NATS, WORSENED_SHARE * gained):
        yield Finding(
            "overfitting",
            f"the validation ELBO fell from {best:.2f} to {last:.2f} nats while training went on: {remedy}",
        )
    elif gap > OVERFIT_SHARE * gained:
        yield Finding(
            "overfitting",
            f"the ELBO is {seen[-1]['elbo']:.2f} nats on training images and {last:.2f} on validation images, "
            f"a gap of {gap:.2f}: {remedy}",
        )


class Watch:
    """The same diagnosis while a model trains: it speaks when a problem appears or goes away, not in between."""

    def __init__(self) -> None:
        self.topics: dict[str, Finding] = {}

    def news(
        self,
        model: Model,
        dataset: Dataset,
        pixels: Pixels,
        seed: int,
        history: Sequence[Row],
        first_loss: float | None,
    ) -> list[str]:
        """Sentences for a log after a validation. Costs a pass or two of the encoder over at most 1,000 images."""
        metrics: Metrics = {}
        if model.has_posterior:
            seen = dataset.subset(spread(len(dataset), SEEN_IMAGES))
            use = latent_use(model, seen, pixels, seed)
            metrics = {
                "rate_nats": use.rate_nats,
                "active_units": int(use.active.sum()),
                "latent_dim": len(use.active),
            }
            counted = code_use(model, seen, pixels, seed)
            if counted:
                metrics |= counted.metrics()
            elif use.has_covariance:
                metrics["aggregate_kl_nats"] = use.aggregate_gap_nats
        return self.heard(diagnose(metrics, history, first_loss))

    def heard(self, findings: Sequence[Finding]) -> list[str]:
        """What is new among these findings, and what is no longer there."""
        now = {finding.topic: finding for finding in findings}
        appeared = [f"health: {finding.text}" for topic, finding in now.items() if topic not in self.topics]
        gone = [f"health: no longer: {topic}" for topic in self.topics if topic not in now]
        self.topics = now
        return appeared + gone
