"""log p(x) by annealed importance sampling, from below; on data of the model's own also from above.

Neal 2001, Annealed importance sampling; Wu et al. 2017, arXiv:1611.04273; Grosse, Ancha & Roy 2016 (bidirectional
Monte Carlo), arXiv:1511.02543. Shapes: S chains, B images, D latent. Weights and sums are float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vaekit.densities.noise import IMAGES_PER_BLOCK, BlockNoise, derived_seed
from vaekit.errors import ConfigError, NumericalError, is_out_of_memory
from vaekit.evaluation.chunks import rows_at_once
from vaekit.evaluation.hmc import EXTRA_NOISE, State, adapted, transition
from vaekit.models.model import Model

WARM_UP_CHAINS = 4
SETTLING = 20  # trajectories at the start of the path before the warm-up climbs it
ADAPTATIONS = 100  # at least so many on its way, so that steps keep up where temperatures are few
FIRST_STEP = 0.3
SIGMOID_REACH = 4.0  # temperatures lie densest at both ends, where the density changes fastest; arXiv:1511.02543
Tick = Callable[[int], None]  # hears how many trajectories were done


@dataclass(frozen=True)
class Annealing:
    """How to go from the start of the path, p(z) or q(z | x), to p(z) p(x | z)."""

    temperatures: int = 500
    chains: int = 8
    leapfrogs: int = 10
    start: Literal["prior", "posterior"] = "prior"

    def betas(self) -> list[float]:
        """The exponents of the path, 0 … 1: temperatures + 1 of them."""
        whole = [math.tanh(SIGMOID_REACH * (t / self.temperatures - 0.5)) for t in range(self.temperatures + 1)]
        return [0.5 + 0.5 * value / whole[-1] for value in whole]

    def trajectories(self, images: int) -> int:
        """How many HMC trajectories one pass over so many images takes, its warm-up included."""
        warm = min(self.chains, WARM_UP_CHAINS) * (SETTLING + self.repeats * (self.temperatures - 1))
        return images * (self.chains * self.temperatures + warm)

    @property
    def repeats(self) -> int:
        """Trajectories of the warm-up at each temperature."""
        return -(-ADAPTATIONS // self.temperatures)


@dataclass(frozen=True)
class Annealed:
    """Chains of images, float64 (S, N) and (N,)."""

    log_weights: Tensor  # nats; their exponentials are unbiased for p(x), or backwards for 1 / p(x)
    acceptance: Tensor  # mean over chains and temperatures

    @property
    def log_mean(self) -> Tensor:
        """log 1/S sum_s w_s: (N,), nats; in expectation a lower bound on log p(x), or backwards on -log p(x)."""
        return torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))

    @property
    def sampling_se_nats(self) -> float | None:
        """Standard error of the mean over images of `log_mean`, from the finite number of chains (delta method).

        Too small where one chain carries the sum, and backwards, where chains share their start. None for one chain.
        """
        chains, images = self.log_weights.shape
        if chains < 2:
            return None
        share = (self.log_weights - self.log_weights.max(0).values).exp()
        variance = share.var(0) / (chains * share.mean(0).square())
        return math.sqrt(float(variance.sum())) / images


class Path:
    """log f_beta = log f_0 + beta * (log p(z) p(x | z) - log f_0) for images x, f_0 being p(z) or q(z | x)."""

    def __init__(self, model: Model, x: Tensor, context: Tensor | None, start: str) -> None:
        self.model, self.x, self.context = model, x, context
        with torch.no_grad():
            self.p, self.q = model.p(context), model.q(x, context) if start == "posterior" else None

    def first(self, noise: Tensor) -> Tensor:
        """Codes (S, B, D) drawn from f_0, the numbers of a grid in a row."""
        return self.model.layout.matrix([(self.p if self.q is None else self.q).from_noise(noise).detach()])

    def at(self, z: Tensor) -> State:
        """Both parts of log f_beta and their slopes."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            code = z.unflatten(-1, self.p.event_shape)
            log_p, log_px = self.p.log_prob(code), self.model.decode((code,), self.context).log_prob(self.x)
            base = log_p if self.q is None else self.q.log_prob(code)
            gain = log_px if self.q is None else log_px + log_p - base
            (base_slope,) = torch.autograd.grad(base.sum(), z, retain_graph=True)
            (gain_slope,) = torch.autograd.grad(gain.sum(), z)
        return State(z.detach(), base.detach(), gain.detach(), base_slope, gain_slope)


