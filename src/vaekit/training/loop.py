"""A run from its first step, or from a checkpoint, to its end."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.config.schedules import build_learning_rate
from vaekit.config.schema import Config
from vaekit.data.batches import Batches
from vaekit.data.dataset import Dataset
from vaekit.data.feed import Feed
from vaekit.data.pixels import Pixels
from vaekit.data.splits import Splits
from vaekit.densities.images import refusal
from vaekit.densities.noise import derived_seed
from vaekit.errors import DataError, NumericalError
from vaekit.models.build import build_model
from vaekit.models.likelihoods import set_precision
from vaekit.models.model import Model
from vaekit.objectives.build import build_objective
from vaekit.objectives.learned import selection_of
from vaekit.objectives.needs import Facts, needs_of
from vaekit.processes import ALONE, World
from vaekit.training.acceleration import (
    Captured,
    Choices,
    try_to_capture,
    try_to_compile,
    worth_capturing,
    worth_compiling,
)
from vaekit.training.checkpoint import Checkpoint, load_weights, point, prune, save_checkpoint
from vaekit.training.device import (
    choose_device,
    choose_threads,
    generator_states,
    place,
    set_determinism,
    set_generator_states,
)
from vaekit.training.ema import Ema
from vaekit.training.interrupts import Interrupted, stop_signals
from vaekit.training.loggers import Logger, write_history
from vaekit.training.objective_weights import ObjectiveWeights
from vaekit.training.optimizer import build_optimizer
from vaekit.training.state import Progress, snapshot
from vaekit.training.step import Counters, TrainStep, forward_of
from vaekit.training.validation import adopt, calibrate, drawn_images, pictures_of, validate

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SKIPPED_ROW_LIMIT = 10
# (averaged model, validation set, pixels, seed, history, first loss) -> sentences for the log
Observe = Callable[[Model, Dataset, Pixels, int, Sequence[Mapping[str, Any]], float | None], Sequence[str]]


def nothing(*validated: Any) -> Sequence[str]:
    """No sentence, whatever was measured."""
    return ()


class Trainer:
    """Holds the parts of one run. `fit` is the loop; `vaekit.training.state` saves and restores."""

    def __init__(
        self,
        config: Config,
        splits: Splits,
        run: Path,
        logger: Logger,
        written: Mapping[str, Any] | None = None,
        world: World = ALONE,
        observe: Observe = nothing,
    ) -> None:
        """`written` is the config as plain values, for the checkpoints; `observe` has its say after each validation."""
        training = config.training
        self.config, self.splits, self.run, self.logger = config, splits, run, logger
        self.written, self.world = written or {}, world
        self.device = choose_device(training.device, world)
        choose_threads(training.threads, world.local_size)
        set_determinism(training.deterministic)
        torch.manual_seed(training.seed)

        self.pixels = Pixels.of(config.data)
        self.batches = Batches(splits.train, training.batch_size, training.seed, self.device, world=world)
        self.feed = Feed(self.batches, self.pixels, training.seed)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = max(1, round(training.epochs * self.steps_per_epoch))
        classes = len(splits.train.class_names)
        self.model = place(build_model(config.model, splits.train.shape, classes), self.device)
        adopt(self.model, splits.train, self.pixels, training.seed)  # weights that are loaded later take its place
        self.labels = splits.train.context(self.device) if self.model.classes else None
        pixels = splits.train.images[0].numel()
        facts = Facts(len(splits.train), self.model.layout.width)
        self.objective = build_objective(config.objective, self.steps_per_epoch, pixels, facts)
        self.own = ObjectiveWeights(self.objective.objective, self.device)
        self.optimizer = build_optimizer(self.model, training)
        self.counters = Counters(self.device)
        self.progress = Progress()
        self.choices: Choices | None = None
        self.observe = observe
        self._assemble()
        if world.rank:  # the same weights in each process, but noise of its own
            torch.manual_seed(derived_seed(training.seed, "process", world.rank))

    def _assemble(self) -> None:
        """What depends on the model's weights: made again when a run starts from other weights."""
        training = self.config.training
        self.compiled = False
        self._captured: Captured | None = None
        set_precision(self.model, PRECISIONS[training.precision])
        self.ema = Ema(self.model, training.ema)
        self.step = TrainStep(
            forward_of(self.model, self.objective.objective, training.samples, self.feed.prepare, self.labels),
            self.optimizer,
            self.ema,
            build_learning_rate(training, self.steps_per_epoch, self.total_steps),
            self.counters,
            clip=training.clip,
            guard=training.guard,
            parts=training.accumulate,
            scaled=training.precision == "fp16",
            statistics=batch_statistics(self.model),
            say=self.logger.message,
            world=self.world,
            batch=self.batches.batch_size if self.world.size > 1 else None,
            own=self.own,
            coupled=needs_of(self.objective.objective).coupled,
        )

    # Checkpoints

    def extend(self, total_before: int) -> None:
        """Say what a changed length does to the schedule, and let a finished run go on."""
        at = torch.tensor(int(self.counters.step))
        self.progress.finished = int(self.counters.step) >= self.total_steps
        self.progress.validations_since_best = 0
        if self.progress.finished:
            return
        self.logger.message(
            f"the run was {total_before} steps long and is now {self.total_steps}: "
            f"the {self.config.training.schedule} schedule runs over the new length, "
            f"so the learning rate goes on at {float(self.step.learning_rate(at)):.3g}"
        )

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take another run's averaged weights; steps, optimiser and schedules start afresh."""
        load_weights(self.model, checkpoint.tensors["ema"])
        self._assemble()

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint, then let `latest` (and `best`) name it, then delete older ones."""
        self._refuse_divergence()
        self._calibrate()
        checkpoint = snapshot(self)
        if not self.world.leads:
            return
        save_checkpoint(self.run, checkpoint)
        if best:
            point(self.run, "best", checkpoint.step)
        point(self.run, "latest", checkpoint.step)
        write_history(self.run, self.progress.history)
        prune(self.run, self.config.training.keep)

    def _calibrate(self) -> None:
        if not self.world.leads:
            return  # what it writes is read in validation and evaluation alone
        calibrate(self.ema.model, self.splits.train, self.pixels, self.config.training.seed)

    # The loop

    def fit(self) -> Progress:
        """Train to the end, or until early stopping. NumericalError, StorageError and Interrupted end it early."""
        self.check_first_batch()
        step = int(self.counters.step)
        if step >= self.total_steps or self.progress.finished:
            self.logger.message(f"already trained to step {step} of {self.total_steps}; raise training.epochs to go on")
            return self.progress
        self.model.train()
        self.world.copy_from_leader([*self.model.state_dict().values(), *self.own.tensors().values()])
        self.prepare(step)
        self.logger.started(step, self.total_steps)
        self._clock, self._clock_step = time.perf_counter(), step
        with stop_signals(patient=self.world.size > 1) as arrived:
            while step < self.total_steps and not self.progress.finished:
                self.update(step)
                step += 1
                self._after(step, arrived)
        return self.progress

    def update(self, step: int) -> None:
        """One update, from the batch of this global step."""
        self.feed.load(step)
        if self._captured is not None:
            self._captured.replay()
        else:
            self._body()

    def _body(self) -> None:
        """What one update does on the device."""
        self.step(*self.feed.batch())

    def _state(self) -> dict[str, Tensor]:
        """Every tensor that an update changes, by name."""
        groups = {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.tensors(self.model),
            "objective": self.own.tensors(),
            "trainer": self.counters.tensors(),
        }
        return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}

    def prepare(self, step: int) -> None:
        """Choose how the steps are run, or take what the run chose when it began; say what it is."""
        training, before, left = self.config.training, self.choices, self.total_steps - step
        compiled, captured = training.compile == "on", training.capture == "on"
        if training.compile == "auto":
            compiled = before.compiled if before else worth_compiling(self.device, left)
        if training.capture == "auto":
            captured = before.captured if before else worth_capturing(self.device, left)
        if before is not None:
            self.step.parts = max(before.parts, training.accumulate)
        self.feed.load(step)
        began = time.perf_counter()
        if compiled:
            compiled = try_to_compile(self.step, self.model, self.feed.batch(), self._state, self.logger.message)
        if captured and self.device.type != "cuda":
            self.logger.message(f"training.capture=on wants a CUDA device; on {self.device} steps run one by one")
        elif captured:
            self._captured = try_to_capture(self._body, self._state, self.device, self.logger.message)
        took = f" ({time.perf_counter() - began:.0f} s to prepare)" if compiled or self._captured else ""
        self.compiled = compiled
        self.choices = self.choices_now()
        self.logger.message(f"step: {self.choices}{took}")

    def choices_now(self) -> Choices:
        """How its steps are run."""
        return Choices(self.compiled, self._captured is not None, self.step.parts)

    def _after(self, step: int, arrived: list[int]) -> None:
        training, last = self.config.training, step == self.total_steps
        validating = last or step % (training.validate_every or self.steps_per_epoch) == 0
        logging = last or validating or step % training.log_every == 0
        if logging:
            self._log(step)
        if self.world.size > 1:  # they stop at one step, on which they agree where they wait for each other anyway
            arrived = (arrived or [signal.SIGTERM]) if logging and self.world.any(bool(arrived)) else []
        if validating and not last:  # what would be put elsewhere at the end is trained no more
            self._restart(step)
        improved = self._validate(step) if validating else False
        due = step % training.checkpoint_every == 0 if training.checkpoint_every else validating
        if self.progress.finished or last:
            self.progress.finished = True
        if due or improved or self.progress.finished or arrived:
            self.save(best=improved)
        if validating or due:
            self._clock, self._clock_step = time.perf_counter(), step  # img/s is of training alone
        if arrived and not self.progress.finished:
            name = signal.Signals(arrived[0]).name
            raise Interrupted(f"{name}: saved step {step}; go on with --resume --out {self.run}", arrived[0])

    @torch.no_grad()
    def _restart(self, step: int) -> None:
        """Put unused codes of a codebook at encodings of training images, in the averaged weights too."""

        def draw(count: int) -> Tensor:
            images = drawn_images(self.splits.train, self.pixels, self.config.training.seed, f"restart {step}", count)
            return images.to(self.device)

        moved, averaged = self.model.restart(draw), dict(self.ema.model.named_parameters())
        for name, rows in moved.items():
            weight = self.model.get_parameter(name)
            self.world.copy_from_leader([weight])
            averaged[name][rows] = weight[rows]
            self.logger.message(f"{len(rows)} of {len(weight)} codes are used by no image, and start again from images")

    def _row(self, step: int, split: str, values: Mapping[str, float]) -> dict[str, Any]:
        at = torch.tensor(step - 1)  # the schedules' values in the update that was just made
        scheduled = {name: float(schedule(at)) for name, schedule in self.objective.schedules.items()}
        rate = float(self.step.learning_rate(at))
        epoch = round(step / self.steps_per_epoch, 4)
        row = {"step": step, "epoch": epoch, "split": split, **values, **scheduled, "learning_rate": rate}
        overflows = {"overflows": int(self.counters.overflows)} if self.step.scaled else {}
        return {**row, "skipped": int(self.counters.skipped), **overflows}

    def _log(self, step: int) -> None:
        self._refuse_divergence()
        means = self.counters.take()
        if not means:  # the whole window was skipped, or it is empty
            return
        row = self._row(step, "train", means)
        self.progress.history.append(row)
        now = time.perf_counter()
        images = (step - self._clock_step) * self.batches.batch_size
        self.logger.progressed(row, images / max(1e-9, now - self._clock))
        self._clock, self._clock_step = now, step

    def _refuse_divergence(self) -> None:
        row = int(self.counters.longest_row)
        if row >= SKIPPED_ROW_LIMIT:
            raise NumericalError(
                f"{row} updates in a row had a non-finite loss or gradient and were skipped, so training stopped; "
                "the last checkpoint is good: lower training.learning_rate or training.clip, or use precision=float32"
            )

    def _validate(self, step: int) -> bool:
        """Measure the averaged weights on the validation set; whether they are the best so far."""
        if len(self.splits.validation) == 0:
            self.progress.best_step = step
            return True  # nothing to select by: the newest is the best
        self._calibrate()
        at = torch.tensor(step - 1, device=self.device)
        end = torch.tensor(self.total_steps, device=self.device)
        seed = derived_seed(self.config.training.seed, "validation")
        dataset, objective = self.splits.validation, self.objective.objective
        values = None
        if self.world.leads:
            samples = self.config.training.samples
            values = validate(self.ema.model, objective, dataset, self.pixels, self.device, at, end, seed, samples)
        values = self.world.from_leader(values)
        row = self._row(step, "validation", values)
        self.progress.history.append(row)
        count = self.config.logging.images
        self.logger.validated(row, lambda: pictures_of(self.ema.model, dataset, self.pixels, self.device, count, seed))
        progress = self.progress
        for news in self.observe(self.ema.model, dataset, self.pixels, seed, progress.history, progress.first_loss):
            self.logger.message(news)
        return self._judge(step, values["selection"])

    def _judge(self, step: int, value: float) -> bool:
        progress = self.progress
        if math.isfinite(value) and (progress.best_value is None or value < progress.best_value):
            progress.best_step, progress.best_value, progress.validations_since_best = step, value, 0
            return True
        progress.validations_since_best += 1
        if self.out_of_patience():
            progress.finished = True
            self.logger.message(f"early stop at step {step}: no better validation since step {progress.best_step}")
        return False

    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run."""
        patience = self.config.training.patience
        return patience is not None and self.progress.validations_since_best >= patience

    @torch.no_grad()
    def check_first_batch(self) -> None:
        """One validated pass in evaluation mode: shapes, support and finite values, before any time is spent."""
        random = generator_states(self.device)  # drawing the check's noise must not change the run
        self.model.eval()
        x = self.feed.at(int(self.counters.step))
        context = None if self.labels is None else self.labels[self.feed.indices]
        trace = self.model(x, self.config.training.samples, context=context)
        kind = self.config.model.likelihood.kind
        refused = refusal(trace.px, x)
        if refused is not None:
            advice = "see vaekit doctor, data.binarize and data.bits"
            raise DataError(f"pixel values do not fit the likelihood '{kind}': {refused}; {advice}")
        if not bool(torch.isfinite(trace.log_px).all()):
            raise NumericalError("the first loss is not finite; start from other weights, or with precision=float32")
        if int(self.counters.step) == 0:
            self.progress.first_loss = self._loss_of(x, context)
        set_generator_states(self.device, random)

    def _loss_of(self, x: Tensor, context: Tensor | None) -> float:
        """Of a batch, as validation would select by it."""
        model, end = self.ema.model, torch.tensor(self.total_steps, device=self.device)
        # else an estimated scale is the one it was made with; each validation estimates it anew
        model.calibrate([(x, context)])
        objective = self.objective.objective
        samples = self.config.training.samples
        trace = model(x, samples, context=context, stopped=needs_of(objective).stopped)
        return float(selection_of(objective, trace, end))


def batch_statistics(model: torch.nn.Module) -> list[Tensor]:
    """The buffers that training-mode forward passes change: those of BatchNorm."""
    layers = (module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm))
    return [buffer for layer in layers for buffer in layer.buffers()]
