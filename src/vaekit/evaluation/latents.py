"""What the latent dimensions do on a data set. Moments are streamed in float64, so the batch changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.data.batches import in_order
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.distributions import kl_per_dim_of
from vaekit.models import VAE, Model, context_of

ACTIVE_VARIANCE = 0.01  # of the posterior mean over the data; Burda et al. 2016, arXiv:1509.00519


class StreamedMoments:
    """Mean (D,) and covariance (D, D) of rows that come in batches.

    Example:
        >>> moments = StreamedMoments()
        >>> moments.add(torch.tensor([[1.0], [3.0]]))
        >>> moments.add(torch.tensor([[5.0]]))
        >>> moments.mean.item(), round(moments.covariance.item(), 6)
        (3.0, 2.666667)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take (B, D). Chan, Golub & LeVeque 1979: sums about the running mean lose no digits."""
        values, before = rows.double().cpu(), self.count
        mean = values.mean(0)
        scatter = (values - mean).T @ (values - mean)
        self.count += len(values)
        if before == 0:
            self.mean, self._scatter = mean, scatter
            return
        shift = mean - self.mean
        self._scatter += scatter + torch.outer(shift, shift) * (before * len(values) / self.count)
        self.mean = self.mean + shift * (len(values) / self.count)

    @property
    def covariance(self) -> Tensor:
        """Of the rows seen, divided by their count."""
        return self._scatter / self.count


@dataclass(frozen=True)
class LatentUse:
    """Per dimension, float64 (D,), and the posterior means that they were computed from (N, D).

    The aggregate posterior is the mean of q(z | x) over the data. What needs a posterior and a prior is NaN for an
    autoencoder.
    """

    kl_nats: Tensor  # mean over the data set
    mean: Tensor  # of the posterior means, and so of the aggregate posterior
    covariance: Tensor  # (D, D), of the posterior means
    posterior_variance: Tensor  # mean over the data set
    prior_mean: Tensor
    prior_std: Tensor
    means: Tensor

    @property
    def mean_variance(self) -> Tensor:
        """Variance over the data set of the posterior mean."""
        return self.covariance.diagonal()

    @property
    def active(self) -> Tensor:
        """Whether a dimension carries anything: (D,) bool."""
        return self.mean_variance > ACTIVE_VARIANCE

    @property
    def aggregate_covariance(self) -> Tensor:
        """Of the aggregate posterior (D, D): the covariance of the means plus the mean of the covariances."""
        return self.covariance + torch.diag(self.posterior_variance)

    @property
    def aggregate_std(self) -> Tensor:
        """Of the aggregate posterior."""
        return self.aggregate_covariance.diagonal().sqrt()

    @property
    def correlation(self) -> Tensor:
        """Of the aggregate posterior, (D, D); a dimension without spread correlates with nothing."""
        std = self.aggregate_std.clamp_min(1e-12)
        return self.aggregate_covariance / torch.outer(std, std)

    @property
    def marginal_kl_nats(self) -> Tensor:
        """KL of each dimension of the aggregate posterior to the prior, both as normals of their moments."""
        variance = (self.aggregate_std / self.prior_std).square()
        return 0.5 * (variance - 1 - variance.log() + ((self.mean - self.prior_mean) / self.prior_std).square())

    @property
    def aggregate_kl_nats(self) -> float:
        """The same of all dimensions together, correlations included: a lower bound on what the prior misses.

        The rate is this gap plus what a code says about its image. Hoffman & Johnson 2016, ELBO surgery.
        """
        scaled = self.aggregate_covariance / torch.outer(self.prior_std, self.prior_std)
        if not bool(scaled.isfinite().all()):
            return math.nan
        shift = (self.mean - self.prior_mean) / self.prior_std
        gap = scaled.diagonal().sum() - len(scaled) - torch.linalg.slogdet(scaled).logabsdet + shift.square().sum()
        return 0.5 * float(gap)

    @property
    def aggregate_gap_nats(self) -> float:
        """`aggregate_kl_nats` without what so few images would show on average where there is no difference."""
        count, dims = self.means.shape
        return max(0.0, self.aggregate_kl_nats - dims * (dims + 3) / (4 * count))


@torch.no_grad()
def latent_use(model: Model, dataset: Dataset, pixels: Pixels, seed: int, *, batch: int = 500) -> LatentUse:
    """Moments, KL and activity of each dimension over a data set, every image once."""
    device = next(model.parameters()).device
    moments, means = StreamedMoments(), []
    costs = variances = torch.zeros(0, dtype=torch.float64)
    for start, images in in_order(dataset, batch):
        x = pixels.for_evaluation(images.to(device), start, seed)
        mean, variance, kl = _described(model, x, context_of(model, dataset, start, len(x)))
        moments.add(mean)
        means.append(mean)
        costs = kl.sum(0) if start == 0 else costs + kl.sum(0)
        variances = variance.sum(0) if start == 0 else variances + variance.sum(0)
    count = len(dataset)
    prior_mean, prior_std = _prior_moments(model, costs)
    return LatentUse(
        costs / count, moments.mean, moments.covariance, variances / count, prior_mean, prior_std, torch.cat(means)
    )


def _described(model: Model, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior means, variances and KL per dimension of a batch, each float64 (B, D)."""
    if not isinstance(model, VAE):
        codes = model.encode(x).double().cpu()
        return codes, torch.zeros_like(codes), torch.full_like(codes, math.nan)
    q = model.q(x, context)
    kl = kl_per_dim_of(q, model.p(context))
    return q.mean.double().cpu(), q.variance.double().cpu(), kl.double().cpu()


def _prior_moments(model: Model, like: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(model, VAE):
        return torch.full_like(like, math.nan), torch.full_like(like, math.nan)
    p = model.p_of_classes()
    return p.mean.double().cpu(), p.stddev.double().cpu()
