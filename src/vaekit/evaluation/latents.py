"""What the latent dimensions do on a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

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
    posterior_variance: Tensor  # mean over the data set of q's variance

    @property
    def active(self) -> Tensor:
        """Whether a dimension carries anything: (D,) bool."""
        return self.mean_variance > ACTIVE_VARIANCE


@torch.no_grad()
def latent_use(model: VAE, dataset: Dataset, pixels: Pixels, seed: int) -> LatentUse:
    """KL and activity of each dimension over a data set, every image once."""
    device = next(model.parameters()).device
    costs, means, variances = [], [], []
    for start, images in in_order(dataset, 500):
        q = model.posterior(pixels.for_evaluation(images.to(device), start, seed))
        costs.append(kl_per_dim_of(q, model.prior()).double().cpu())
        means.append(q.mean.double().cpu())
        variances.append(q.variance.double().cpu())
    all_means, spread = torch.cat(means), torch.cat(variances).mean(0)
    return LatentUse(torch.cat(costs).mean(0), all_means.var(0, correction=0), all_means, spread)


def aggregate_kl_nats(use: LatentUse, prior: Distribution) -> float:
    """KL of the aggregate posterior's moments to the prior's, nats: how far prior samples are from decodable codes.

    The aggregate posterior is the mean of q(z | x) over the data set; both are taken for normal distributions, with
    all covariances of the first, so this is a floor of the true KL. What it would be on average for so few images
    without any difference is subtracted. Hoffman & Johnson 2016, ELBO surgery
    """
    count, dims = use.means.shape
    scale = prior.variance.double().cpu().sqrt()
    shift = (use.means.mean(0) - prior.mean.double().cpu()) / scale
    standard = (use.means - use.means.mean(0)) / scale
    covariance = standard.T @ standard / count + torch.diag(use.posterior_variance / scale.square())
    divergence = 0.5 * (covariance.trace() + shift @ shift - dims - torch.logdet(covariance))
    return max(0.0, float(divergence) - dims * (dims + 3) / (4 * count))
