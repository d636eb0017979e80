"""A model of two groups, z1 (2,) and below it the grid z2 (1, 2, 2), with a posterior and a prior that depend on z1.

Small and not good: it is there to see what the toolkit does with a hierarchy.
"""

import torch
from torch import nn

from vaekit.densities.codes import DiagonalNormal
from vaekit.densities.noise import generator_noise
from vaekit.models.layout import as_layout
from vaekit.models.likelihoods import Bernoulli
from vaekit.models.model import Model
from vaekit.models.trace import Latent, Trace


class TwoLevels(Model):
    """q(z1 | x) q(z2 | z1, x), p(z1) p(z2 | z1), p(x | z1, z2)."""

    def __init__(self, shape) -> None:
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.layout = as_layout([(2,), (1, 2, 2)])
        self.top_q, self.low_q = nn.Linear(pixels, 4), nn.Linear(pixels + 2, 8)
        self.low_p = nn.Linear(2, 8)
        self.likelihood = Bernoulli(
            lambda numbers: nn.Sequential(
                nn.Linear(6, numbers * shape[1] * shape[2]), nn.Unflatten(1, (numbers, *shape[1:]))
            ),
            shape,
        )

    def _top(self):
        zeros = torch.zeros(2, dtype=self.low_p.weight.dtype, device=self.low_p.weight.device)
        return DiagonalNormal(zeros, zeros, validate_args=False)

    @staticmethod
    def _normal(numbers, grid):
        loc, log_scale = (part.unflatten(-1, (1, 2, 2)) if grid else part for part in numbers.chunk(2, -1))
        return DiagonalNormal(loc, log_scale.clamp(-5, 2), 3 if grid else 1, validate_args=False)

    def encoded(self, x, context=None):
        return x, x.flatten(1)

    def noise_shapes(self, encoded):
        return torch.Size((2,)), torch.Size((1, 2, 2))

    def infer(self, encoded, samples=1, noise=generator_noise, *, stopped=False):
        x, flat = encoded
        q1 = self._normal(self.top_q(flat), False)
        z1 = q1.from_noise(noise(0, torch.Size((samples, len(x), 2)), x))
        q2 = self._normal(self.low_q(torch.cat([flat.expand(samples, -1, -1), z1], -1)), True)
        z2 = q2.from_noise(noise(1, torch.Size((samples, len(x), 1, 2, 2)), x))
        drawn = ((z1, q1, self._top()), (z2, q2, self._normal(self.low_p(z1), True)))
        return tuple(Latent(z, q, p, None, q.detach().log_prob(z) if stopped else None) for z, q, p in drawn)

    def trace(self, encoded, samples=1, noise=generator_noise, *, stopped=False):
        x, latents = encoded[0], self.infer(encoded, samples, noise, stopped=stopped)
        px = self.decode(tuple(latent.z for latent in latents))
        return Trace(x, latents, px, px.log_prob(x), x.new_zeros(()))

    def encode(self, x, context=None):
        flat = x.flatten(1)
        z1 = self._normal(self.top_q(flat), False).mean
        return z1, self._normal(self.low_q(torch.cat([flat, z1], -1)), True).mean

    def draw(self, count, noise=generator_noise, temperature=1.0, context=None, places=None):
        like = self.low_p.weight
        z1 = self._top().from_noise(noise(0, torch.Size((1, count, 2)), like)[0], temperature)
        p2 = self._normal(self.low_p(z1), True)
        return z1, p2.from_noise(noise(1, torch.Size((1, count, 1, 2, 2)), like)[0], temperature)

    def decode(self, codes, context=None, *, count=None, noise=generator_noise, temperature=1.0):
        z1, z2 = codes
        if z1 is None:
            lead = torch.Size((count,)) if z2 is None else z2.shape[:-3]
            shape = torch.Size((1, *lead, 2)) if len(lead) == 1 else torch.Size((*lead, 2))
            z1 = self._top().from_noise(noise(0, shape, self.low_p.weight).view(*lead, 2), temperature)
        if z2 is None:
            lead = z1.shape[:-1]
            shape = torch.Size((1, *lead, 1, 2, 2)) if len(lead) == 1 else torch.Size((*lead, 1, 2, 2))
            drawn = noise(1, shape, self.low_p.weight).view(*lead, 1, 2, 2)
            z2 = self._normal(self.low_p(z1), True).from_noise(drawn, temperature)
        return self.likelihood(torch.cat([z1, z2.flatten(-3)], -1))

    def centre(self, context=None):
        z1 = self._top().mean
        return z1, self._normal(self.low_p(z1), True).mean
