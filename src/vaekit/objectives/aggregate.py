"""Estimates of the aggregate posterior q(z) = 1/N Σ_n q(z | x_n) and of its marginals, from one batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vaekit.densities.codes import LatentDistribution

Sampling = Literal["weighted", "stratified"]


def log_weights(batch: int, images: int, sampling: Sampling, like: Tensor) -> Tensor:
    """Logarithms of what q(z_i | x_j) counts for in q(z_i): (B, B), the row i being of the image that z_i is from.

    `weighted`: 1 / (N B) for every pair, a lower bound. `stratified`: 1 / N for the image itself, and for each other
    (N - 1) / (N (B - 1)), the mean of the source's formula over which image it singles out; unbiased for q(z).
    Chen et al. 2018, arXiv:1802.04942, appendix C
    """
    if sampling == "weighted":
        return like.new_full((batch, batch), -math.log(images * batch))
    other = max(images - 1, 1) / (images * max(batch - 1, 1))
    itself = torch.eye(batch, dtype=torch.bool, device=like.device)
    return torch.where(itself, -math.log(images), math.log(other)).to(like.dtype)


def log_aggregate(q: LatentDistribution, z: Tensor, images: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(log q(z), Σ_d log q(z_d)) of codes z (S, B, D) drawn from q of batch (B,): each (S, B), nats.

    `images` is N, the size of the set that the batch is from. TypeError where q has no independent dimensions.
    """
    per_dim = q.log_prob_per_dim(z.unsqueeze(-2))  # (S, B, B, D): of every code under every image's posterior
    weights = log_weights(z.shape[1], images, sampling, z)
    joint = torch.logsumexp(weights + per_dim.sum(-1), -1)
    marginals = torch.logsumexp(weights.unsqueeze(-1) + per_dim, -2).sum(-1)
    return joint, marginals
