"""The variational mixture of posteriors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.config.schema import Count
from vaekit.densities.mixtures import Mixture
from vaekit.errors import ConfigError
from vaekit.models.posteriors import Event, Posterior
from vaekit.models.priors.mixture import ComponentWeights, Weights
from vaekit.models.priors.normal import Prior
from vaekit.networks.trunks import Shape

EDGE = 0.02  # pseudo-inputs begin this far inside [0, 1]: at its ends a sigmoid has no gradient


class Vamp(Prior):
    """p(z) = Σ_k weight_k q(z | u_k) over pseudo-inputs u_k. Tomczak & Welling 2018, arXiv:1705.07120

    `inputs: learned` are images behind a sigmoid; they begin as training images (`start: images`), or as noise with the
    mean and deviation of each pixel over as many images (`start: moments`), which learns far more slowly.
    `inputs: data` are training images that stay.
    A model made without a training set has noise around mid-grey until it is shown one (`VAE.adopt`).
    """

    def __init__(
        self,
        event: Event,
        shape: Shape,
        classes: int = 0,
        *,
        components: Count = 500,
        inputs: Literal["learned", "data"] = "learned",
        start: Literal["images", "moments"] = "images",
        weights: Weights = "uniform",
    ) -> None:
        super().__init__(event, shape, classes)
        if classes:
            raise ConfigError(
                "a vamp prior has no labels for its pseudo-inputs; set model.context=none, or model.prior=per-class"
            )
        self.components, self.learned = components, inputs == "learned"
        self.as_they_are = not self.learned or start == "images"
        noise = torch.randn(components, *shape)
        self.inputs: Tensor  # behind a sigmoid where they are learned
        if self.learned:
            self.register_parameter("inputs", nn.Parameter(noise))
        else:
            self.register_buffer("inputs", torch.sigmoid(noise))
        self.weights = ComponentWeights(components, weights)

    def pseudo_inputs(self) -> Tensor:
        """u (K, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.inputs) if self.learned else self.inputs

    @torch.no_grad()
    def take(self, draw: Callable[[int], Tensor]) -> None:
        """Begin with as many training images as there are components, or with noise of their moments."""
        images = draw(self.components).to(self.inputs)
        if not self.as_they_are:
            images = images.mean(0) + images.std(0, correction=0) * self.inputs
        self.inputs.copy_(torch.logit(images.clamp(EDGE, 1 - EDGE)) if self.learned else images)

    def forward(self, posterior: Posterior, context: Tensor | None = None) -> Mixture:
        # in evaluation mode: pseudo-inputs neither move BatchNorm's statistics nor depend on those of the batch
        training = posterior.training
        posterior.eval()
        try:
            components = posterior(self.pseudo_inputs())
        finally:
            posterior.train(training)
        return Mixture(components, self.weights())
