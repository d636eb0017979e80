"""What the latent dimensions do on a data set. Moments are streamed in float64, so the batch changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.codes import kl_of, kl_per_dim_of
from vaekit.densities.noise import BlockNoise
from vaekit.models.autoencoder import Model
from vaekit.models.vae import VAE

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
    autoencoder, and a KL per dimension where q and p do not factorise together. A flow's codes stand for its means and
    the mean squares around them for its variances, so what is said of its aggregate posterior is near the truth, not
    exact, and leaves out the correlations inside each q(z | x).
    """

    kl_nats: Tensor  # mean over the data set
    mean: Tensor  # of the posterior means, and so of the aggregate posterior
    covariance: Tensor  # (D, D), of the posterior means
    posterior_variance: Tensor  # mean over the data set
    prior_mean: Tensor
    prior_covariance: Tensor  # (D, D)
    means: Tensor
    rate_nats: float = math.nan  # KL of all dimensions; from one sample an image where it has no closed form

    @property
    def prior_std(self) -> Tensor:
        """Of each dimension by itself."""
        return self.prior_covariance.diagonal().sqrt()

    @property
    def has_prior(self) -> bool:
        """Whether there is a prior to compare with."""
        return bool(self.prior_std.isfinite().all())

    @property
    def has_kl_per_dim(self) -> bool:
        """Whether the rate is a sum over dimensions."""
        return bool(self.kl_nats.isfinite().all())

    @property
    def importance(self) -> Tensor:
        """What dimensions are ordered by (D,): KL, or the variance of the posterior means where there is none."""
        return self.kl_nats if self.has_kl_per_dim else self.mean_variance

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
        """KL of each dimension of the aggregate posterior to the prior, both as normals of their moments.

        So it is blind to what a mixture or a flow has beyond these.
        """
        variance = (self.aggregate_std / self.prior_std).square()
        return 0.5 * (variance - 1 - variance.log() + ((self.mean - self.prior_mean) / self.prior_std).square())

    @property
    def aggregate_kl_nats(self) -> float:
        """The same of all dimensions together, with the correlations of the codes, and of a prior that has some.

        Before a prior with independent normal dimensions it bounds from below what the prior misses; before another it
        compares moments alone. The rate is this gap plus what a code says about its image. Hoffman & Johnson 2016, ELBO
        surgery.
        """
        units = torch.outer(self.prior_std, self.prior_std)
        codes, prior = self.aggregate_covariance / units, self.prior_covariance / units
        if not bool(codes.isfinite().all()):
            return math.nan
        shift = (self.mean - self.prior_mean) / self.prior_std
        apart = torch.linalg.solve(prior, codes + torch.outer(shift, shift)).diagonal().sum() - len(codes)
        gap = apart + torch.linalg.slogdet(prior).logabsdet - torch.linalg.slogdet(codes).logabsdet
        return 0.5 * float(gap)

    @property
    def aggregate_gap_nats(self) -> float:
        """`aggregate_kl_nats` without what so few images would show on average where there is no difference."""
        count, dims = self.means.shape
        return max(0.0, self.aggregate_kl_nats - dims * (dims + 3) / (4 * count))


@torch.no_grad()
def latent_use(model: Model, dataset: Dataset, pixels: Pixels, seed: int, *, batch: int = 500) -> LatentUse:
    """Moments, KL and activity of each dimension over a data set, every image once."""
    moments, means, rate = StreamedMoments(), [], 0.0
    costs = variances = torch.zeros(0, dtype=torch.float64)
    for start, _, x, context in passes.over(model, dataset, pixels, seed, batch=batch):
        mean, variance, kl, spent = _described(model, x, context, seed, start)
        moments.add(mean)
        means.append(mean)
        costs = kl.sum(0) if start == 0 else costs + kl.sum(0)
        variances = variance.sum(0) if start == 0 else variances + variance.sum(0)
        rate += spent
    count = len(dataset)
    prior_mean, prior_covariance = _prior_moments(model, dataset, costs)
    return LatentUse(
        costs / count,
        moments.mean,
        moments.covariance,
        variances / count,
        prior_mean,
        prior_covariance,
        torch.cat(means),
        rate / count,
    )


def _described(
    model: Model, x: Tensor, context: Tensor | None, seed: int, start: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Posterior means, variances and KL per dimension of a batch, each float64 (B, D); the sum of its rates."""
    if not isinstance(model, VAE):
        codes = model.encode(x).double().cpu()
        return codes, torch.zeros_like(codes), torch.full_like(codes, math.nan), math.nan
    q, p = model.q(x, context), model.p(context)
    mean, variance = q.mean.double().cpu(), q.variance.double().cpu()
    if kl_of(q, p) is not None:
        kl = kl_per_dim_of(q, p).double().cpu()
        return mean, variance, kl, float(kl.sum())
    z, log_q = q.drawn(BlockNoise(seed, start)(0, torch.Size((1, *q.batch_shape, *q.noise_shape)), q.mean))
    spent = (q.log_prob(z) if log_q is None else log_q) - p.log_prob(z)
    return mean, variance, torch.full_like(mean, math.nan), float(spent.double().sum())


def _prior_moments(model: Model, dataset: Dataset, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of p(z), float64: of the labels' mixture where each class has its own."""
    if not isinstance(model, VAE):
        return torch.full_like(like, math.nan), torch.full((len(like), len(like)), math.nan, dtype=like.dtype)
    own = model.classes and model.given is None
    p = model.p(dataset.context(next(model.parameters()).device) if own else None)
    mean, covariance = p.mean.double().cpu(), p.covariance.double().cpu()
    if not p.batch_shape:
        return mean, covariance
    apart = mean - mean.mean(0)
    return mean.mean(0), covariance.mean(0) + apart.T @ apart / len(mean)
