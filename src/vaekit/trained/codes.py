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
from vaekit.densities.codes import LatentDistribution
from vaekit.densities.mixtures import Mixture
from vaekit.densities.noise import BlockNoise, derived_seed
from vaekit.errors import ConfigError
from vaekit.models.vae import VAE
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
        parts.append(trained.model.encode(x, context).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, trained.latent_dim), np.float32)


@torch.no_grad()
def posterior_codes(trained: Trained, images: Dataset, count: int, *, temperature: float = 1.0, seed: int = 0) -> Array:
    """Samples of q(z | x): (N, count, D) for images as `Trained.prepare` gives them.

    `temperature` multiplies the posterior's spread: at 0 every sample is the mean. ConfigError for an autoencoder.
    """
    model = trained.model
    if not isinstance(model, VAE):
        raise ConfigError("an autoencoder has no posterior to sample from; give a spread, or train a VAE")
    _check_spread(count, temperature)
    drawn = []
    for start, _, x, context in passes.over(model, images, trained.pixels, batch=BATCH):
        q = model.q(x, context)
        noise = BlockNoise(seed, start)(0, torch.Size((count, *q.batch_shape, *q.noise_shape)), q.mean)
        drawn.append(q.from_noise(noise, temperature).transpose(0, 1).cpu())
    return torch.cat(drawn).numpy()


def aggregate_samples(trained: Trained, data: Dataset) -> Array:
    """One sample of q(z | x) for each image: samples of the aggregate posterior (N, D).

    An autoencoder's codes are their own posterior.
    """
    if not isinstance(trained.model, VAE):
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
    quantiles = prior_of(trained).quantile(middles).double().cpu().numpy()
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
    """Mean and standard deviation of the prior, each float64 (D,): of a mixture as a whole, of a flow by 4,096 draws.

    ConfigError for an autoencoder.
    """
    p = prior_of(trained)
    return p.mean.double().cpu().numpy(), p.stddev.double().cpu().numpy()


def prior_draws(trained: Trained) -> Array:
    """4,096 codes of the prior (4096, D), the same every time. ConfigError for an autoencoder."""
    return prior_of(trained).seeded_draws().cpu().numpy()


def prior_of(trained: Trained) -> LatentDistribution:
    """p(z); over all classes alike, where each has its own. ConfigError for an autoencoder."""
    if not isinstance(trained.model, VAE):
        raise ConfigError("an autoencoder has no prior; measure in its own codes instead, or train a VAE")
    p = trained.model.p_of_classes()
    return Mixture(p, p.like.new_zeros(p.batch_shape).log_softmax(0)) if p.batch_shape else p


# Between two codes


# Along dimensions and vectors
