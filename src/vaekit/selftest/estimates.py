"""Estimates of a trained or linear model: annealing, networks in bf16, and scores of disentanglement."""

from __future__ import annotations

import numpy as np
import torch

from vaekit.config.schema import Part
from vaekit.data.dataset import Dataset, Factors
from vaekit.data.pixels import Pixels
from vaekit.evaluation.ais import Annealing, annealed
from vaekit.evaluation.disentanglement import Disentanglement, score_codes
from vaekit.evaluation.likelihood import bounds
from vaekit.models.build import vae
from vaekit.models.likelihoods import set_precision
from vaekit.selftest.figure import refuse_without_float64
from vaekit.selftest.linear_gaussian import SHAPE, linear_vae

SURE = 2.0  # times the weights of a new model, whose pixels are all near 1/2: a trained one is surer
ANNEALED = Annealing(temperatures=200, chains=8)
FACTORS, SIZES, REPEATS = ("shape", "scale", "turn", "x"), (3, 4, 5, 12), 2
ORDERED = (False, True, True, True)


def gap_of_annealing(device: torch.device) -> float:
    """|log p(x) - annealed importance sampling| from the prior, mean over 20 images of a linear VAE: nats."""
    refuse_without_float64(device)
    model, exact = linear_vae()
    x = exact.sample((20,))
    found = annealed(model.to(device), x.view(-1, *SHAPE).to(device), ANNEALED, 0)
    return abs(float(found.log_mean.mean()) - float(exact.log_prob(x).mean()))


def change_by_half_precision(device: torch.device) -> float:
    """Relative change of the mean ELBO when networks run in bf16: densities stay in float32."""
    refuse_without_float64(device)
    images = torch.randint(0, 256, (500, 1, 8, 8), dtype=torch.uint8)
    model = vae((1, 8, 8), 4, Part("mlp", {"widths": (128, 128)})).to(device).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(SURE)
    found = []
    for precision in (None, torch.bfloat16):
        set_precision(model, precision)
        found.append(float(bounds(model, Dataset(images), Pixels("dynamic"), 20, seed=0).elbo.mean()))
    return abs(found[1] - found[0]) / abs(found[0])


def _scored(codes_of_values: bool) -> Disentanglement:
    values = np.tile(np.indices(SIZES).reshape(len(SIZES), -1).T, (REPEATS, 1))
    factors = Factors(torch.from_numpy(values), FACTORS, SIZES, ORDERED)
    noise = np.random.default_rng(0).standard_normal((len(values), len(SIZES) + 2))
    return score_codes(values if codes_of_values else noise, factors)


def perfect_codes_short_of_the_best(device: torch.device) -> float:
    """Largest distance of a score from its best, where each dimension is a factor."""
    return max(abs(score.best - score.value) for score in _scored(True).scores)


def noise_above_chance(device: torch.device) -> float:
    """Largest distance of a score from chance, where codes know nothing."""
    return max(abs(score.value - score.chance) for score in _scored(False).scores)
