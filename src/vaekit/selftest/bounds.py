"""The bounds of a linear VAE, where log p(x) is known, and evaluations that must not depend on how they are cut up."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.noise import BlockNoise, Noise
from vaekit.evaluation.chunks import Chunks
from vaekit.evaluation.likelihood import Bounds, bounds, bounds_of_batch, bounds_of_each
from vaekit.models import build
from vaekit.models.build import vae
from vaekit.models.trace import log_weight, terms
from vaekit.models.vae import VAE
from vaekit.selftest.figure import NotHere, refuse_without_float64
from vaekit.selftest.linear_gaussian import LATENT_DIM, SHAPE, gap_after_training, linear_vae, sigma_points
from vaekit.training.device import available_devices

SPOIL = 0.4  # of the posterior, whose ELBO then lies about 1 nat below log p(x)
ROWS = (5, 64, 4096)  # images times samples decoded at once


def _exact(device: torch.device, spoil: float = 0.0) -> tuple[VAE, MultivariateNormal, Tensor]:
    """Linear VAE, its exact p(x), and 50 images; float64."""
    refuse_without_float64(device)
    model, exact = linear_vae(spoil)
    return model.to(device), exact, torch.rand(50, *SHAPE, dtype=torch.float64)


@torch.no_grad()
def elbo_of_exact_posterior(device: torch.device) -> float:
    """|ELBO - log p(x)| where q is the exact posterior: nats."""
    model, exact, x = _exact(device)
    found = terms(model(x.to(device), 2 * LATENT_DIM, sigma_points))["elbo"]
    return abs(float(found) - float(exact.log_prob(x.flatten(1)).mean()))


@torch.no_grad()
def weights_of_exact_posterior(device: torch.device) -> float:
    """Largest |log-weight - log p(x)| over images and samples, where q is the exact posterior: nats."""
    model, exact, x = _exact(device)
    weights = log_weight(model(x.to(device), 7)).cpu()
    return float((weights - exact.log_prob(x.flatten(1))).abs().max())


def gap_of_training(device: torch.device) -> float:
    """|ELBO - the optimum of pPCA| after training with our own Adam: nats."""
    refuse_without_float64(device)
    return abs(gap_after_training(device))


@torch.no_grad()
def one_sample_bound(device: torch.device) -> float:
    """Largest |E IWAE_1 - ELBO| of an image: nats. The expectation is exact: both are quadratic in the noise."""
    model, _, x = _exact(device, SPOIL)
    chunks, x = Chunks(model, ROWS[-1]), x.to(device)
    points = sigma_points(0, torch.Size((2 * LATENT_DIM, 1, LATENT_DIM)), x)
    total = torch.zeros(len(x), dtype=torch.float64, device=device)
    for point in points:
        elbo, _, _, importance, _ = bounds_of_batch(chunks, x, 1, partial(_always, point))
        total += importance - elbo
    return float(total.abs().max()) / len(points)


def _always(point: Tensor, first: int) -> Noise:
    return lambda level, shape, like: point.expand(shape)


def _spoilt(device: torch.device, samples: int) -> tuple[Bounds, float]:
    """Bounds of 400 images under a spoilt posterior, in float32 as in an evaluation, and the exact mean log p(x)."""
    refuse_without_float64(device)
    model, exact = linear_vae(SPOIL)
    images = (torch.rand(400, *SHAPE, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    found = bounds(model.float().to(device), Dataset(images), Pixels(), samples, seed=0)
    return found, float(exact.log_prob(images.double().flatten(1) / 255).mean())


def largest_fall(device: torch.device) -> float:
    """Largest fall from one bound to the next, ELBO to IWAE_2 to … IWAE_1000: nats; below 0 where all rise."""
    values = [float(_spoilt(device, 1000)[0].elbo.mean())]
    values += [float(_spoilt(device, k)[0].importance.mean()) for k in (2, 5, 10, 30, 100, 1000)]
    return max(low - high for low, high in itertools.pairwise(values))


def gap_of_thousand_samples(device: torch.device) -> float:
    """|log p(x) - IWAE_1000| under a spoilt posterior: nats."""
    found, log_px = _spoilt(device, 1000)
    return abs(log_px - float(found.importance.mean()))


def _digits_like(device: torch.device) -> tuple[VAE, Tensor]:
    """An untrained VAE and 100 grey images of 8 × 8, which are binarised anew."""
    return vae((1, 8, 8), 4, Part("mlp", {"widths": (32,)})).to(device).eval(), _grey(100)


def _grey(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)


def _relative(a: Bounds, b: Bounds) -> float:
    pairs = ((a.elbo, b.elbo), (a.importance, b.importance))
    return max(float(((x - y) / y).abs().max()) for x, y in pairs)


def spread_over_batches(device: torch.device) -> float:
    """Largest relative difference of an image's bounds between batches and chunks of other sizes."""
    refuse_without_float64(device)
    model, images = _digits_like(device)
    found = [bounds(model, Dataset(images), Pixels("dynamic"), 40, seed=3, rows=rows) for rows in ROWS]
    return max(_relative(one, found[-1]) for one in found[:-1])


def spread_over_company(device: torch.device) -> float:
    """Largest relative difference of an image's bounds when it is measured alone and among others, in another order."""
    refuse_without_float64(device)
    model, images = _digits_like(device)
    together = bounds_of_each(model, images, Pixels("dynamic"), 40, seed=3)
    order = torch.randperm(len(images))
    mixed = bounds_of_each(model, images[order], Pixels("dynamic"), 40, seed=3, rows=ROWS[0])
    return max(
        float(((getattr(together, name)[order] - getattr(mixed, name)) / getattr(mixed, name)).abs().max())
        for name in ("elbo", "importance")
    )


@torch.no_grad()
def difference_from_cpu(device: torch.device) -> float:
    """Largest relative difference of the mean ELBO between the CPU and an accelerator, over all networks.

    NotHere where there is none. Where the CPU was asked for, the fastest device is compared with it.
    """
    other = torch.device(available_devices()[-1]) if device.type == "cpu" else device
    if other.type == "cpu":
        raise NotHere("no such device")
    worst = 0.0
    for network in build.NETWORKS:
        model, x = vae((1, 8, 8), 4, network).eval(), _grey(64).float() / 255
        here = float(terms(model(x, 4, _noise_of_cpu))["elbo"])
        there = float(terms(model.to(other)(x.to(other), 4, _noise_of_cpu))["elbo"])
        worst = max(worst, abs(here - there) / abs(here))
    return worst


def _noise_of_cpu(level: int, shape: torch.Size, like: Tensor) -> Tensor:
    return BlockNoise(seed=0)(level, shape, like.cpu()).to(like)
