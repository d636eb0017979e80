"""What the latent dimensions do on a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.data.batches import in_order
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.distributions import kl_per_dim_of
from vaekit.models import VAE

ACTIVE_VARIANCE = 0.01  # of the posterior mean over the data; Burda et al. 2016, arXiv:1509.00519


@dataclass(frozen=True)
class LatentUse:
    """Per dimension, float64 (D,), and the posterior means that they were computed from (N, D)."""

    kl_nats: Tensor  # mean over the data set
    mean_variance: Tensor  # variance over the data set of the posterior mean
    means: Tensor

    @property
    def active(self) -> Tensor:
        """Whether a dimension carries anything: (D,) bool."""
        return self.mean_variance > ACTIVE_VARIANCE


@torch.no_grad()
def latent_use(model: VAE, dataset: Dataset, pixels: Pixels, seed: int) -> LatentUse:
    """KL and activity of each dimension over a data set, every image once."""
    device = next(model.parameters()).device
    costs, means = [], []
    for start, images in in_order(dataset, 500):
        q = model.posterior(pixels.for_evaluation(images.to(device), start, seed))
        costs.append(kl_per_dim_of(q, model.prior()).double().cpu())
        means.append(q.mean.double().cpu())
    all_means = torch.cat(means)
    return LatentUse(torch.cat(costs).mean(0), all_means.var(0, correction=0), all_means)
