"""One update and the loop around it: what changes the weights, what is skipped, what is measured and written."""

from __future__ import annotations

import builtins
import csv
import inspect
import math
import sys
import types

import pytest
import torch
from laws import fitted
from small_runs import SIZES, state_of
from torch import nn

from vaekit.config.load import load_config, to_dict
from vaekit.config.schedule_shapes import constant
from vaekit.config.schedules import build_learning_rate
from vaekit.config.schema import ModelConfig, Part, TrainingConfig
from vaekit.data.dataset import Dataset
from vaekit.data.pixels import Pixels
from vaekit.data.splits import load_splits
from vaekit.densities.noise import BlockNoise
from vaekit.errors import ConfigError, DataError, NumericalError
from vaekit.models.build import LIKELIHOODS, NETWORKS, build_model, vae
from vaekit.models.trace import terms
from vaekit.objectives import Facts, elbo
from vaekit.objectives.build import OBJECTIVES, build_objective
from vaekit.training import validation
from vaekit.training.checkpoint import load_checkpoint, locate, pointed, saved_steps
from vaekit.training.combinations import check_config
from vaekit.training.ema import Ema
from vaekit.training.loggers import Several, Silent
from vaekit.training.loop import Trainer
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import OPTIMIZERS, Update, build_optimizer
from vaekit.training.step import FIRST_SCALE, Counters, TrainStep, forward_of
from vaekit.verbs.train import train

SHAPE = (1, 6, 5)


def config_of(*overrides):
    return load_config("digits", [*SIZES, *overrides], check=check_config)


def trainer_of(run, *overrides):
    config = config_of(*overrides)
    return Trainer(config, load_splits(config.data), run, Several([]), to_dict(config))


def model_of(kind="vae", network="mlp", likelihood="bernoulli", **options):
    torch.manual_seed(0)
    return build_model(
        ModelConfig(kind=kind, latent_dim=3, network=Part(network, options), likelihood=Part(likelihood)), SHAPE
    )


def step_of(model, optimizer="adamw", *, ema=0.9, breaks=(), **options):
    """A training step whose loss is multiplied by a value of `breaks` at the steps that it names."""
    config = TrainingConfig(optimizer=optimizer, learning_rate=0.01, ema=ema)
    counters = Counters(torch.device("cpu"))
    plain = forward_of(model, build_objective(Part("elbo"), 1, 30).objective, 1)

    def forward(x, step):
        loss, terms = plain(x, step)
        return loss * dict(breaks).get(int(step), 1.0), terms

    made = build_optimizer(model, config)
    return TrainStep(forward, made, Ema(model, ema), constant(0.01), counters, **options)


