"""Any prior, posterior, likelihood and objective combine: what makes no sense is refused by a sentence, the rest runs.

Quick: every pair of two choices occurs in some combination. Slow: every combination of prior, posterior and objective,
and every pair in one compiled graph.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from vaekit.config.schema import Config, DataConfig, ModelConfig, Part, TrainingConfig
from vaekit.models.build import LIKELIHOODS, POSTERIORS, PRIORS, build_model
from vaekit.objectives import Facts
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.training.combinations import check_config
from vaekit.training.step import forward_of

SHAPE, BATCH, LATENT_DIM, CLASSES = (3, 5, 4), 6, 4, 3
TABLES = {"posterior": POSTERIORS, "prior": PRIORS, "likelihood": LIKELIHOODS, "objective": OBJECTIVES}
SMALLER = {"vamp": {"components": 4}, "mixture": {"components": 4}, "flow": {"hidden": 8}}  # to be quick


def config_of(choice: dict[str, str]) -> Config:
    binary = LIKELIHOODS[choice["likelihood"]].family.base_measure == "binary"
    model = ModelConfig(
        latent_dim=LATENT_DIM,
        network=Part("mlp", {"widths": (8,)}),
        context="class" if choice["prior"] == "per-class" else "none",
        **{name: Part(choice[name], SMALLER.get(choice[name], {})) for name in ("posterior", "prior", "likelihood")},
    )
    config = Config(model=model, objective=Part(choice["objective"]), training=TrainingConfig(samples=2))
    return replace(config, data=DataConfig(binarize="dynamic" if binary else "none"))


def refusals(choice: dict[str, str]) -> list[str]:
    return [problem.message for problem in check_config(config_of(choice))]


def pairwise(choices: list[dict[str, str]]) -> list[dict[str, str]]:
    """A few of the choices, in which every pair that occurs in any occurs; greedy."""

    def pairs(choice):
        return set(itertools.combinations(choice.items(), 2))

    missing, taken = set().union(*map(pairs, choices)), []
    while missing:
        best = max(choices, key=lambda choice: len(pairs(choice) & missing))
        taken.append(best)
        missing -= pairs(best)
    return taken


def named(choice: dict[str, str]) -> str:
    return "-".join(choice.values())


ALL = [dict(zip(TABLES, kinds, strict=True)) for kinds in itertools.product(*TABLES.values())]
SENSIBLE = [choice for choice in ALL if not refusals(choice)]
QUICK = pairwise(SENSIBLE)


def parts_of(choice):
    torch.manual_seed(0)
    config = config_of(choice)
    model = build_model(config.model, SHAPE, CLASSES)
    x = (torch.rand(BATCH, *SHAPE) * 255).round() / 255
    x = x.round() if config.data.binarize == "dynamic" else x
    objective = build_objective(config.objective, 10, x[0].numel(), Facts(BATCH, LATENT_DIM)).objective
    labels = torch.arange(BATCH) % CLASSES if model.classes else None
    return model, objective, forward_of(model, objective, 2, lambda x, rows: x, labels), x


def assert_trains(choice):
    """Finite, and its gradient reaches every weight that is trained."""
    model, objective, forward, x = parts_of(choice)
    loss, values = forward(x, torch.arange(BATCH), torch.tensor(3))
    loss.backward()
    assert bool(loss.isfinite()) and all(bool(value.isfinite()) for value in values.values())
    learned = [*model.named_parameters(), *getattr(objective, "named_parameters", list)()]
    without = [name for name, weight in learned if weight.requires_grad and weight.grad is None]
    assert not without
    assert all(bool(weight.grad.isfinite().all()) for _, weight in learned if weight.requires_grad)


def assert_compiles(choice):
    """In one graph, to the loss of the eager step."""
    torch._dynamo.reset()
    losses = []
    for compiled in (False, True):
        _, _, forward, x = parts_of(choice)
        run = torch.compile(forward, fullgraph=True, backend="aot_eager") if compiled else forward
        torch.manual_seed(5)
        losses.append(run(x, torch.arange(BATCH), torch.tensor(3))[0].detach())
    assert torch.allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("choice", QUICK, ids=named)
def test_every_pair_of_choices_trains(choice):
    assert_trains(choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", [choice for choice in SENSIBLE if choice not in QUICK], ids=named)
def test_every_combination_trains(choice):
    assert_trains(choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", QUICK, ids=named)
def test_every_pair_of_choices_compiles_in_one_graph(choice):
    assert_compiles(choice)


def test_what_makes_no_sense_is_refused_in_one_sentence():
    """Each refusal names a way out."""
    for choice in ALL:
        for message in refusals(choice):
            assert "\n" not in message, choice
            assert any(word in message for word in ("set ", "choose ", "use ")), (choice, message)


def test_what_is_refused_and_what_is_not():
    """Quantised codes with a prior over a codebook, and with nothing else; every prior with the diagonal posterior."""
    kept = {(choice["posterior"], choice["prior"]) for choice in SENSIBLE}
    for posterior, prior in itertools.product(POSTERIORS, PRIORS):
        assert ((posterior, prior) in kept) == (POSTERIORS[posterior].discrete == PRIORS[prior].discrete), (
            posterior,
            prior,
        )
    for objective in OBJECTIVES:
        assert any(choice["objective"] == objective for choice in SENSIBLE)
