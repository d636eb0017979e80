"""A normalising flow as the prior; needs the package zuko (the extra `flows`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vaekit.config.schema import Count
from vaekit.densities.codes import LOG_2PI, LatentDistribution
from vaekit.errors import ConfigError, missing_extra
from vaekit.models.posteriors import Event, Posterior
from vaekit.models.priors.normal import Prior
from vaekit.networks.trunks import Shape


class Transformed(nn.Module):
    """The transforms of a zuko flow, from codes to a standard normal, as two functions of tensors.

    One by one, since what zuko composes of them cannot be compiled whole.
    """

    def __init__(self, transforms: nn.ModuleList) -> None:
        super().__init__()
        self.transforms = transforms

    def forward(self, value: Tensor, *, inverse: bool = False) -> Tensor:
        """log p(z) (*lead,) of codes (*lead, D); `inverse`: the codes of standard-normal noise, D passes for one."""
        if inverse:
            for transform in reversed(self.transforms):
                value = transform().inv(value)
            return value
        log_volume = torch.zeros((), dtype=value.dtype, device=value.device)
        for transform in self.transforms:
            value, change = transform().call_and_ladj(value)
            log_volume = log_volume + change
        return log_volume - 0.5 * (value.square() + LOG_2PI).sum(-1)


class FlowDistribution(LatentDistribution):
    """A normal carried through invertible functions: log_prob is one pass, a draw as many as there are dimensions.

    Its moments have no formula: they are those of 4,096 draws, the same ones every time, without a gradient.
    """

    def __init__(self, flow: Transformed, like: Tensor, stopped: Mapping[str, Tensor] | None = None) -> None:
        """`like` (D,) tells type and device; `stopped` are weights to use in place of the flow's own."""
        self.flow, self._like, self.stopped = flow, like, stopped
        super().__init__(torch.Size(), like.shape, validate_args=False)

    @property
    def like(self) -> Tensor:
        return self._like

    def _of(self, value: Tensor, **options: Any) -> Tensor:
        if self.stopped is None:
            return self.flow(value, **options)
        return functional_call(self.flow, dict(self.stopped), (value,), options)

    def from_noise(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """The temperature multiplies the spread of the normal that is carried."""
        return self._of(temperature * noise, inverse=True)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._of(value)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        drawn = self.seeded_draws()
        return drawn.mean(0), drawn.T.cov().reshape(drawn.shape[1], -1)

    @property
    def mean(self) -> Tensor:
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal()

    @property
    def covariance(self) -> Tensor:
        return self._moments[1]

    def detach(self) -> FlowDistribution:
        stopped = {name: weight.detach() for name, weight in self.flow.named_parameters()}
        return FlowDistribution(self.flow, self._like, stopped)


class Flow(Prior):
    """A masked autoregressive flow of affine maps (maf) or of rational-quadratic splines (nsf).

    Papamakarios, Pavlakou & Murray 2017, arXiv:1705.07057; Durkan et al. 2019, arXiv:1906.04032
    """

    package = "zuko"

    def __init__(
        self,
        event: Event,
        shape: Shape,
        classes: int = 0,
        *,
        family: Literal["maf", "nsf"] = "maf",
        transforms: Count = 2,
        hidden: Count = 64,
    ) -> None:
        super().__init__(event, shape, classes)
        (latent_dim,) = event
        try:
            import zuko
        except ImportError:
            raise ConfigError(missing_extra("the flow prior", "flows", "zuko", "use model.prior=mixture")) from None
        families = {"maf": zuko.flows.MAF, "nsf": zuko.flows.NSF}
        made = families[family](latent_dim, transforms=transforms, hidden_features=[hidden] * 2)
        self.flow = Transformed(made.transform.transforms)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.zeros: Tensor

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> FlowDistribution:
        return FlowDistribution(self.flow, self.zeros)