def everything(step, model):
    """Weights, their averages, buffers and optimiser state, copied."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in step.ema.model.state_dict().items()}
    tensors |= {f"optimizer/{k}": v for k, v in step.optimizer.tensors(model).items()}
    return {name: value.clone() for name, value in tensors.items()}


def changed(before, after):
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


# A step that is not finite


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_counted_and_changes_nothing(optimizer, value):
    model = model_of(network="conv", widths=(4,), norm="batch")
    statistics = [b for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) for b in layer.buffers()]
    step = step_of(model, optimizer, breaks={3: value, 4: value}, clip=1.0, statistics=statistics)
    x = torch.rand(8, *SHAPE).round()
    for _ in range(3):
        step(x)
    before = everything(step, model)
    sums = step.counters.take()
    step(x)
    step(x)
    assert changed(before, everything(step, model)) == set()
    assert (int(step.counters.skipped), int(step.counters.row), int(step.counters.step)) == (2, 2, 5)
    assert step.counters.take() == {} and math.isfinite(sums["loss"])
    step(x)
    assert changed(before, everything(step, model)) >= {
        n for n in before if n.startswith(("model/", "ema/")) and "weight" in n
    }
    assert (int(step.counters.row), int(step.counters.longest_row), int(step.counters.skipped)) == (0, 2, 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped_too(optimizer):
    model = model_of(widths=(4,))
    step = step_of(model, optimizer)
    weight = next(model.parameters())
    x = torch.rand(8, *SHAPE).round()
    step(x)
    before = everything(step, model)
    hook = weight.register_hook(lambda gradient: gradient * math.inf)
    step(x)
    assert changed(before, everything(step, model)) == set()
    hook.remove()
    step(x)
    assert changed(before, everything(step, model))
    assert int(step.counters.skipped) == 1


def test_the_very_first_step_may_be_skipped():
    model = model_of(widths=(4,))
    step = step_of(model, breaks={0: math.nan})
    x = torch.rand(8, *SHAPE).round()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    step(x)
    assert changed(weights, model.state_dict()) == set()
    step(x)
    assert float(step.optimizer.count) == 1


def test_overflow_of_the_fp16_scale_is_counted_apart_and_halves_it():
    model = model_of(widths=(4,))
    step = step_of(model, scaled=True)
    hook = next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    step(torch.rand(8, *SHAPE).round())
    assert (int(step.counters.overflows), int(step.counters.skipped)) == (1, 0)
    assert float(step.counters.scale) == FIRST_SCALE / 2
    hook.remove()
    before = everything(step, model)
    step(torch.rand(8, *SHAPE).round())
    assert changed(before, everything(step, model))
    assert float(step.counters.scale) == FIRST_SCALE / 2


def test_a_loss_that_is_not_finite_under_fp16_is_no_overflow():
    step = step_of(model_of(widths=(4,)), breaks={0: math.nan}, scaled=True)
    step(torch.rand(8, *SHAPE).round())
    assert (int(step.counters.overflows), int(step.counters.skipped)) == (0, 1)
    assert float(step.counters.scale) == FIRST_SCALE


def test_the_fp16_scale_changes_no_update():
    x = torch.rand(8, *SHAPE).round()
    weights = []
    for scaled in (False, True):
        model = model_of(kind="autoencoder", widths=(4,))
        step = step_of(model, scaled=scaled, clip=0.5)
        step(x)
        weights.append(model.state_dict())
    assert all(torch.allclose(weights[0][name], weights[1][name], rtol=1e-5) for name in weights[0])


@pytest.mark.parametrize(
    ("log_every", "checkpoint_every", "end", "kept"), [(4, 1000, 16, None), (1000, 4, 16, 12), (1000, 2, 16, 14)]
)
def test_ten_in_a_row_stop_at_the_next_log_point_or_checkpoint(tmp_path, log_every, checkpoint_every, end, kept):
    """From step 5 on every loss is NaN. No checkpoint holds anything that is not finite."""
    trainer = trainer_of(
        tmp_path,
        f"training.log_every={log_every}",
        f"training.checkpoint_every={checkpoint_every}",
        "training.validate_every=1000",
    )
    good = trainer.step.forward

    def forward(*inputs):
        loss, terms = good(*inputs)
        return (loss if int(inputs[-1]) < 5 else loss * math.nan), terms

    trainer.step.forward = forward
    with pytest.raises(NumericalError, match=r"1\d updates in a row had a non-finite loss") as caught:
        trainer.fit()
    assert caught.value.exit_code == 5
    assert int(trainer.counters.step) == end
    for step in saved_steps(tmp_path):
        for group in load_checkpoint(tmp_path / "checkpoints" / f"step-{step:08d}").tensors.values():
            assert all(bool(t.isfinite().all()) for t in group.values() if t.is_floating_point())
    assert pointed(tmp_path, "latest") == kept


# Gradients


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
    """Without noise, 8 images in 2, 3 (uneven) or 8 parts."""
    x = torch.rand(8, *SHAPE).round()
    found = []
    for k in (1, parts):
        model = model_of(kind="autoencoder", widths=(6,))
        step = step_of(model, parts=k)
        step.gradients(x)
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clipping_limits_the_norm_and_reports_the_one_before(optimizer):
    x = torch.rand(8, *SHAPE).round()
    model = model_of(kind="autoencoder", widths=(6,))
    step_of(model, optimizer).gradients(x)
    true = norm_of(p.grad for p in model.parameters())
    for clip, seen in ((0.01, 0.01), (10 * true, true)):
        model = model_of(kind="autoencoder", widths=(6,))
        step = step_of(model, optimizer, clip=clip)
        step(x)
        first = [t for name, t in step.optimizer.tensors(model).items() if name.endswith("/exp_avg")]
        assert norm_of(first) / (1 - 0.9) == pytest.approx(seen, rel=1e-3)  # the mean of one gradient
        assert step.counters.take()["gradient_norm"] == pytest.approx(true, rel=1e-5)
    assert true > 0.1


def norm_of(tensors):
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


KINDS = [
    ("vae", "none"),
    ("autoencoder", "none"),
    ("autoencoder", "gaussian"),
    ("autoencoder", "mask"),
    ("autoencoder", "salt"),
]


@pytest.mark.parametrize(("kind", "corruption"), KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_model_trains_with_finite_gradients_to_every_weight(kind, corruption, network):
    others = OBJECTIVES if (kind, network) == ("vae", "mlp") else ()  # tests/test_tables.py has every pair
    for likelihood, objective in [*((one, "elbo") for one in LIKELIHOODS), *(("bernoulli", one) for one in others)]:
        torch.manual_seed(0)
        small = {"widths": (8,)} if "widths" in inspect.signature(NETWORKS[network].encoder).parameters else {}
        parts, shape = {"network": Part(network, small), "likelihood": Part(likelihood)}, fitted(network, SHAPE)
        model = build_model(ModelConfig(kind=kind, corruption=corruption, latent_dim=3, **parts), shape).train()
        config = TrainingConfig()
        made = build_objective(Part(objective), 1, 30, Facts(images=20, latent_dim=3)).objective
        forward, own = forward_of(model, made, 1), ObjectiveWeights(made, torch.device("cpu"))
        counters = Counters(torch.device("cpu"))
        step = TrainStep(forward, build_optimizer(model, config), Ema(model, 0.9), constant(1e-3), counters, own=own)
        for _ in range(2):
            step(torch.rand(4, *shape).round())
            for name, weight in model.named_parameters():
                assert weight.grad is not None and bool(weight.grad.isfinite().all()), (likelihood, name)
        assert int(counters.skipped) == 0, likelihood
        moved = changed(build_before(kind, corruption, parts, shape), dict(model.named_parameters()))
        assert moved == {name for name, _ in model.named_parameters()}, likelihood


def build_before(kind, corruption, parts, shape):
    torch.manual_seed(0)
    return dict(
        build_model(ModelConfig(kind=kind, corruption=corruption, latent_dim=3, **parts), shape).named_parameters()
    )


REFERENCES = {
    "adam": lambda groups: torch.optim.Adam(groups, betas=(0.8, 0.97), eps=1e-7),
    "adamw": lambda groups: torch.optim.AdamW(groups, betas=(0.8, 0.97), eps=1e-7),
    "adamax": lambda groups: torch.optim.Adamax(groups, betas=(0.8, 0.97), eps=1e-7),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_our_optimisers_follow_those_of_torch(name, decay):
    """40 updates with changing rates, gradients scaled by a divisor; matrices decay, biases do not."""
    model, twin = model_of(widths=(4,)), model_of(widths=(4,))
    config = TrainingConfig(optimizer=name, betas=(0.8, 0.97), eps=1e-7, weight_decay=decay)
    ours = build_optimizer(model, config)
    weights = list(twin.parameters())
    matrices, vectors = [w for w in weights if w.ndim >= 2], [w for w in weights if w.ndim < 2]
    theirs = REFERENCES[name]([{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}])
    for step in range(40):
        rate = 0.01 / (1 + step)
        for one, other in zip(model.parameters(), weights, strict=True):
            other.grad = torch.randn_like(other) * 10 ** (step % 5 - 2)
            one.grad = 4 * other.grad
        ours.step(Update(torch.tensor(rate), torch.tensor(4.0), torch.tensor(True)))
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
    for one, other in zip(model.parameters(), weights, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_without_a_decay_the_averaged_weights_are_the_weights_themselves():
    model = model_of(network="conv", widths=(4,), norm="batch")
    ema = Ema(model, None)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor += 1
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in ema.model.state_dict().items())
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())
    assert model.training and all(p.requires_grad for p in model.parameters())


# Averaged weights and learning rates


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, None])
def test_averaged_weights_are_their_closed_formula(decay):
    model = model_of(widths=(4,))
    ema = Ema(model, decay)
    weight = next(model.parameters())
    expected = weight.detach().double().clone()
    for step in range(25):
        with torch.no_grad():
            weight.copy_(torch.randn_like(weight))
        ema.update(torch.tensor(step), torch.tensor(True))
        d = 0.0 if decay is None else min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * weight.detach().double()
    assert torch.allclose(next(ema.model.parameters()).double(), expected, rtol=1e-5, atol=1e-6)


def test_batch_statistics_are_copied_and_not_averaged():
    model = model_of(network="conv", widths=(4,), norm="batch")
    ema = Ema(model, 0.99)
    fresh = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model(torch.rand(8, *SHAPE))
    ema.update(torch.tensor(0), torch.tensor(True))
    followed = dict(ema.model.named_buffers())
    assert fresh and all(not torch.equal(followed[name], value) for name, value in fresh.items())
    assert all(torch.equal(followed[name], value) for name, value in model.named_buffers())


def rates_used(tmp_path, *overrides):
    """The learning rate in the optimiser at each step of a training."""
    trainer = trainer_of(tmp_path, "training.epochs=3", *overrides)
    used = []
    plain = trainer.optimizer.step
    trainer.optimizer.step = lambda update: (used.append(float(update.rate)), plain(update))
    trainer.fit()
    return used


def cosine(step, warmup=0, total=30, rate=1e-3, final=0.1):
    progress = min(1.0, max(0.0, (step - warmup) / (total - warmup)))
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * (final * rate + (rate - final * rate) * (1 + math.cos(math.pi * progress)) / 2)


@pytest.mark.parametrize(
    ("overrides", "formula"),
    [
        (("training.schedule=constant",), lambda s: 1e-3),
        (("training.schedule=constant", "training.warmup=8"), lambda s: 1e-3 * min(1, (s + 1) / 8)),
        (("training.schedule=cosine", "training.final_factor=0.1", "training.warmup=5"), lambda s: cosine(s, 5)),
        (
            ("training.schedule=cosine", "training.final_factor=0.1", "training.schedule_unit=epoch"),
            lambda s: cosine(10 * (s // 10)),
        ),
        (
            ("training.schedule=step", "training.decay_every=7", "training.decay_factor=0.5"),
            lambda s: 1e-3 * 0.5 ** (s // 7),
        ),
        (
            (
                "training.schedule=step",
                "training.decay_every=2",
                "training.schedule_unit=epoch",
                "training.warmup=0.5 epochs",
            ),
            lambda s: 1e-3 * 0.1 ** (s // 20) * min(1, (s + 1) / 5),
        ),
    ],
    ids=["constant", "warmup", "cosine", "cosine per epoch", "step", "step per epoch"],
)
def test_each_step_uses_the_learning_rate_of_the_schedule(tmp_path, overrides, formula):
    used = rates_used(tmp_path, *overrides)
    assert used == pytest.approx([formula(step) for step in range(30)], rel=1e-5)


def test_the_rate_in_the_history_is_the_one_that_was_used(tmp_path):
    used = rates_used(tmp_path, "training.log_every=1", "training.warmup=3")
    rows = [row for row in state_of(tmp_path)["progress"]["history"] if row["split"] == "train"]
    assert [row["learning_rate"] for row in rows] == pytest.approx(used)


def test_learning_rate_reaches_its_end_at_the_last_step():
    schedule = build_learning_rate(TrainingConfig(schedule="cosine", warmup=10), 10, 100)
    assert float(schedule(torch.tensor(100))) == pytest.approx(0, abs=1e-9)
    assert float(schedule(torch.tensor(9))) == pytest.approx(1e-3)


# The loop


def rows_of(run, split):
    with (run / "logs" / "history.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_early_stopping_stops_after_patience_validations(tmp_path):
    """Weights that hardly move validate alike: the first is the best, and `patience` more are worse or equal."""
    still = ("training.learning_rate=1e-30", "training.patience=3", "training.validate_every=4")
    run = train("digits", *SIZES, *still, "training.epochs=10", out=tmp_path / "run")
    assert [int(row["step"]) for row in rows_of(run, "validation")] == [4, 8, 12, 16]
    assert state_of(run)["step"] == 16
    assert pointed(run, "best") == 4 and pointed(run, "latest") == 16


def test_best_is_the_lowest_selection_and_its_checkpoint_is_kept(tmp_path):
    """A rate that is far too high makes the order of validations anything but falling."""
    wild = ("training.learning_rate=3", "training.schedule=constant", "training.clip=null", "training.ema=null")
    run = train(
        "digits", *SIZES, *wild, "training.epochs=4", "training.validate_every=4", "training.keep=1", out=tmp_path
    )
    rows = rows_of(run, "validation")
    lowest = min(rows, key=lambda row: float(row["selection"]))
    assert pointed(run, "best") == int(lowest["step"])
    assert int(lowest["step"]) != int(rows[-1]["step"]), "choose another rate: this run never got worse"
    assert set(saved_steps(run)) == {int(lowest["step"]), 40}
    assert state_of(run, "best")["progress"]["best_value"] == float(lowest["selection"])


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path):
    trainer = trainer_of(tmp_path)
    assert not trainer._judge(1, math.nan)
    assert trainer._judge(2, 5.0)
    assert not trainer._judge(3, math.nan) and not trainer._judge(4, 6.0)
    assert trainer._judge(5, 4.0)
    assert trainer.progress.best_step == 5


def test_a_better_validation_starts_the_patience_anew(tmp_path):
    trainer = trainer_of(tmp_path, "training.patience=2")
    for step, (value, done) in enumerate([(5.0, False), (6.0, False), (4.0, False), (6.0, False), (4.5, True)]):
        trainer._judge(step, value)
        assert trainer.progress.finished is done, step


def test_unused_codes_start_from_other_images_each_time(tmp_path, monkeypatch):
    trainer, drawn = trainer_of(tmp_path), []
    monkeypatch.setattr(trainer.model, "restart", lambda draw: drawn.append(draw(8)) or {})
    for step in (10, 10, 20):
        trainer._restart(step)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.19, 2), (1, 10), (1.44, 14)])
def test_a_share_of_an_epoch_is_the_nearest_number_of_steps(tmp_path, epochs, steps):
    assert trainer_of(tmp_path, f"training.epochs={epochs}").total_steps == steps


def test_history_has_a_row_for_each_log_point_and_validation(tmp_path):
    run = train(
        "digits", *SIZES, "training.epochs=2", "training.log_every=6", "training.validate_every=7", out=tmp_path / "run"
    )
    assert [int(row["step"]) for row in rows_of(run, "train")] == [6, 7, 12, 14, 18, 20]
    assert [int(row["step"]) for row in rows_of(run, "validation")] == [7, 14, 20]
    shared = {
        "step",
        "epoch",
        "split",
        "loss",
        "elbo",
        "distortion",
        "rate",
        "weight",
        "beta",
        "learning_rate",
        "skipped",
    }
    columns = set(rows_of(run, "train")[0])
    assert columns == shared | {"gradient_norm", "selection"}
    for split in ("train", "validation"):
        for row in rows_of(run, split):
            own = shared | ({"gradient_norm"} if split == "train" else {"selection"})
            assert {name for name, value in row.items() if value != ""} == own
            assert float(row["epoch"]) == pytest.approx(int(row["step"]) / 10)
    written = [{k: v for k, v in row.items() if v != ""} for s in ("train", "validation") for row in rows_of(run, s)]
    kept = state_of(run)["progress"]["history"]
    assert sorted(float(row["loss"]) for row in written) == sorted(row["loss"] for row in kept)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_objective_and_plain_elbo_are_both_logged(tmp_path, split):
    """loss = distortion + 4 rate, elbo = -distortion - rate, in both splits."""
    run = train("digits", *SIZES, "objective.beta=4", "training.epochs=2", "training.log_every=3", out=tmp_path / "run")
    for row in rows_of(run, split):
        value = {name: float(row[name]) for name in ("loss", "elbo", "distortion", "rate", "beta", "weight")}
        assert value["beta"] == 4 and value["rate"] > 0.01
        assert value["elbo"] == pytest.approx(-value["distortion"] - value["rate"], rel=1e-5)
        assert value["loss"] == pytest.approx(value["distortion"] + 4 * value["rate"], rel=1e-5)


def test_selection_ignores_the_warm_up(tmp_path):
    run = train("digits", *SIZES, "objective.beta={kind: linear, over: 2}", "training.epochs=2", out=tmp_path / "run")
    first = rows_of(run, "validation")[0]
    assert 0 < float(first["beta"]) < 1
    assert float(first["selection"]) == pytest.approx(-float(first["elbo"]), rel=1e-5)
    assert float(first["loss"]) < float(first["selection"])
    best = min(float(row["selection"]) for row in rows_of(run, "validation"))
    assert state_of(run, "best")["progress"]["best_value"] == best
    for row in rows_of(run, "validation"):  # the loss of a row is weighed by the β of that row
        weighed = float(row["distortion"]) + float(row["beta"]) * float(row["rate"])
        assert float(row["loss"]) == pytest.approx(weighed, rel=1e-6)


def test_means_of_the_log_are_over_all_steps_since_the_last_one(tmp_path):
    fine = train("digits", *SIZES, "training.epochs=1", "training.log_every=1", out=tmp_path / "a")
    coarse = train("digits", *SIZES, "training.epochs=1", "training.log_every=5", out=tmp_path / "b")
    each = [float(row["loss"]) for row in rows_of(fine, "train")]
    means = [float(row["loss"]) for row in rows_of(coarse, "train")]
    assert means == pytest.approx([sum(each[:5]) / 5, sum(each[5:]) / 5])


def test_the_first_batch_check_leaves_generator_and_weights_as_they_were(tmp_path):
    trainer = trainer_of(tmp_path, "model.network={kind: conv, widths: [4], norm: batch}", "data.shift=1")
    generator = torch.get_rng_state()
    before = everything(trainer.step, trainer.model)
    trainer.check_first_batch()
    assert torch.equal(torch.get_rng_state(), generator)
    assert changed(before, everything(trainer.step, trainer.model)) == set()
    assert all(weight.grad is None for weight in trainer.model.parameters())


def test_the_first_batch_check_refuses_values_outside_the_support(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.feed.pixels = type(trainer.pixels)()  # grey values for a Bernoulli
    with pytest.raises(DataError, match="pixel values do not fit the likelihood 'bernoulli'"):
        trainer.fit()


def test_the_first_batch_check_refuses_a_model_that_is_not_finite(tmp_path):
    trainer = trainer_of(tmp_path)
    with torch.no_grad():
        next(trainer.model.likelihood.parameters()).fill_(math.nan)
    with pytest.raises(NumericalError, match="the first loss is not finite"):
        trainer.fit()
    assert not (tmp_path / "checkpoints").exists()


def test_training_lowers_the_loss(digits_run):
    rows = rows_of(digits_run, "validation")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_without_validation_images_the_newest_is_the_best(tmp_path):
    run = train("digits", *SIZES, "data.validation=0", "training.epochs=2", out=tmp_path / "run")
    assert pointed(run, "best") == pointed(run, "latest") == 20


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains_and_keeps_float32_weights(tmp_path, precision):
    run = train("digits", *SIZES, f"training.precision={precision}", "training.epochs=2", out=tmp_path / "run")
    rows = rows_of(run, "validation")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert ("overflows" in rows[0]) == (precision == "fp16")
    tensors = load_checkpoint(locate(run, "latest")).tensors
    assert all(t.dtype == torch.float32 for t in tensors["model"].values() if t.is_floating_point())


# Loggers


def test_tensorboard_events_are_written_when_asked(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(
        "digits",
        *SIZES,
        "logging.tensorboard=true",
        "logging.images=3",
        "training.epochs=1",
        "training.log_every=5",
        out=tmp_path / "run",
    )
    read = events.EventAccumulator(str(run / "logs"))
    read.Reload()
    assert {"train/loss", "train/elbo", "validation/elbo", "train/images_per_second"} <= set(read.Tags()["scalars"])
    assert set(read.Tags()["images"]) == {"reconstructions", "samples"}
    logged = {event.step: event.value for event in read.Scalars("train/loss")}
    assert logged == {int(r["step"]): pytest.approx(float(r["loss"]), rel=1e-5) for r in rows_of(run, "train")}


def test_without_being_asked_nothing_but_the_log_and_the_history_is_written(digits_run):
    assert sorted(path.name for path in (digits_run / "logs").iterdir()) == ["history.csv", "train.log"]


@pytest.mark.parametrize(("key", "package"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_logger_is_one_sentence_and_leaves_no_folder(tmp_path, monkeypatch, key, package):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == package or name.startswith(package + "."):
            raise ImportError(name)
        return real(name, *arguments, **options)

    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"needs the package {key}; make install EXTRAS={key}") as caught:
        train("digits", *SIZES, f"logging.{key}=true", out=tmp_path / "run")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_logger_hears_the_same(tmp_path):
    class Ear(Silent):
        def __init__(self):
            self.heard = []

        def started(self, first_step, total_steps):
            self.heard.append(("started", first_step, total_steps))

        def progressed(self, row, images_per_second):
            self.heard.append(("train", row["step"]))

        def validated(self, row, pictures):
            self.heard.append(("validation", row["step"]))

        def close(self):
            self.heard.append(("closed",))

    ears = [Ear(), Ear()]
    train("digits", *SIZES, "training.epochs=1", "training.log_every=4", out=tmp_path / "run", loggers=ears)
    assert ears[0].heard == ears[1].heard
    assert ears[0].heard == [
        ("started", 0, 10),
        ("train", 4),
        ("train", 8),
        ("train", 10),
        ("validation", 10),
        ("closed",),
    ]


# Devices


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_a_config_error(tmp_path, name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match=rf"device '{name}'.*(choose one of|which has)") as caught:
        train("digits", *SIZES, f"training.device={name}", out=tmp_path / "run")
    assert caught.value.exit_code == 2


def test_wandb_gets_losses_reconstructions_and_samples(tmp_path, monkeypatch):
    """Against a stand-in with wandb's three calls: the real one needs an account."""
    sent: list[dict] = []

    class Run:
        def log(self, values, step):
            sent.append({"step": step, **values})

        def finish(self):
            sent.append({"finished": True})

    stand_in = types.ModuleType("wandb")
    stand_in.init = lambda **options: Run()  # type: ignore[attr-defined]
    stand_in.Image = lambda array: array.shape  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    train("digits", *SIZES, "training.epochs=1", "logging.wandb=true", "logging.images=3", out=tmp_path / "run")
    keys = {key for values in sent for key in values}
    assert {"train/loss", "train/elbo", "validation/elbo", "train/images_per_second"} <= keys
    validated = next(values for values in sent if "validation/elbo" in values)
    assert validated["samples"] == [(8, 8, 1)] * 3
    assert validated["reconstructions"] == [(8, 8, 1)] * 6
    assert sent[-1] == {"finished": True}


