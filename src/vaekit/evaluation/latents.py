"""What the latent dimensions do on a data set. Moments are streamed in float64, so the batch changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.data import passes
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.densities.codes import SEEDED_DRAWS, kl_of, kl_per_dim_of
from vaekit.densities.noise import BlockNoise, Noise, no_noise
from vaekit.models.layout import Layout
from vaekit.models.model import Model
from vaekit.models.trace import Latent, kl

ACTIVE_VARIANCE = 0.01  # of the posterior mean over the data; Burda et al. 2016, arXiv:1509.00519


MOST_COVARIED = 2048  # columns whose covariances are kept: 32 MB in float64


def diagonal(covariance: Tensor) -> Tensor:
    """Variances (D,) of a covariance (D, D), or of what is only variances (D,)."""
    return covariance.diagonal() if covariance.ndim == 2 else covariance


class StreamedMoments:
    """Mean (D,) and covariance (D, D) of rows that come in batches; above 2,048 columns variances (D,) alone.

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
        wide = values.shape[1] > MOST_COVARIED
        scatter = (values - mean).square().sum(0) if wide else (values - mean).T @ (values - mean)
        self.count += len(values)
        if before == 0:
            self.mean, self._scatter = mean, scatter
            return
        shift = mean - self.mean
        between = shift.square() if wide else torch.outer(shift, shift)
        self._scatter += scatter + between * (before * len(values) / self.count)
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
    exact, and leaves out the correlations inside each q(z | x). Above 2,048 columns covariances are variances (D,), and
    what needs more is NaN. Of several groups, means are given the means above, and a prior's moments are of draws.
    """

    kl_nats: Tensor  # mean over the data set
    mean: Tensor  # of the posterior means, and so of the aggregate posterior
    covariance: Tensor  # (D, D), of the posterior means
    posterior_variance: Tensor  # mean over the data set
    prior_mean: Tensor
    prior_covariance: Tensor  # (D, D)
    means: Tensor
    rate_nats: float = math.nan  # KL of all dimensions; from one sample an image where it has no closed form
    layout: Layout = field(default_factory=lambda: Layout(()))
    group_rates_nats: tuple[float, ...] = ()  # of each group
    discrete: bool = False  # codes out of a finite set

    @property
    def prior_std(self) -> Tensor:
        """Of each dimension by itself."""
        return diagonal(self.prior_covariance).sqrt()

    @property
    def has_covariance(self) -> bool:
        """Whether the columns are few enough for their covariances."""
        return self.covariance.ndim == 2

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
        return diagonal(self.covariance)

    @property
    def active(self) -> Tensor:
        """Whether a dimension carries anything: (D,) bool."""
        return self.mean_variance > ACTIVE_VARIANCE

    @property
    def aggregate_covariance(self) -> Tensor:
        """Of the aggregate posterior (D, D): the covariance of the means plus the mean of the covariances."""
        return self.covariance + (
            torch.diag(self.posterior_variance) if self.has_covariance else self.posterior_variance
        )

    @property
    def aggregate_std(self) -> Tensor:
        """Of the aggregate posterior."""
        return diagonal(self.aggregate_covariance).sqrt()

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
        if not self.has_covariance:
            return math.nan
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

    def only(self, layout: Layout) -> LatentUse:
        """The same of the groups that a layout shows; rates stay those of the whole."""
        first, columns = 0, []
        for group in self.layout.groups:
            columns += list(range(first, first + group.width)) if group in layout.shown else []
            first += group.width

        def of(values: Tensor) -> Tensor:
            return values[columns][:, columns] if values.ndim == 2 else values[columns]

        return replace(
            self,
            kl_nats=of(self.kl_nats),
            mean=of(self.mean),
            covariance=of(self.covariance),
            posterior_variance=of(self.posterior_variance),
            prior_mean=of(self.prior_mean),
            prior_covariance=of(self.prior_covariance),
            means=self.means[:, columns],
            layout=layout,
        )

    @property
    def unit_kl_nats(self) -> Tensor:
        """KL of each number of a flat code, or of each channel of a grid: (units,)."""
        return self.layout.by_unit(self.kl_nats)


class Described(NamedTuple):
    """A batch's posteriors, each float64 (B, D), the groups side by side; and the sums of the groups' rates."""

    mean: Tensor
    variance: Tensor
    kl: Tensor
    rates: list[float]


@torch.no_grad()
def latent_use(model: Model, dataset: Dataset, pixels: Pixels, seed: int, *, batch: int = 500) -> LatentUse:
    """Moments, KL and activity of each dimension over a data set, every image once."""
    moments, means = StreamedMoments(), []
    costs = variances = torch.zeros(0, dtype=torch.float64)
    rates = [math.nan] * len(model.layout.groups)
    for start, _, x, context in passes.over(model, dataset, pixels, seed, batch=batch):
        mean, variance, cost, spent = described(model, x, context, BlockNoise(seed, start))
        moments.add(mean)
        means.append(mean)
        costs = cost.sum(0) if start == 0 else costs + cost.sum(0)
        variances = variance.sum(0) if start == 0 else variances + variance.sum(0)
        rates = spent if start == 0 else [total + new for total, new in zip(rates, spent, strict=True)]
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
        sum(rates) / count,
        model.layout,
        tuple(rate / count for rate in rates),
        model.one_group and not model.p_of_classes().has_rsample,
    )


def described(model: Model, x: Tensor, context: Tensor | None, noise: Noise) -> Described:
    """Posterior means, variances and KL per dimension of a batch, and the sums of its rates, group by group.

    The mean and variance of a group are given the means above it, its rate given drawn codes above it.
    """
    if not model.has_posterior:
        codes = model.layout.matrix(model.encode(x, context)).double().cpu()
        return Described(codes, torch.zeros_like(codes), torch.full_like(codes, math.nan), [math.nan])
    encoded = model.encoded(x, context)
    drawn = model.infer(encoded, 1, noise)
    central = drawn if model.one_group else model.infer(encoded, 1, no_noise)
    kls = [_kl_of_numbers(latent) for latent in drawn]
    return Described(
        model.layout.matrix([_batch(latent.q.mean, latent.q) for latent in central]).double().cpu(),
        model.layout.matrix([_batch(latent.q.variance, latent.q) for latent in central]).double().cpu(),
        model.layout.matrix(kls).double().cpu(),
        [_sum(kl(latent), len(x)) for latent in drawn],
    )


def _batch(values: Tensor, q: Distribution) -> Tensor:
    """(B, *event): of the one sample where a posterior depends on the codes above it."""
    return values[0] if len(q.batch_shape) == 2 else values


def _kl_of_numbers(latent: Latent) -> Tensor:
    """(B, *event), NaN where q and p do not factorise together."""
    if kl_of(latent.q, latent.p) is None:
        return torch.full_like(latent.z[0], math.nan)
    return kl_per_dim_of(latent.q, latent.p).expand(latent.z.shape)[0]


def _sum(rate: Tensor, images: int) -> float:
    return float(rate.double().expand(1, images).sum())


def _prior_moments(model: Model, dataset: Dataset, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of p(z), float64: of the labels' mixture where each class has its own."""
    wide = len(like) > MOST_COVARIED
    if not model.has_prior:
        return torch.full_like(like, math.nan), torch.full(
            (len(like),) * (1 if wide else 2), math.nan, dtype=like.dtype
        )
    if not model.one_group:
        moments = StreamedMoments()
        moments.add(model.layout.matrix(model.draw(SEEDED_DRAWS, BlockNoise(0))))
        return moments.mean, moments.covariance
    own = model.classes and model.given is None
    p = model.p(dataset.context(passes.device_of(model)) if own else None)
    mean, variance = (model.layout.matrix([moment]).double().cpu() for moment in (p.mean, p.variance))
    covariance = variance if wide else p.covariance.double().cpu()
    if not p.batch_shape:
        return mean, covariance
    apart = mean - mean.mean(0)
    between = apart.square().mean(0) if wide else apart.T @ apart / len(mean)
    return mean.mean(0), covariance.mean(0) + between
