"""Bounds on log p(x) over a whole data set, every image once, streamed over images and samples.

Sums run in float64; noise depends on (seed, image, sample) alone, so batch and chunk change nothing but speed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaekit.data.batches import in_order
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.distributions import DiagonalNormal
from vaekit.errors import NumericalError, is_out_of_memory, one_line
from vaekit.models import VAE
from vaekit.noise import IMAGES_PER_BLOCK, SAMPLES_PER_BLOCK, BlockNoise
from vaekit.trace import kl, log_weight

# Images times samples decoded at once: large enough for the matrix kernels; on a CPU small enough for its caches
ROWS = {"cpu": 4096, "cuda": 65536}
TENSORS_AT_ONCE = 6  # of the decoder's widest layer that are alive together, the density's intermediate ones counted in
PAIRS_TO_COMPILE = {"cpu": 5_000_000, "cuda": 5_000_000}  # images times samples; see docs/performance.md


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


def bounds(
    model: VAE,
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
    for start, images in in_order(dataset, batch):
        x = pixels.for_evaluation(images.to(device), start, seed)
        results.append(_bounds_of_batch(chunks, x, samples, seed, start))
        progress((start + len(x)) / len(dataset))
    elbo, distortion, rate, importance, effective = (torch.cat(c).cpu() for c in zip(*results, strict=True))
    return Bounds(elbo, distortion, rate, importance, effective, samples)


@torch.no_grad()
def rows_at_once(model: VAE, device: torch.device) -> int:
    """How many images times samples to decode at once: what half of the free memory holds, and no more than pays."""
    wide = 0

    def measure(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal wide
        wide = max(wide, output.numel()) if isinstance(output, Tensor) else wide

    hooks = [module.register_forward_hook(measure) for module in model.likelihood.modules()]
    try:
        p = model.prior()
        model.likelihood(torch.zeros(1, *p.event_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    fitting = free_memory(device) // (2 * TENSORS_AT_ONCE * 4 * max(1, wide))
    return max(1, min(ROWS.get(device.type, ROWS["cpu"]), fitting))


def free_memory(device: torch.device) -> int:
    """Bytes that the device has free; of the host where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Terms(NamedTuple):
    """Of a chunk of samples, (k, B), nats."""

    log_weight: Tensor
    log_px: Tensor
    kl: Tensor


class Chunks:
    """Decodes `rows` pairs of image and sample at once: fewer after the memory ran out, compiled where asked for."""

    def __init__(self, model: VAE, rows: int, compiled: bool, say: Callable[[str], None]) -> None:
        self.model, self.rows, self.say = model, rows, say
        self._compiled = torch.compile(self._terms, fullgraph=True, dynamic=False) if compiled else None
        self._shape: torch.Size | None = None  # the one that was compiled for: the last, smaller chunks run eagerly

    def count(self, images: int, samples: int) -> int:
        """Samples of each of these images to decode at once."""
        chunk = max(1, min(samples, self.rows // images))
        return chunk - chunk % SAMPLES_PER_BLOCK if chunk > SAMPLES_PER_BLOCK else chunk  # no block is drawn twice

    @torch.no_grad()
    def _terms(self, x: Tensor, q: DiagonalNormal, noise: Tensor) -> Terms:
        trace = self.model.trace(x, q, len(noise), lambda level, shape, like: noise)
        rates = [kl(latent).expand(len(noise), len(x)) for latent in trace.latents]
        return Terms(log_weight(trace), trace.log_px, torch.stack(rates).sum(0))

    def __call__(self, x: Tensor, q: DiagonalNormal, noise: Tensor) -> Terms:
        """log-weights, log p(x | z) and KL for noise (k, B, *event)."""
        if self._compiled is not None and self._shape in (None, noise.shape):
            try:
                self._shape = noise.shape
                return self._compiled(x, q, noise)
            except Exception as error:  # compilers raise whatever they like
                if is_out_of_memory(error):
                    raise
                self._compiled = None
                self.say(f"cannot compile here, so the bounds are computed eagerly: {one_line(error)}")
        return self._terms(x, q, noise)

    def or_none(self, x: Tensor, q: DiagonalNormal, noise: Tensor) -> Terms | None:
        """The same; None where the memory ran out."""
        try:
            return self(x, q, noise)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def halve(self, images: int) -> None:
        """After the memory ran out. NumericalError where one sample of each of these images is too much."""
        if self.rows <= images:
            raise NumericalError(f"out of memory with {images} decoded images; free some, or choose another --device")
        self.rows //= 2
        self._shape = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.say(f"out of memory: from now on {self.rows} pairs of image and sample at a time")


@torch.no_grad()
def _bounds_of_batch(chunks: Chunks, x: Tensor, samples: int, seed: int, start: int) -> tuple[Tensor, ...]:
    q = chunks.model.posterior(x)
    stream = StreamedLogMean()
    distortion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rate = torch.zeros_like(distortion)
    first = 0
    while first < samples:
        count = min(chunks.count(len(x), samples), samples - first)
        noise = BlockNoise(seed, start, first)(0, torch.Size((count, *q.batch_shape, *q.event_shape)), x)
        terms = chunks.or_none(x, q, noise)
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
