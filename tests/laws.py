"""Laws that every part of a table must obey; the tests walk the tables, so a new part is covered by its table line."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad

from vaekit.config.schema import Part
from vaekit.densities.images import ImageDistribution
from vaekit.densities.noise import BlockNoise, Noise
from vaekit.models.build import NETWORKS, vae
from vaekit.models.likelihoods import Likelihood
from vaekit.models.trace import Objective, Trace, terms
from vaekit.models.vae import VAE
from vaekit.objectives import Facts, Learned, needs_of
from vaekit.objectives.build import build_objective
from vaekit.selftest.likelihoods import one_pixel, values_of

SMALL = Part("mlp", {"widths": (8,)})
STEP = torch.tensor(3)


def density(px: ImageDistribution, x: float) -> float:
    return math.exp(float(px.log_prob(torch.full((1, 1, 1), x, dtype=torch.float64)).detach()))


def mass(px: ImageDistribution, power: int = 0) -> float:
    """∫ x^power p(x) dx, or the sum over grey values."""
    if px.base_measure != "density":
        return sum(density(px, x) * x**power for x in values_of(px).tolist())
    torch.manual_seed(0)
    samples = px.sample(torch.Size([2000])).double().flatten().numpy()
    centre = float(px.mean)  # where a Laplace density has its kink, which a quadrature wants to end at
    width = float(np.quantile(np.abs(samples - centre), 0.7)) + 1e-9
    bounded = not bool(px.support.check(torch.full((1, 1, 1), 2.0)))
    points = [centre + side * width * reach for reach in (0, 0.3, 1, 3, 8, 20, 60, 300, 2000) for side in (-1, 1)]
    edges = sorted({0.0, 1.0, *(p for p in points if 0 < p < 1)} if bounded else set(points))
    return sum(
        quad(lambda x: density(px, x) * x**power, low, high, epsabs=1e-13, epsrel=1e-13, limit=300)[0]
        for low, high in itertools.pairwise(edges)
    )


def assert_normalises(kind: Callable[..., Likelihood], limit: float = 1e-10) -> None:
    """Total probability 1 for easy and extreme outputs of the network."""
    for seed, spread in enumerate((0.3, 1.0, 3.0)):
        assert abs(mass(one_pixel(kind, spread, seed)) - 1) < limit, (kind.__name__, spread)


def assert_samples_follow(kind: Callable[..., Likelihood]) -> None:
    """The mean that it states, the mean of its density and the mean of its samples are one."""
    torch.manual_seed(0)
    px = one_pixel(kind, 1.0, seed=5)
    samples = px.sample(torch.Size([20_000])).double()
    expected = mass(px, power=1)
    assert abs(float(px.mean) - expected) < 2e-3
    assert abs(float(samples.mean()) - expected) < 5 * float(samples.std()) / math.sqrt(samples.numel()) + 1e-9


def assert_nothing_goes_together(draws: torch.Tensor) -> None:
    """Of draws (N, *shape) of one distribution: no two places of a draw, and no neighbouring draws, correlate."""
    places = draws.flatten(1).double().T
    table = torch.corrcoef(torch.cat([places, places.roll(1, 1)]))
    assert float((table - torch.eye(len(table))).abs().max()) < 5 / len(draws) ** 0.5


def assert_samples_are_drawn_pixel_by_pixel(likelihood: str) -> None:
    """Given a code: of images of one channel, since some tie the channels of a pixel."""
    model, _ = small_model(likelihood, (1, 3, 4))
    with torch.no_grad():
        assert_nothing_goes_together(model.decode((torch.zeros(2, 3, dtype=torch.float64),)).sample((3000,)))


def zeros(level: int, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(shape, dtype=like.dtype)


def small_model(likelihood: str, shape: tuple[int, int, int] = (1, 6, 5)) -> tuple[VAE, torch.Tensor]:
    """A float64 VAE and four images that it can describe."""
    torch.manual_seed(0)
    model = vae(shape, 3, SMALL, likelihood).double()
    x = torch.rand(4, *shape, dtype=torch.float64)
    return model, (x.round() if model.likelihood.family.base_measure == "binary" else (x * 255).round() / 255)


def objective_for(kind: str, options: Mapping[str, Any], x: torch.Tensor) -> Objective:
    """An objective of the table for the small model and images like these; float64."""
    torch.manual_seed(1)
    made = build_objective(Part(kind, options), 1, x[0].numel(), Facts(images=50, latent_dim=3)).objective
    return made.double() if isinstance(made, Learned) else made


def traced(objective: Objective, model: VAE, x: torch.Tensor, samples: int, noise: Noise) -> Trace:
    """The trace that the objective wants."""
    return model(x, samples, noise, stopped=needs_of(objective).stopped)


def assert_unchanged_by_duplication(objective: str, likelihood: str, options: Mapping[str, Any]) -> None:
    """A term is a mean over the batch: twice the same images cost the same."""
    model, x = small_model(likelihood)
    built = objective_for(objective, options, x)
    once, twice = traced(built, model, x, 2, zeros), traced(built, model, torch.cat([x, x]), 2, zeros)
    assert torch.allclose(built(once, STEP), built(twice, STEP), rtol=1e-6)
    for name, value in terms(once).items():
        assert torch.allclose(value, terms(twice)[name], rtol=1e-6)


def couples(objective: str, likelihood: str) -> bool:
    """Whether the loss of a batch is another than the mean of the losses of its halves, at given codes."""
    model, x = small_model(likelihood)
    built = objective_for(objective, {}, x)
    losses = []
    for part in (x, x[:2], x[2:]):
        torch.manual_seed(0)  # for what an objective draws
        losses.append(built(traced(built, model, part, 2, zeros), STEP).detach())
    return not torch.allclose(losses[0], (losses[1] + losses[2]) / 2, rtol=1e-9)


def panels(centre: float, width: float, reach: float = 12, across: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights (n,) of Gauss-Legendre panels that meet at the centre, where a density may have its kink."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(10))
    half = across * width / 2
    middles = centre + half * (2 * torch.arange(-reach / across, reach / across, dtype=torch.float64) + 1)
    return (middles[:, None] + half * nodes).flatten(), half * weights.repeat(len(middles))


def assert_trains(objective: str, likelihood: str, options: Mapping[str, Any]) -> None:
    """Finite gradients reach every weight of the model, and following them lowers the objective."""
    model, x = small_model(likelihood)
    built = objective_for(objective, options, x)
    noise = BlockNoise(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        torch.manual_seed(0)  # for what an objective draws
        loss = built(traced(built, model, x, 2, noise), STEP)
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def fits(kind, shape):
    """Whether the table says that the network takes images of these sides."""
    return all(side % NETWORKS[kind].multiple == 0 for side in shape[1:])


def fitted(kind, shape):
    """The smallest shape of at least these sides that it takes."""
    multiple = NETWORKS[kind].multiple
    return (shape[0], *(-(-side // multiple) * multiple for side in shape[1:]))
