"""A normalising flow over codes; needs the package zuko (the extra `flows`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.densities.noise import derived_seed
from vaekit.errors import ConfigError, missing_extra
from vaekit.training.optimizer import Adam, Update

Array = np.ndarray[Any, Any]
BATCH = 256
CHECK_EVERY = 25  # steps
LEARNING_RATE = 1e-2  # at its peak; 3e-3 leaves 300 steps 0.15 nats short on the codes of MNIST
RISING = 0.3  # share of the steps


class FlowSampler:
    """A masked autoregressive flow between the codes and a standard normal.

    Papamakarios, Pavlakou & Murray 2017, arXiv:1705.07057
    """

    package = "zuko"

    def __init__(self, flow: nn.Module, shift: Tensor, scale: Tensor, shape: Mapping[str, int]) -> None:
        self.flow, self.shift, self.scale, self.shape = flow.eval(), shift, scale, dict(shape)

    @classmethod
    def fit(cls, codes: Array, *, seed: int = 0, steps: int = 300, transforms: int = 2, hidden: int = 64) -> Self:
        """From codes (N, D), by at most `steps` updates of Adam on the negative log-density.

        The weights kept are those that describe a tenth of the codes, left out of the updates, best: a flow learns a
        few hundred codes by heart within seconds.
        """
        data = torch.as_tensor(codes, dtype=torch.float32)
        shift, scale = data.mean(0), data.std(0, correction=0).clamp_min(1e-3)
        data = (data - shift) / scale
        shape = {"features": data.shape[1], "transforms": transforms, "hidden": hidden}
        generator = torch.Generator().manual_seed(derived_seed(seed, "flow"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "flow weights"))
            flow = _flow(shape)
        optimizer = Adam([(list(flow.parameters()), 0.0)], (0.9, 0.999), 1e-8)
        data = data[torch.randperm(len(data), generator=generator)]  # those of a sorted folder come class by class
        held, data = data[: max(1, len(data) // 10)], data[len(data) // 10 :]
        best, kept = math.inf, _copy(flow)
        for step in range(steps):
            if step % CHECK_EVERY == 0 and (spent := _cost(flow, held)) < best:
                best, kept = spent, _copy(flow)
            rows = torch.randint(len(data), (min(BATCH, len(data)),), generator=generator)
            loss = -flow().log_prob(data[rows]).mean()
            flow.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step(Update(torch.tensor(_rate((step + 1) / steps))))
        if _cost(flow, held) >= best:
            flow.load_state_dict(kept)
        return cls(flow, shift, scale, shape)

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Array:
        """Codes (count, D), float32. `temperature` multiplies the spread of the normal that is transformed."""
        generator = np.random.default_rng(derived_seed(seed, "noise"))
        noise = torch.as_tensor(generator.standard_normal((count, len(self.shift))), dtype=torch.float32)
        standard = self.flow().transform.inv(temperature * noise)
        return (self.shift + self.scale * standard).numpy()

    @torch.no_grad()
    def log_prob(self, codes: Array) -> Array:
        """log p(z) of codes (N, D): (N,), nats."""
        standard = (torch.as_tensor(codes, dtype=torch.float32) - self.shift) / self.scale
        return (self.flow().log_prob(standard).double() - self.scale.double().log().sum()).numpy()

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Tensors and facts that `restore` takes."""
        weights = {f"flow.{name}": value.numpy() for name, value in self.flow.state_dict().items()}
        return {**weights, "shift": self.shift.numpy(), "scale": self.scale.numpy()}, dict(self.shape)

    @classmethod
    def restore(cls, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The sampler whose `state` this is."""
        shape = {name: int(facts[name]) for name in ("features", "transforms", "hidden")}
        flow = _flow(shape)
        flow.load_state_dict(
            {k.removeprefix("flow."): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("flow.")}
        )
        return cls(flow, torch.as_tensor(tensors["shift"]), torch.as_tensor(tensors["scale"]), shape)


def _rate(share: float) -> float:
    """The learning rate when this share of the steps is done: a straight rise, then half a cosine."""
    if share < RISING:
        return LEARNING_RATE * share / RISING
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (share - RISING) / (1 - RISING)))


def _copy(flow: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in flow.state_dict().items()}


@torch.no_grad()
def _cost(flow: nn.Module, codes: Tensor) -> float:
    """Nats per code; a flow that has left the numbers counts as the worst."""
    cost = -float(flow().log_prob(codes).double().mean())
    return cost if math.isfinite(cost) else math.inf


def _flow(shape: Mapping[str, int]) -> nn.Module:
    try:
        import zuko
    except ImportError:
        raise ConfigError(missing_extra("the flow sampler", "flows", "zuko", "use --sampler mixture")) from None
    return zuko.flows.MAF(shape["features"], transforms=shape["transforms"], hidden_features=[shape["hidden"]] * 2)