def test_validation_is_the_mean_over_images_whatever_the_batch(monkeypatch):
    """Three batches of unequal size weigh what they hold."""
    torch.manual_seed(0)
    model = vae(SHAPE, 3, Part("mlp", {"widths": (8,)}))
    data = Dataset(torch.randint(0, 256, (37, *SHAPE), dtype=torch.uint8))
    pixels, step = Pixels(binarization="dynamic"), torch.tensor(0)
    found = {}
    for size in (37, 16, 1):
        monkeypatch.setattr(validation, "VALIDATION_BATCH", size)
        found[size] = validation.validate(
            model, elbo(beta=3.0), data, pixels, torch.device("cpu"), step, torch.tensor(9), seed=4
        )
    for size in (16, 1):
        assert found[size] == pytest.approx(found[37], rel=1e-5)
    x = pixels.for_evaluation(data.images, 0, 4)
    direct = terms(model(x, 1, BlockNoise(4)))
    assert found[37]["elbo"] == pytest.approx(float(direct["elbo"].detach()), rel=1e-5)
    assert found[37]["loss"] == pytest.approx(float((direct["distortion"] + 3 * direct["rate"]).detach()), rel=1e-5)


def test_the_optimal_scale_of_a_run_is_of_its_training_images(tmp_path):
    """And of the averaged weights, which are those that are saved."""
    trainer = trainer_of(tmp_path, "model.likelihood={kind: gaussian, scale: optimal}", "data.binarize=none")
    with torch.no_grad():
        for weight in trainer.model.parameters():  # the averages stay where they were
            weight.add_(0.1)
    trainer._calibrate()
    found = trainer.ema.model.likelihood.log_scale.clone()
    for data, same in ((trainer.splits.train, True), (trainer.splits.validation, False)):
        validation.calibrate(trainer.ema.model, data, trainer.pixels, trainer.config.training.seed)
        assert torch.allclose(trainer.ema.model.likelihood.log_scale, found, rtol=1e-6) is same


