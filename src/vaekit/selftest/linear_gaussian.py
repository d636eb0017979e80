"""A linear VAE is probabilistic PCA, where log p(x) and the posterior are known exactly, and so every bound.

Tipping & Bishop 1999, J. R. Stat. Soc. B 61; Lucas et al. 2019, arXiv:1911.02469. Built from the real classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaekit.config.schedule_shapes import cosine
from vaekit.config.schema import Part
from vaekit.models.build import vae
from vaekit.models.vae import VAE
from vaekit.objectives import elbo
from vaekit.training.optimizer import Adam, Update

SHAPE, LATENT_DIM, SIGMA = (1, 3, 4), 3, 0.2
COLUMNS = (0.9, 0.5, 0.1)  # lengths of the decoder's columns: the last one barely stands out of the noise


def linear_vae(spoil: float = 0.0) -> tuple[VAE, MultivariateNormal]:
    """A linear VAE with orthogonal columns and its exact posterior, and its exact p(x) over C * H * W; float64, CPU.

    `spoil` is added to every mean and log-scale of the posterior.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = math.prod(SHAPE)
    drawn = torch.randn(pixels, LATENT_DIM, dtype=torch.float64, generator=generator)
    columns = torch.linalg.qr(drawn)[0] * torch.tensor(COLUMNS, dtype=torch.float64)
    mean = torch.rand(pixels, dtype=torch.float64, generator=generator)
    precision = columns.square().sum(0) + SIGMA**2
    gain = columns.T / precision[:, None]
    model = _untrained(SIGMA)
    encoder, decoder = model.posterior.network[1], model.likelihood.network[0]  # type: ignore[index]
    with torch.no_grad():
        model.likelihood.log_scale.fill_(math.log(SIGMA))  # type: ignore[operator, union-attr]
        decoder.weight.copy_(columns)
        decoder.bias.copy_(mean - 0.5)  # the likelihood adds mid-grey
        encoder.weight[:LATENT_DIM].copy_(gain / 2)  # the posterior shows its network 2x - 1
        encoder.bias[:LATENT_DIM].copy_(gain @ (0.5 - mean) + spoil)
        encoder.weight[LATENT_DIM:].zero_()
        encoder.bias[LATENT_DIM:].copy_(0.5 * torch.log(SIGMA**2 / precision) + spoil)
    covariance = columns @ columns.T + SIGMA**2 * torch.eye(pixels, dtype=torch.float64)
    return model, MultivariateNormal(mean, covariance)


def _untrained(sigma: float) -> VAE:
    likelihood = Part("gaussian", {"scale": "scalar", "initial_scale": sigma})
    return vae(SHAPE, LATENT_DIM, Part("mlp", {"widths": ()}), likelihood).double()


def sigma_points(level: int, shape: torch.Size, like: Tensor) -> Tensor:
    """±√D along each axis, for S = 2 D: their average over a quadratic function is its exact normal expectation."""
    points = math.sqrt(shape[-1]) * torch.eye(shape[-1], dtype=like.dtype, device=like.device)
    return torch.cat([points, -points])[:, None, :].expand(shape)


def best_log_likelihood(x: Tensor, latent_dim: int) -> Tensor:
    """The largest mean log-likelihood that probabilistic PCA reaches on x (N, P): scalar, nats per example.

    -1/2 (P ln 2π + Σ_kept ln λ + (P - D) ln σ² + P), λ the eigenvalues of the covariance, σ² the mean of those not
    kept. Tipping & Bishop 1999, equation 8
    """
    pixels = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    kept, noise = values[-latent_dim:], values[:-latent_dim].mean()
    return -0.5 * (pixels * (math.log(2 * math.pi) + 1) + kept.log().sum() + (pixels - latent_dim) * noise.log())


def gap_after_training(device: torch.device, steps: int = 4000) -> float:
    """Best log-likelihood of pPCA less the trained ELBO: nats per example, from weights drawn by torch's generator.

    Full batch and exact expectations, so the loss is a function without noise. A short memory of squared gradients
    (0.99), no floor under them, and a step size that falls to 0 let Adam settle at the optimum itself.
    """
    _, source = linear_vae()
    x = source.sample(torch.Size([64]))
    best = best_log_likelihood(x, LATENT_DIM)
    model = _untrained(0.3).to(device)
    images, objective, rate = x.view(-1, *SHAPE).to(device), elbo(), cosine(0.02, 0.0, steps)
    optimizer = Adam([(list(model.parameters()), 0.0)], (0.9, 0.99), 1e-12)
    for count in range(steps):
        for weight in optimizer.weights:
            weight.grad = None
        step = torch.tensor(count, device=device)
        objective(model(images, 2 * LATENT_DIM, sigma_points), step).backward()  # type: ignore[no-untyped-call]
        optimizer.step(Update(rate(step)))
    with torch.no_grad():
        return float(best) + float(objective(model(images, 2 * LATENT_DIM, sigma_points), step))
