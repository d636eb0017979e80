"""What a normal distribution cannot be: a flow as posterior and a mixture as prior, on densities of two numbers.

Above, a posterior is fitted to a density that is known but for a constant, as a VAE fits q(z | x) to p(z | x): by its
KL divergence, from samples of its own. Below, a prior is fitted to codes, as a VAE fits p(z) to the aggregate
posterior: by their likelihood. 0 nats is perfect in both tables. A posterior that leaves out one of two halves pays
log 2 = 0.69 nats; a prior must cover all codes.

python examples/toy_densities.py             # a minute; --steps 100 for a first look
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vaekit.models.build import POSTERIORS, PRIORS
from vaekit.models.trace import Latent, log_q

Density = Callable[[Tensor], Tensor]
NOTHING = torch.zeros(1, 1, 1, 1)  # these posteriors look at no image
SHOWN = 2000


class SameForAll(nn.Module):
    """An encoder that learns one answer."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer.expand(len(x), -1)


def banana(z: Tensor) -> Tensor:
    """log-density but for a constant: z1 near the half square of z0, which is normal of scale 2."""
    return -0.5 * ((z[..., 0] / 2).square() + ((z[..., 1] - 0.5 * z[..., 0].square()) / 0.3).square())


def two_arcs(z: Tensor) -> Tensor:
    """log-density but for a constant: both sides of a ring, after Rezende & Mohamed 2015, arXiv:1505.05770."""
    far = ((z.norm(dim=-1) - 2) / 0.4).square() / 2
    sides = torch.stack([-0.5 * ((z[..., 0] - side) / 0.6).square() for side in (-2, 2)])
    return torch.logsumexp(sides, 0) - far


def log_integral(density: Density) -> float:
    """The constant that is missing, from a grid."""
    axis = torch.linspace(-12, 30, 2101, dtype=torch.float64)
    rows = [torch.logsumexp(density(torch.stack([x.expand(len(axis)), axis], -1)), 0) for x in axis[:1201]]
    return float(torch.logsumexp(torch.stack(rows), 0)) + 2 * math.log(0.02)


def eight_clouds(count: int) -> tuple[Tensor, float]:
    """Codes around eight points of a circle, and the entropy of their distribution (they do not overlap), nats."""
    angle = torch.randint(8, (count,)) * math.pi / 4
    centres = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    return centres + 0.2 * torch.randn(count, 2), math.log(8) + 2 * math.log(0.2) + 1 + math.log(2 * math.pi)


def follow(cost: Callable[[], Tensor], module: nn.Module, steps: int) -> None:
    """Adam with a rate that falls to 0 as a cosine."""
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        cost().backward()
        optimizer.step()
        schedule.step()


def fitted_posterior(kind: str, density: Density, steps: int) -> tuple[float, Tensor]:
    """KL(q || density) in nats, less the constant of the density, and draws of q."""
    torch.manual_seed(0)
    posterior = POSTERIORS[kind](SameForAll, (2,), **({} if kind == "diagonal" else {"widths": (32,)}))

    def cost(draws: int = 256) -> Tensor:
        q = posterior(NOTHING)
        z, density_of_draw = q.drawn(torch.randn(draws, 1, 2))
        return (log_q(Latent(z, q, q, density_of_draw)) - density(z)).mean()

    follow(cost, posterior, steps)
    with torch.no_grad():
        return float(cost(10_000)), posterior(NOTHING).rsample(torch.Size([SHOWN]))[:, 0]


def fitted_prior(kind: str, options: dict[str, object], steps: int) -> tuple[float, Tensor]:
    """Nats that codes of the eight clouds cost above their entropy, and draws of the prior."""
    torch.manual_seed(0)
    prior, any_posterior = PRIORS[kind]((2,), (1, 1, 1), **options), POSTERIORS["diagonal"](SameForAll, (2,))
    follow(lambda: -prior(any_posterior).log_prob(eight_clouds(256)[0]).mean(), prior, steps)
    codes, entropy = eight_clouds(20_000)
    with torch.no_grad():
        p = prior(any_posterior)
        return float(-p.log_prob(codes).mean()) - entropy, p.rsample(torch.Size([SHOWN]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/example-toy-densities"))
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()

    shown: list[tuple[str, str, Tensor]] = []  # row, title, points
    print(f"{'KL to the density, nats':28}" + "".join(f"{kind:>12}" for kind in ("diagonal", "iaf", "maf")))
    for density in (banana, two_arcs):
        constant, line = log_integral(density), f"{density.__name__:28}"
        for kind in ("diagonal", "iaf", "maf"):
            divergence, draws = fitted_posterior(kind, density, options.steps)
            line += f"{divergence + constant:12.3f}"
            shown.append((density.__name__, f"{kind}: {divergence + constant:.2f} nats", draws))
        print(line)
    print(f"\n{'above the entropy, nats':28}" + "".join(f"{kind:>12}" for kind in ("learned", "mixture", "flow")))
    line = f"{'eight_clouds':28}"
    for kind, given in (
        ("learned", {}),
        ("mixture", {"components": 16, "spread": 0.9}),
        ("flow", {"family": "nsf", "hidden": 32}),
    ):
        excess, draws = fitted_prior(kind, given, options.steps)
        line += f"{excess:12.3f}"
        shown.append(("eight_clouds", f"{kind}: {excess:.2f} nats", draws))
    print(line)

    figure = Figure(figsize=(9, 9), layout="constrained")
    for panel, (row, title, points) in zip(figure.subplots(3, 3).flat, shown, strict=True):
        panel.scatter(*points.T.tolist(), s=2, alpha=0.4)
        panel.set(title=title, aspect="equal", xlabel="z 0", ylabel=f"{row.replace('_', ' ')}\nz 1")
        panel.set(xlim=(-7, 7) if row == "banana" else (-4.5, 4.5), ylim=(-3, 11) if row == "banana" else (-4.5, 4.5))
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "toy_densities.png", dpi=90)
    print(options.out / "toy_densities.png")
