"""Codes to look at: near an image, on a grid, between two, along a dimension, by arithmetic, and the nearest.

Codes are float32 arrays (N, D), as `Trained.encode` gives them and `Trained.decode` takes them. Samples from the prior
are `Trained.sample`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.densities.codes import SEEDED_DRAWS, DiagonalNormal, LatentDistribution
from vaekit.densities.mixtures import Mixture
from vaekit.densities.noise import BlockNoise, derived_seed, tempered
from vaekit.errors import ConfigError
from vaekit.trained.model import Trained
from vaekit.trained.walks import _check_spread, _plane

Array = np.ndarray[Any, Any]
BATCH = 500
MOST_IMAGES = 10_000  # for statistics and fits, unless all are asked for: a second on one core for a small model


# From images


def some_rows(count: int, limit: int | None, seed: int = 0) -> Tensor:
    """At most `limit` of `count` positions, drawn by the seed, rising; all where `limit` is None."""
    if limit is None or count <= limit:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(derived_seed(seed, "some images"))
    return torch.randperm(count, generator=generator)[:limit].sort().values


@torch.no_grad()
def encode_dataset(trained: Trained, dataset: Dataset) -> Array:
    """Codes (posterior means) of a data set in order: (N, D)."""
    parts = []
    for _, _, x, context in passes.over(trained.model, dataset, trained.pixels, batch=BATCH):
        parts.append(trained.layout.matrix(trained.model.encode(x, context)).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, trained.latent_dim), np.float32)


@torch.no_grad()
def posterior_codes(trained: Trained, images: Dataset, count: int, *, temperature: float = 1.0, seed: int = 0) -> Array:
    """Samples of q(z | x): (N, count, D) for images as `Trained.prepare` gives them.

    `temperature` multiplies the posterior's spread: at 0 every sample is the mean. ConfigError for an autoencoder.
    """
    model = trained.model
    if not model.has_posterior:
        raise ConfigError("an autoencoder has no posterior to sample from; give a spread, or train a VAE")
    _check_spread(count, temperature)
    drawn = []
    for start, _, x, context in passes.over(model, images, trained.pixels, batch=BATCH):
        noise = tempered(BlockNoise(seed, start), temperature)
        latents = model.infer(model.encoded(x, context), count, noise)
        drawn.append(trained.layout.matrix([latent.z for latent in latents]).transpose(0, 1).cpu())
    return torch.cat(drawn).numpy()


def aggregate_samples(trained: Trained, data: Dataset) -> Array:
    """One sample of q(z | x) for each image: samples of the aggregate posterior (N, D).

    An autoencoder's codes are their own posterior.
    """
    if not trained.model.has_posterior:
        return encode_dataset(trained, data)
    return posterior_codes(trained, data, 1)[:, 0]


# Planes


@torch.no_grad()
def quantile_grid(trained: Trained, side: int) -> Array:
    """The same at the middles of `side` equally probable slices of each dimension of the prior.

    Slice i holds the quantiles i/side to (i + 1)/side; those of a mixture or a flow are of 4,096 draws.
    Kingma & Welling 2014, arXiv:1312.6114, appendix A.
    """
    if side < 1:
        raise ConfigError(f"a grid of {side}×{side}: ask for 1 or more")
    middles = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    quantiles = prior_of(trained).quantile(middles).double().flatten(1).cpu().numpy()
    return _plane(quantiles[:, 0], quantiles[:, 1])


def require_plane(trained: Trained) -> None:
    """ConfigError unless the latent space has two dimensions."""
    if trained.latent_dim != 2:
        raise ConfigError(
            f"a grid needs a latent space of 2 dimensions but this model has {trained.latent_dim}; "
            "train with model.latent_dim=2, or use traverse"
        )


@torch.no_grad()
def prior_moments(trained: Trained) -> tuple[Array, Array]:
    """Mean and standard deviation of the prior, each float64 (D,): of a mixture as a whole, of a flow, and of several
    groups, by 4,096 draws.

    ConfigError for an autoencoder.
    """
    if trained.model.has_prior and not trained.model.one_group:
        drawn = prior_draws(trained).astype(np.float64)
        return drawn.mean(0), drawn.std(0)
    p = prior_of(trained)
    return p.mean.double().flatten().cpu().numpy(), p.stddev.double().flatten().cpu().numpy()


@torch.no_grad()
def prior_draws(trained: Trained) -> Array:
    """4,096 codes of the prior (4096, D), the same every time. ConfigError for an autoencoder."""
    model = trained.model
    if model.has_prior and not model.one_group:
        return trained.layout.matrix(model.draw(SEEDED_DRAWS, BlockNoise(0))).cpu().numpy()
    return prior_of(trained).seeded_draws().flatten(1).cpu().numpy()


def prior_of(trained: Trained) -> LatentDistribution:
    """p(z) of a model with one group; over all classes alike, where each has its own. ConfigError for others."""
    if not trained.model.has_prior:
        raise ConfigError("an autoencoder has no prior; measure in its own codes instead, or train a VAE")
    p = trained.model.p_of_classes()
    if not p.batch_shape:
        return p
    each = p.flattened() if isinstance(p, DiagonalNormal) else p
    return Mixture(each, p.like.new_zeros(p.batch_shape).log_softmax(0))
