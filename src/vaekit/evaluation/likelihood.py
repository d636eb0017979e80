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

from vaekit.data.batches import in_order
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.models import VAE
from vaekit.noise import IMAGES_PER_BLOCK, SAMPLES_PER_BLOCK, BlockNoise, Noise, RepeatedNoise
from vaekit.trace import kl, log_weight

ROWS_ON_CPU = 2048  # images times samples decoded at once: large enough for the matrix kernels, small enough for cache
ROWS_ON_GPU = 65536
VALUES_ON_CPU = 2**21  # pixels decoded at once, where the images are large: the layers inside are 32 times that


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
    def nll_se_nats(self) -> float:
        """Standard error of that mean over images: how well the data set's size pins it down."""
        return float(self.importance.std()) / math.sqrt(len(self.importance))

    @property
    def nll_sampling_se_nats(self) -> float:
        """Standard error from the finite number of samples alone (delta method)."""
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


@torch.no_grad()
def bounds(
    model: VAE,
    dataset: Dataset,
    pixels: Pixels,
    samples: int,
    seed: int,
    *,
    rows: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Bounds:
    """ELBO and importance-weighted bound with K = `samples` of every image.

    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519. `rows`: images times samples decoded at once.
    `progress` hears the share of images that are done.
    """
    device = next(model.parameters()).device
    rows = rows or (ROWS_ON_GPU if device.type == "cuda" else ROWS_ON_CPU)
    batch = min(IMAGES_PER_BLOCK, rows) if samples > 1 else min(len(dataset), rows)
    chunk = _chunk(samples, rows // batch)
    results: list[tuple[Tensor, ...]] = []
    for start, images in in_order(dataset, batch):
        x = pixels.for_evaluation(images.to(device), start, seed)
        results.append(_bounds_of_batch(model, x, samples, chunk, partial(BlockNoise, seed, start)))
        progress((start + len(x)) / len(dataset))
    elbo, distortion, rate, importance, effective = (torch.cat(c).cpu() for c in zip(*results, strict=True))
    return Bounds(elbo, distortion, rate, importance, effective, samples)


@torch.no_grad()
def bounds_of_each(
    model: VAE, images: Tensor, pixels: Pixels, samples: int, seed: int, *, rows: int | None = None
) -> Bounds:
    """`bounds` of uint8 images (N, C, H, W), each as a data set of its own: its numbers depend on it and the seed."""
    device = next(model.parameters()).device
    most = ROWS_ON_GPU if device.type == "cuda" else min(ROWS_ON_CPU, VALUES_ON_CPU // images[0].numel())
    rows = rows or max(1, most)
    chunk = _chunk(samples, rows)
    results = []
    for part in images.split(max(1, rows // chunk)):
        x = pixels.for_each(part.to(device), seed)
        results.append(_bounds_of_batch(model, x, samples, chunk, partial(RepeatedNoise, seed)))
    elbo, distortion, rate, importance, effective = (torch.cat(c).cpu() for c in zip(*results, strict=True))
    return Bounds(elbo, distortion, rate, importance, effective, samples)


def _chunk(samples: int, most: int) -> int:
    """Samples decoded at once, at most `most`: whole blocks of noise beyond the first, so that none is drawn twice."""
    chunk = max(1, min(samples, most))
    return chunk - chunk % SAMPLES_PER_BLOCK if chunk > SAMPLES_PER_BLOCK else chunk


def _bounds_of_batch(
    model: VAE, x: Tensor, samples: int, chunk: int, noise_from: Callable[[int], Noise]
) -> tuple[Tensor, ...]:
    """`noise_from` gives the noise of the samples from a first one on."""
    q = model.posterior(x)
    stream = StreamedLogMean()
    distortion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rate = torch.zeros_like(distortion)
    for first in range(0, samples, chunk):
        count = min(chunk, samples - first)
        trace = model.trace(x, q, count, noise_from(first))
        log_px = trace.px.log_prob(x)
        stream.add(log_weight(trace, log_px))
        distortion -= log_px.double().sum(0)
        per_sample = torch.stack([kl(latent).double().expand(count, len(x)) for latent in trace.latents]).sum(0)
        rate += per_sample.sum(0)
    distortion, rate = distortion / samples, rate / samples
    importance, effective = stream.result()
    return -distortion - rate, distortion, rate, importance, effective
