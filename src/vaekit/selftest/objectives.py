"""What training minimises: gradients that agree in expectation, batches that do not matter, networks left alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.config.schedule_shapes import constant
from vaekit.config.schema import Part, TrainingConfig
from vaekit.densities.codes import DiagonalNormal
from vaekit.densities.noise import no_noise
from vaekit.models.build import vae
from vaekit.models.trace import Objective, terms
from vaekit.models.vae import VAE
from vaekit.objectives import Facts, Learned, iwae, needs_of
from vaekit.objectives.aggregate import log_aggregate
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.selftest.figure import refuse_without_float64
from vaekit.selftest.linear_gaussian import SHAPE, linear_vae
from vaekit.training.ema import Ema
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import build_optimizer
from vaekit.training.step import Counters, TrainStep, forward_of

SPOIL = 0.3
GRADIENTS, DIRECTIONS, SAMPLES = 300, 4, 8
IMAGES, COMPANY, BATCHES = 200, 7, 3000  # of the aggregate posterior: its images, and others beside one in a batch
LATENT_DIM = 3


def _model(device: torch.device) -> tuple[VAE, Tensor]:
    """A small VAE and six 0/1 images, float64."""
    refuse_without_float64(device)
    model = vae((1, 4, 4), LATENT_DIM, Part("mlp", {"widths": (16,)})).double().to(device)
    return model, torch.rand(6, 1, 4, 4, dtype=torch.float64).round().to(device)


def _objective(kind: str, x: Tensor) -> Objective:
    made = build_objective(Part(kind), 1, x[0].numel(), Facts(IMAGES, LATENT_DIM)).objective
    return made.to(x) if isinstance(made, Learned) else made


@torch.no_grad()
def change_by_duplication(device: torch.device) -> float:
    """Largest relative change of an objective or a term when each image is there twice; coupled objectives excepted."""
    model, x = _model(device)
    step, worst = torch.tensor(0), 0.0
    for kind in OBJECTIVES:
        objective = _objective(kind, x)
        if needs_of(objective).coupled:
            continue
        traces = [model(images, 2, no_noise, stopped=needs_of(objective).stopped) for images in (x, torch.cat([x, x]))]
        once, twice = ({"loss": objective(trace, step), **terms(trace)} for trace in traces)
        worst = max(
            worst, *(float(abs(twice[name] - once[name])) / float(abs(once[name])) for name in once if once[name])
        )
    return worst


def difference_of_gradients(device: torch.device) -> float:
    """Distance of the mean DReG from the mean IWAE gradient of the encoder, along directions: standard errors."""
    refuse_without_float64(device)
    model, _ = linear_vae(SPOIL)
    model, x = model.to(device), torch.rand(3, *SHAPE, dtype=torch.float64).to(device)
    weights = [weight for weight in model.posterior.parameters() if weight.requires_grad]
    directions = torch.randn(DIRECTIONS, sum(weight.numel() for weight in weights), dtype=torch.float64)

    def along(objective: Objective) -> Tensor:
        loss = objective(model(x, SAMPLES, stopped=True), torch.tensor(0))
        return directions @ torch.cat([g.flatten().cpu() for g in torch.autograd.grad(loss, weights)])

    plain, doubly = (
        torch.stack([along(objective) for _ in range(GRADIENTS)]) for objective in (iwae(), iwae(gradient="doubly"))
    )
    error = ((plain.var(0) + doubly.var(0)) / GRADIENTS).sqrt()
    return float(((plain.mean(0) - doubly.mean(0)) / error).abs().max())


def bias_of_stratified_sampling(device: torch.device) -> float:
    """Distance of the mean estimate of q(z), before the logarithm, from the known mixture: standard errors."""
    refuse_without_float64(device)
    loc = torch.randn(IMAGES, 2, dtype=torch.float64)
    z = loc[:1] + 0.5 * torch.randn(1, 2, dtype=torch.float64)

    def normals(rows: Tensor) -> DiagonalNormal:
        here = loc[rows].to(device)
        return DiagonalNormal(here, torch.full_like(here, math.log(0.5)), validate_args=False)

    exact = float(normals(torch.arange(IMAGES)).log_prob(z.to(device)).exp().mean())
    found = []
    for _ in range(BATCHES):
        rows = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(IMAGES - 1)[:COMPANY]])
        codes = torch.cat([z, loc[rows[1:]]])[None].to(device)  # only the first is asked about
        joint, _ = log_aggregate(normals(rows), codes, IMAGES, "stratified")
        found.append(joint[0, 0].exp())
    values = torch.stack(found)
    return abs(float(values.mean()) - exact) / (float(values.std()) / math.sqrt(BATCHES))


def weights_that_the_other_touched(device: torch.device) -> float:
    """How many weights of one network get a gradient of the other's loss, or change in a step of the other alone."""
    touched = 0
    for kind in OBJECTIVES:
        for of_model, of_own in ((0.0, 1e-2), (1e-2, 0.0)):  # learning rates
            model, x = _model(device)
            objective = _objective(kind, x)
            if not (isinstance(objective, Learned) and any(True for _ in objective.parameters())):
                continue
            still, trace = list((objective if of_model else model).parameters()), model(x, 1)
            loss = objective(trace, torch.tensor(0)) if of_model else objective.own_loss(trace)
            leaks = torch.autograd.grad(loss, still, allow_unused=True)
            touched += sum(leak.numel() for leak in leaks if leak is not None)
            before, objective.learning_rate = [weight.detach().clone() for weight in still], of_own
            _step(model, objective, of_model, device)(x)
            touched += sum(int((weight != old).sum()) for weight, old in zip(still, before, strict=True))
    return float(touched)


def _step(model: VAE, objective: Learned, rate: float, device: torch.device) -> TrainStep:
    return TrainStep(
        forward_of(model, objective, 1),
        build_optimizer(model, TrainingConfig()),
        Ema(model, None),
        constant(rate),
        Counters(device),
        own=ObjectiveWeights(objective, device),
    )