def test_what_an_objective_draws_is_alike_for_loss_and_selection_and_of_its_own_for_each_batch(monkeypatch):
    drawn = []

    def objective(trace, step):
        drawn.append(float(torch.rand(())))
        return trace.x.new_tensor(drawn[-1])

    monkeypatch.setattr(validation, "VALIDATION_BATCH", 16)
    data, end = Dataset(torch.zeros(40, *SHAPE, dtype=torch.uint8)), torch.tensor(9)
    found = validation.validate(
        model_of(), objective, data, Pixels(), torch.device("cpu"), torch.tensor(0), end, seed=4
    )
    losses, selections = drawn[::2], drawn[1::2]
    assert losses == selections and len(set(losses)) == 3
    assert found["loss"] == found["selection"] == pytest.approx((16 * losses[0] + 16 * losses[1] + 8 * losses[2]) / 40)


def test_the_optimal_scale_is_of_all_training_images_or_of_many_spread_over_them(monkeypatch):
    """Of a set as large as is looked at, the error of every image; of a larger one that is sorted, no other."""
    torch.manual_seed(0)
    model = vae((1, 2, 2), 2, Part("mlp", {"widths": (4,)}), Part("gaussian", {"scale": "optimal"})).eval()
    images = torch.randint(0, 256, (4096, 1, 2, 2), dtype=torch.uint8)
    images[1000:] //= 4
    x = images / 255

    def found():
        validation.calibrate(model, Dataset(images), Pixels(), seed=0)
        return float(model.likelihood.log_scale.exp())

    with torch.no_grad():
        error = float((x - model.decode(model.encode(x)).mean).square().mean().sqrt())
    assert found() == pytest.approx(error, rel=1e-4)
    monkeypatch.setattr(validation, "CALIBRATION_IMAGES", 1000)
    assert found() == pytest.approx(error, rel=0.03)
