"""What codes tell of their images, and how far the aggregate posterior is from the prior: the two parts of the rate.

rate = I(x; z) + KL(q(z) || p(z)), q(z) being the mean of q(z | x) over the images; Hoffman & Johnson 2016, ELBO
surgery. Where q and p factorise, KL(q(z) || p(z)) = total correlation + KL of each dimension; Chen et al. 2018,
arXiv:1802.04942. Every quantity is in nats; N images, M of their codes, D latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.data import passes
from vaekit.data.dataset import Dataset, spread
from vaekit.data.pixels import Pixels
from vaekit.densities.codes import LOG_2PI, DiagonalNormal, LatentDistribution
from vaekit.densities.noise import BlockNoise
from vaekit.models.model import Model

MOST_IMAGES = 10_000  # in the mixture q(z)
MOST_TERMS = 2 * 10**8  # exponentials: codes times images times (dimensions + 4), about two seconds on one core
FEWEST_CODES = 50  # for a mean with an error bar
PAIRS_AT_ONCE = 2**19
SATURATED = 0.9  # share of log N from which the estimate says only "at least"


@dataclass(frozen=True)
class Information:
    """Log-densities of M codes z, each drawn from the q(z | x) of its image: float64 (M,), nats.

    The mixture has the code's own image in it, as the aggregate posterior of N images does: so log q(z | x) - log q(z)
    is at most log N for every code, and so is I.
    """

    log_q: Tensor  # log q(z | x) of its own image
    log_aggregate: Tensor  # log q(z) = log 1/N sum_j q(z | x_j)
    log_p: Tensor
    log_factors: Tensor | None  # sum over dimensions of log q(z_d); None where q or p does not factorise
    images: int

    @property
    def mutual_information(self) -> Tensor:
        """I(x; z) as its terms, one for each code: (M,)."""
        return self.log_q - self.log_aggregate

    @property
    def aggregate_kl(self) -> Tensor:
        """KL(q(z) || p(z)) as its terms."""
        return self.log_aggregate - self.log_p

    @property
    def total_correlation(self) -> Tensor | None:
        """KL(q(z) || prod_d q(z_d)) as its terms."""
        return None if self.log_factors is None else self.log_aggregate - self.log_factors

    @property
    def dimension_kl(self) -> Tensor | None:
        """sum_d KL(q(z_d) || p(z_d)) as its terms."""
        return None if self.log_factors is None else self.log_factors - self.log_p

    @property
    def ceiling(self) -> float:
        """log N: no estimate of I from N images is larger."""
        return math.log(self.images)

    def metrics(self) -> dict[str, float | int | bool]:
        """Means and standard errors over the codes, flat, the unit in the key."""
        terms = {
            "mutual_information": self.mutual_information,
            "aggregate_kl_mc": self.aggregate_kl,
            "total_correlation": self.total_correlation,
            "dimension_kl": self.dimension_kl,
        }
        found: dict[str, float | int | bool] = {}
        for name, values in terms.items():
            if values is not None:
                found[f"{name}_nats"] = float(values.mean())
                found[f"{name}_se_nats"] = float(values.std()) / math.sqrt(len(values))
        saturated = float(self.mutual_information.mean()) > SATURATED * self.ceiling
        return found | {
            "mutual_information_ceiling_nats": self.ceiling,
            "mutual_information_saturated": saturated,
            "information_images": self.images,
            "information_codes": len(self.log_q),
        }


@torch.no_grad()
def information(
    model: Model, dataset: Dataset, pixels: Pixels, seed: int, *, batch: int = 500, pairs: int = PAIRS_AT_ONCE
) -> Information | None:
    """Over at most 10,000 images, evenly spread; codes of all of them where that is quick, else of a spread share.

    None where q(z | x) is no diagonal normal (then N x N densities are no matter of seconds, or, for quantised codes,
    are no densities), or where it depends on the codes of a group above; where the model is conditional (each class has
    an aggregate of its own), for one image, and where codes are so long that there is time for too few of them.
    """
    if model.classes or len(dataset) < 2 or not model.one_group:
        return None
    if takes_too_long(model.layout.width, len(dataset)):
        return None
    device = next(model.parameters()).device
    parts: list[tuple[Tensor, ...]] = []
    for start, _, x, context in passes.over(model, dataset, pixels, seed, batch=batch):
        q = model.q(x, context)
        if not isinstance(q, DiagonalNormal):
            return None
        noise = BlockNoise(seed, start)(0, torch.Size((1, *q.batch_shape, *q.noise_shape)), x)[0]
        parts.append(tuple(model.layout.matrix([part]) for part in (q.loc, q.log_scale, q.from_noise(noise))))
    rows = spread(len(dataset), MOST_IMAGES).to(device)
    loc, log_scale, z = (torch.cat(part)[rows] for part in zip(*parts, strict=True))
    own = spread(len(rows), max(2, MOST_TERMS // (len(rows) * (loc.shape[1] + 4)))).to(device)
    p = model.p()
    if isinstance(p, DiagonalNormal):  # of a grid: its numbers in a row
        p = p.flattened()
    return information_of(DiagonalNormal(loc, log_scale, validate_args=False), z, p, own, pairs=pairs)


def takes_too_long(width: int, images: int) -> bool:
    """Whether codes of so many numbers leave time for fewer codes than a mean with an error bar needs."""
    return MOST_TERMS // (min(images, MOST_IMAGES) * (width + 4)) < min(FEWEST_CODES, images)


@torch.no_grad()
def information_of(
    q: DiagonalNormal, z: Tensor, p: LatentDistribution, own: Tensor | None = None, *, pairs: int = PAIRS_AT_ONCE
) -> Information:
    """Of posteriors with batch (N,) and a code z (N, D) of each, M of which (`own`; by default all) are looked at.

    `pairs` of code and image are held at once.
    """
    count = len(q.loc)
    own = torch.arange(count, device=z.device) if own is None else own
    wide = DiagonalNormal(q.loc.double(), q.log_scale.double(), validate_args=False)
    codes = z[own]
    factorised = isinstance(p, DiagonalNormal)
    blocks = codes.split(max(1, pairs // count))
    log_aggregate = torch.cat([_log_mixture(wide, block.double()) for block in blocks])
    log_factors = torch.cat([_log_marginals(q, block) for block in blocks]) if factorised else None
    mine = DiagonalNormal(wide.loc[own], wide.log_scale[own], validate_args=False)
    log_q, log_p = mine.log_prob(codes.double()), p.log_prob(codes).double()
    factors = None if log_factors is None else log_factors.cpu()
    return Information(log_q.cpu(), log_aggregate.cpu(), log_p.cpu(), factors, count)


def _log_mixture(q: DiagonalNormal, z: Tensor) -> Tensor:
    """log 1/N sum_j q(z | x_j), (M,): the N x N squares by a matrix product, in float64 because they cancel."""
    precision = (-2 * q.log_scale).exp()
    constant = (-0.5 * precision * q.loc.square() - q.log_scale - 0.5 * LOG_2PI).sum(-1)
    pair = torch.addmm(constant, torch.cat([z.square(), z], 1), torch.cat([-0.5 * precision, precision * q.loc], 1).T)
    return torch.logsumexp(pair, 1) - math.log(len(q.loc))


def _log_marginals(q: DiagonalNormal, z: Tensor) -> Tensor:
    """sum_d log 1/N sum_j q(z_d | x_j), (M,). Each sum has the code's own term in it, so none underflows."""
    total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for d in range(z.shape[1]):
        inverse = (-q.log_scale[:, d]).exp()
        density = (z[:, d, None] - q.loc[:, d]).mul_(inverse).square_().mul_(-0.5).exp_() @ inverse
        total += density.double().log() - math.log(len(q.loc)) - 0.5 * LOG_2PI
    return total
