"""Bounds on log p(x) over a whole data set, every image once, streamed over images and samples.

Sums run in float64; noise depends on (seed, image, sample) alone, so batch and chunk change nothing but speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.noise import IMAGES_PER_BLOCK, BlockNoise, Noise, RepeatedNoise
from vaekit.evaluation.chunks import PAIRS_TO_COMPILE, Chunks, rows_at_once
from vaekit.models.model import Model


@dataclass(frozen=True)
class Bounds:
    """Per image, nats, float64 (N,): each bounds log p(x) from below, except distortion and rate, which are parts."""

    elbo: Tensor
    distortion: Tensor  # -log p(x | z), mean over the samples
    rate: Tensor  # KL(q || p)
    importance: Tensor  # log 1/K sum_k p(x, z_k) / q(z_k | x)
    effective_samples: Tensor  # (sum w)^2 / sum w^2, between 1 and K
    samples: int

    @property
    def nll_nats(self) -> float:
        """-importance-weighted bound, mean over the data set."""
        return -float(self.importance.mean())

    @property
    def nll_se_nats(self) -> float | None:
        """Standard error of that mean over images: how well the data set's size pins it down. None for one image."""
        count = len(self.importance)
        return float(self.importance.std()) / math.sqrt(count) if count > 1 else None

    @property
    def nll_sampling_se_nats(self) -> float | None:
        """Standard error from the finite number of samples alone (delta method). None for one sample."""
        if self.samples < 2:
            return None
        variance = (1 / self.effective_samples - 1 / self.samples).clamp_min(0)
        return math.sqrt(float(variance.sum())) / len(variance)


class StreamedLogMean:
    """log 1/K sum exp(w) and the effective sample size of (K, B) log-weights that come in chunks over K."""

    def __init__(self) -> None:
        self.count = 0
        self.log_sum: Tensor | None = None
        self.log_sum_of_squares: Tensor | None = None

    def add(self, log_weights: Tensor) -> None:
        """log_weights (k, B), nats."""
        w = log_weights.double()
        total, squares = torch.logsumexp(w, 0), torch.logsumexp(2 * w, 0)
        self.log_sum = total if self.log_sum is None else torch.logaddexp(self.log_sum, total)
        previous = self.log_sum_of_squares
        self.log_sum_of_squares = squares if previous is None else torch.logaddexp(previous, squares)
        self.count += len(w)

    def result(self) -> tuple[Tensor, Tensor]:
        """(log-mean-exp, effective sample size), each (B,)."""
        assert self.log_sum is not None and self.log_sum_of_squares is not None
        return self.log_sum - math.log(self.count), torch.exp(2 * self.log_sum - self.log_sum_of_squares)


def bounds(
    model: Model,
    dataset: Dataset,
    pixels: Pixels,
    samples: int,
    seed: int,
    *,
    rows: int | None = None,
    compiled: bool | None = None,
    progress: Callable[[float], None] = lambda share: None,
    say: Callable[[str], None] = lambda text: None,
) -> Bounds:
    """ELBO and importance-weighted bound with K = `samples` of every image.

    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519. `rows`: images times samples decoded at once; None asks the
    free memory. `compiled`: None where the work is long enough to win back the compilation; `say` hears where this
    machine cannot. `progress` hears the share of images that are done.
    """
    device = next(model.parameters()).device
    if compiled is None:
        compiled = len(dataset) * samples >= PAIRS_TO_COMPILE.get(device.type, math.inf)
    chunks = Chunks(model, rows or rows_at_once(model, device), compiled, say)
    batch = min(IMAGES_PER_BLOCK, chunks.rows) if samples > 1 else min(len(dataset), chunks.rows)
    results: list[tuple[Tensor, ...]] = []
    for start, _, x, context in passes.over(model, dataset, pixels, seed, batch=batch):
        results.append(bounds_of_batch(chunks, x, samples, partial(BlockNoise, seed, start), context))
        progress((start + len(x)) / len(dataset))
    elbo, distortion, rate, importance, effective = (torch.cat(c).cpu() for c in zip(*results, strict=True))
    return Bounds(elbo, distortion, rate, importance, effective, samples)


@torch.no_grad()
def bounds_of_each(
    model: Model,
    images: Tensor,
    pixels: Pixels,
    samples: int,
    seed: int,
    *,
    rows: int | None = None,
    context: Tensor | None = None,
) -> Bounds:
    """`bounds` of uint8 images (N, C, H, W), each as a data set of its own: its numbers depend on it and the seed."""
    device = next(model.parameters()).device
    chunks = Chunks(model, rows or rows_at_once(model, device))
    results = []
    size = max(1, chunks.rows // chunks.count(1, samples))
    for first in range(0, len(images), size):
        x = pixels.for_each(images[first : first + size].to(device), seed)
        labels = None if context is None else context[first : first + size]
        results.append(bounds_of_batch(chunks, x, samples, partial(RepeatedNoise, seed), labels))
    elbo, distortion, rate, importance, effective = (torch.cat(c).cpu() for c in zip(*results, strict=True))
    return Bounds(elbo, distortion, rate, importance, effective, samples)


@torch.no_grad()
def bounds_of_batch(
    chunks: Chunks, x: Tensor, samples: int, noise_from: Callable[[int], Noise], context: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Elbo, distortion, rate, importance bound and effective samples of x (B, C, H, W): each (B,), nats, float64.

    `noise_from` gives the noise of the samples from a first one on.
    """
    encoded = chunks.model.encoded(x, context)
    shapes = chunks.model.noise_shapes(encoded)
    stream = StreamedLogMean()
    distortion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rate = torch.zeros_like(distortion)
    first = 0
    while first < samples:
        count = min(chunks.count(len(x), samples), samples - first)
        noise = noise_from(first)
        noises = tuple(noise(level, torch.Size((count, len(x), *shape)), x) for level, shape in enumerate(shapes))
        terms = chunks.or_none(encoded, noises)
        if terms is None:
            chunks.halve(len(x))
            continue
        stream.add(terms.log_weight)
        distortion -= terms.log_px.double().sum(0)
        rate += terms.kl.double().sum(0)
        first += count
    distortion, rate = distortion / samples, rate / samples
    importance, effective = stream.result()
    return -distortion - rate, distortion, rate, importance, effective