def refuse_without_slopes(model: Model) -> Model:
    """The model, where it can be annealed. ConfigError for one without p(x), with several groups, or discrete codes."""
    if not model.has_posterior:
        raise ConfigError("an autoencoder has no p(x) to bound; train a model with model.kind=vae")
    if not model.one_group:
        raise ConfigError(
            f"annealing moves one group of codes, and this model has {len(model.layout.groups)}; "
            "use vaekit evaluate RUN --samples 5000"
        )
    if not model.likelihood.family.is_likelihood:
        raise ConfigError(f"{model.likelihood.family.__name__} is a loss and not a likelihood, so p(x) does not exist")
    device = next(model.parameters()).device
    with torch.enable_grad():
        p = model.p(torch.zeros(1, dtype=torch.int64, device=device) if model.classes else None)
        z = p.mean.detach().clone().requires_grad_()
        log_p = p.log_prob(z)
    if not p.has_rsample or p.support.is_discrete or log_p.grad_fn is None:
        raise ConfigError(
            "annealing follows the slope of log p(z), which a prior over discrete codes does not have; "
            "use vaekit evaluate RUN --samples 5000"
        )
    return model


def annealed(
    model: Model,
    x: Tensor,
    settings: Annealing,
    seed: int,
    *,
    context: Tensor | None = None,
    codes: Tensor | None = None,
    rows: int | None = None,
    tick: Tick = lambda trajectories: None,
) -> Annealed:
    """Weights of images x (N, C, H, W): up the path from f_0, or, from exact posterior `codes` (N, D), down it.

    Noise and step sizes depend on (seed, image, chain) alone. `rows`: images times chains decoded at once; None asks
    the free memory. The model is put into evaluation mode. ConfigError for a model without slopes, NumericalError
    where chains leave the finite numbers or one does not fit the memory.
    """
    refuse_without_slopes(model.eval())
    least = min(settings.chains, WARM_UP_CHAINS)
    rows = max(least, rows or rows_at_once(model, x.device) // 2)  # the graph keeps every layer
    found: list[Annealed] = []
    first = 0
    while first < len(x):
        here = slice(first, first + max(1, min(IMAGES_PER_BLOCK, rows // settings.chains)))
        path = Path(model, x[here], None if context is None else context[here], settings.start)
        batch = _Batch(path, settings, derived_seed(seed, "annealing"), first, min(settings.chains, rows), tick)
        try:
            found.append(batch.run(None if codes is None else codes[here]))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == least:
                raise NumericalError(
                    f"out of memory with {least} chains; free some, or choose another --device"
                ) from None
            rows = max(least, rows // 2)
            continue
        first = here.stop
    result = Annealed(torch.cat([f.log_weights for f in found], 1), torch.cat([f.acceptance for f in found]))
    if not bool(result.log_weights.isfinite().all()):
        broken = int((~result.log_weights.isfinite().all(0)).sum())
        raise NumericalError(f"annealing left the finite numbers on {broken} of {len(x)} images; try --start posterior")
    return result


class _Batch:
    """The chains of a few images, some chains at a time."""

    def __init__(self, path: Path, settings: Annealing, seed: int, first_image: int, chains: int, tick: Tick) -> None:
        self.path, self.settings, self.seed, self.first_image = path, settings, seed, first_image
        self.chains, self.tick = chains, tick

    def run(self, codes: Tensor | None) -> Annealed:
        betas = self.settings.betas()
        steps = self._steps(betas)
        if codes is not None:
            betas, steps = betas[::-1], steps.flip(0)
        first, found = 0, []
        while first < self.settings.chains:
            count = min(self.chains, self.settings.chains - first)
            found.append(self._climb(betas, steps, codes, first, count))
            first += count
        weights, acceptances = zip(*found, strict=True)
        return Annealed(torch.cat(weights).cpu(), torch.cat(acceptances).mean(0).cpu())

    def _noise(self, purpose: str, number: int, first_chain: int, chains: int) -> Tensor:
        """Standard normal (S, B, D + 2) of one transition, or of the draw before the first."""
        x, dims = self.path.x, self.path.model.layout.width
        shape = torch.Size((chains, len(x), dims + EXTRA_NOISE))
        return BlockNoise(derived_seed(self.seed, purpose, number), self.first_image, first_chain)(0, shape, x)

    def _start(self, purpose: str, first_chain: int, chains: int) -> Tensor:
        x, p, q = self.path.x, self.path.p, self.path.q
        shape = torch.Size((chains, len(x), *(p if q is None else q).noise_shape))
        return self.path.first(BlockNoise(derived_seed(self.seed, purpose), self.first_image, first_chain)(0, shape, x))

    def _steps(self, betas: list[float]) -> Tensor:
        """Step sizes (T - 1, B) for the inner temperatures, found by chains of their own, so weights stay valid."""
        chains, leapfrogs = min(self.settings.chains, WARM_UP_CHAINS), self.settings.leapfrogs
        state = self.path.at(self._start("warm-up", 0, chains))
        step = state.z.new_full((len(self.path.x),), FIRST_STEP)
        steps = []
        inner = [beta for beta in betas[1:-1] for _ in range(self.settings.repeats)]
        for number, beta in enumerate([*[betas[1]] * SETTLING, *inner]):
            noise = self._noise("warm-up", number, 0, chains)
            state, acceptance = transition(self.path.at, state, beta, step, noise, leapfrogs)
            step = adapted(step, acceptance)
            steps.append(step)
            self.tick(acceptance.numel())
        return torch.stack(steps)[SETTLING + self.settings.repeats - 1 :: self.settings.repeats]

    def _climb(
        self, betas: list[float], steps: Tensor, codes: Tensor | None, first_chain: int, chains: int
    ) -> tuple[Tensor, Tensor]:
        """log-weights (S, B) along the betas, up or down, and the acceptance (S, B) averaged over them."""
        purpose = "up" if codes is None else "down"
        z = self._start(purpose, first_chain, chains) if codes is None else codes.expand(chains, *codes.shape)
        state = self.path.at(z)
        log_weight = torch.zeros(state.gain.shape, dtype=torch.float64, device=z.device)
        accepted = torch.zeros_like(log_weight)
        for number, (beta, next_beta) in enumerate(itertools.pairwise(betas)):
            log_weight += (next_beta - beta) * state.gain.double()
            if number < len(steps):  # where the path ends, nothing depends on moving on
                noise = self._noise(purpose, number, first_chain, chains)
                moved = transition(self.path.at, state, next_beta, steps[number], noise, self.settings.leapfrogs)
                state, accepted = moved.state, accepted + moved.acceptance
            self.tick(log_weight.numel())
        return log_weight, accepted / max(1, len(steps))


class Simulated(NamedTuple):
    """Images of the model's own, and the codes that they were drawn from: exact posterior samples."""

    x: Tensor  # (N, C, H, W)
    codes: Tensor  # (N, D), the numbers of a grid in a row


@torch.no_grad()
def simulated(model: Model, count: int, seed: int, context: Tensor | None = None) -> Simulated:
    """Draws of z ~ p(z), x ~ p(x | z); image i depends on (seed, i) alone."""
    like = next(model.parameters())
    (codes,) = model.eval().draw(count, BlockNoise(derived_seed(seed, "simulated")), 1.0, context)
    images = []
    with torch.random.fork_rng([like.device] if like.device.type == "cuda" else []):
        for i in range(count):
            torch.manual_seed(derived_seed(seed, "simulated image", i))
            label = None if context is None else context[i : i + 1]
            images.append(model.decode((codes[i : i + 1],), label).sample())
    return Simulated(torch.cat(images), model.layout.matrix([codes]))
