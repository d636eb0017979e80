"""t-SNE of some hundred codes, exactly.

Our own: the library's takes longer to import than this takes to run, and its tree is slower than whole matrices here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS, EXAGGERATED_STEPS = 250, 80
EXAGGERATION = 12.0  # of the similarities at first, so that neighbours find each other
LEAST_RATE = 200.0  # of learning
BISECTIONS = 40
MOMENTA = 0.5, 0.8  # while exaggerated, and after
FASTER, SLOWER, LEAST_GAIN = 0.2, 0.8, 0.01  # steps grow where the direction stays, and shrink where it turns


def similarities(codes: Tensor, perplexity: float) -> Tensor:
    """p_ij (N, N) of codes (N, D), which sum to 1: from each code a normal with `perplexity` neighbours, symmetric.

    Below N - 1 neighbours. Equal codes are equally near.
    """
    squared = torch.cdist(codes, codes).square_()
    squared /= squared.mean().clamp_min(torch.finfo(squared.dtype).tiny)
    squared.fill_diagonal_(math.inf)
    low, high = (torch.full((len(codes), 1), bound) for bound in (-20.0, 20.0))  # log-precisions
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        log_p = torch.log_softmax(-middle.exp() * squared, 1)
        p = log_p.exp()
        too_wide = -(p * log_p.clamp_min(-1e9)).sum(1, keepdim=True) > math.log(perplexity)
        low, high = torch.where(too_wide, middle, low), torch.where(too_wide, high, middle)
    return (p + p.T) / (2 * len(codes))


def divergence(p: Tensor, points: Tensor) -> float:
    """KL(p || q) in nats, q_ij ∝ 1 / (1 + |y_i - y_j|²) of points (N, 2): what t-SNE minimises."""
    q = _closeness(points)
    q = (q / q.sum()).clamp_min(torch.finfo(q.dtype).tiny)
    return float(torch.special.xlogy(p, p).sum() - torch.xlogy(p, q).sum())


def tsne(codes: Tensor, perplexity: float) -> Tensor:
    """Points (N, 2) of codes (N, D), N above 2: a function of the codes alone, which starts at their principal plane.

    van der Maaten & Hinton 2008, JMLR 9; learning rate of Belkina et al. 2019, doi:10.1038/s41467-019-13055-y
    """
    count = len(codes)
    p = similarities(codes, perplexity)
    centred = codes - codes.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    points = centred @ directions.T
    points = 1e-4 * points / points[:, 0].std().clamp_min(torch.finfo(points.dtype).tiny)
    rate = max(count / EXAGGERATION, LEAST_RATE)
    move, gains = torch.zeros_like(points), torch.ones_like(points)
    q, pulls = torch.empty_like(p), torch.empty_like(p)  # made once: to make them takes longer than to fill them
    p *= EXAGGERATION
    for step in range(STEPS):
        if step == EXAGGERATED_STEPS:
            p /= EXAGGERATION
        _closeness(points, q)
        torch.mul(p, q, out=pulls).addcmul_(q, q, value=-1 / float(q.sum()))
        gradient = pulls.sum(1, keepdim=True) * points - pulls @ points  # a quarter of it, as in the rate
        gains = torch.where(move * gradient < 0, gains + FASTER, gains * SLOWER).clamp_min_(LEAST_GAIN)
        move = MOMENTA[step >= EXAGGERATED_STEPS] * move - rate * gains * gradient
        points = points + move
    return points - points.mean(0)


def _closeness(points: Tensor, out: Tensor | None = None) -> Tensor:
    """1 / (1 + |y_i - y_j|²): (N, N), 0 on the diagonal. One matrix product, for memory is what takes the time."""
    norms, ones = points.square().sum(1, keepdim=True), torch.ones(len(points), 1)
    left, right = torch.cat([-2 * points, norms + 1, ones], 1), torch.cat([points, ones, norms], 1)
    return torch.mm(left, right.T, out=out).clamp_min_(1).reciprocal_().fill_diagonal_(0)
