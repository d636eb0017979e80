"""A run from its first step, or from a checkpoint, to its end."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.build import build_learning_rate, build_model, build_objective
from vaekit.checkpoint import Checkpoint, load_weights, point, prune, save_checkpoint, saved_steps
from vaekit.conditionals import set_precision
from vaekit.config.schema import Config
from vaekit.data.batches import Batches
from vaekit.data.dataset import Splits
from vaekit.data.pixels import Pixels
from vaekit.errors import CheckpointError, DataError, NumericalError
from vaekit.evaluation.health import Watch
from vaekit.noise import derived_seed
from vaekit.training.device import choose_device, environment, set_determinism
from vaekit.training.ema import Ema
from vaekit.training.interrupts import Interrupted, stop_signals
from vaekit.training.loggers import Logger, write_history
from vaekit.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from vaekit.training.step import Counters, TrainStep, forward_of
from vaekit.training.validation import calibrate, pictures_of, validate

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SKIPPED_ROW_LIMIT = 10


@dataclass
class Progress:
    """What a run remembers besides tensors; JSON in its checkpoints."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None  # of the validation objective with its schedules at their end
    validations_since_best: int = 0
    finished: bool = False


class Trainer:
    """Holds the parts of one run. `fit` is the loop; everything that a checkpoint needs is in `snapshot`."""

    def __init__(
        self, config: Config, splits: Splits, run: Path, logger: Logger, written: Mapping[str, Any] | None = None
    ) -> None:
        """`written` is the config as plain values, for the checkpoints."""
        training = config.training
        self.config, self.splits, self.run, self.logger = config, splits, run, logger
        self.written = written or {}
        self.device = choose_device(training.device)
        if training.threads is not None:
            torch.set_num_threads(training.threads)
        set_determinism(training.deterministic)
        torch.manual_seed(training.seed)

        self.pixels = Pixels.of(config.data)
        self.batches = Batches(splits.train, training.batch_size, training.seed, self.device)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = max(1, round(training.epochs * self.steps_per_epoch))
        self.model = build_model(config.model, splits.train.shape).to(self.device)
        pixels = splits.train.images[0].numel()
        self.objective = build_objective(config.objective, self.steps_per_epoch, pixels)
        self.optimizer = build_optimizer(self.model, training)
        self.counters = Counters(self.device)
        self.progress = Progress()
        self.watch = Watch()
        self._assemble()

    def _assemble(self) -> None:
        """What depends on the model's weights: made again when a run starts from other weights."""
        training = self.config.training
        set_precision(self.model, PRECISIONS[training.precision])
        self.ema = Ema(self.model, training.ema)
        forward = forward_of(self.model, self.objective.objective, training.samples)
        self.compiled = training.compile == "on"
        if self.compiled:
            forward = torch.compile(forward, fullgraph=True)
        self.step = TrainStep(
            forward,
            self.optimizer,
            self.ema,
            build_learning_rate(training, self.steps_per_epoch, self.total_steps),
            self.counters,
            clip=training.clip,
            parts=training.accumulate,
            scaled=training.precision == "fp16",
            statistics=batch_statistics(self.model),
        )

    # Checkpoints

    def snapshot(self) -> Checkpoint:
        """Everything a run needs to go on as if it had never stopped."""
        trainer = {**self.counters.tensors(), "random/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            trainer["random/cuda"] = torch.cuda.get_rng_state(self.device)
        return Checkpoint(
            int(self.counters.step),
            {
                "model": dict(self.model.state_dict()),
                "ema": dict(self.ema.model.state_dict()),
                "optimizer": optimizer_tensors(self.optimizer, self.model),
                "trainer": trainer,
            },
            {
                "config": self.written,
                "shape": list(self.splits.train.shape),
                "class_names": list(self.splits.train.class_names),
                "data": dict(self.splits.facts),
                "environment": environment(self.device),
                "steps_per_epoch": self.steps_per_epoch,
                "total_steps": self.total_steps,
                "progress": vars(self.progress).copy(),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this very run."""
        saved = checkpoint.state["data"].get("fingerprint")
        if saved != self.splits.facts.get("fingerprint"):
            raise CheckpointError(
                "the data is not what this run was trained on (another folder, split or preprocessing); "
                "restore it, or start a new run with training.start_from set to this one"
            )
        load_weights(self.model, checkpoint.tensors["model"])
        load_weights(self.ema.model, checkpoint.tensors["ema"])
        load_optimizer_tensors(self.optimizer, self.model, checkpoint.tensors["optimizer"])
        trainer = dict(checkpoint.tensors["trainer"])
        torch.set_rng_state(trainer.pop("random/cpu"))
        cuda = trainer.pop("random/cuda", None)
        if cuda is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(cuda, self.device)
        self.counters.load(trainer)
        self.progress = Progress(**checkpoint.state["progress"])
        self.progress.history = list(self.progress.history)
        self.progress.finished = int(self.counters.step) >= self.total_steps or self._out_of_patience()
        # what was written after the checkpoint belongs to a past that is about to be repeated
        best = self.progress.best_step
        if best is not None and best in saved_steps(self.run):
            point(self.run, "best", best)
        write_history(self.run, self.progress.history)
        prune(self.run, self.config.training.keep)

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
        checkpoint = self.snapshot()
        save_checkpoint(self.run, checkpoint)
        if best:
            point(self.run, "best", checkpoint.step)
        point(self.run, "latest", checkpoint.step)
        write_history(self.run, self.progress.history)
        prune(self.run, self.config.training.keep)

    def _calibrate(self) -> None:
        calibrate(self.ema.model, self.splits.train, self.pixels, self.device, self.config.training.seed)

    # The loop

    def fit(self) -> Progress:
        """Train to the end, or until early stopping. NumericalError, StorageError and Interrupted end it early."""
        self.check_first_batch()
        step = int(self.counters.step)
        if step >= self.total_steps or self.progress.finished:
            self.logger.message(f"already trained to step {step} of {self.total_steps}; raise training.epochs to go on")
            return self.progress
        self.logger.started(step, self.total_steps)
        self.model.train()
        self._clock, self._clock_step = time.perf_counter(), step
        with stop_signals() as arrived:
            while step < self.total_steps and not self.progress.finished:
                self.step(self._next(step))
                step += 1
                self._after(step, arrived)
        return self.progress

    def _next(self, step: int) -> Tensor:
        indices = self.batches.indices(step)
        epoch = torch.tensor(step // self.steps_per_epoch)
        images = self.batches.gather(indices)
        return self.pixels.for_training(images, indices.to(self.device), epoch, self.config.training.seed)

    def _after(self, step: int, arrived: list[int]) -> None:
        training, last = self.config.training, step == self.total_steps
        validating = last or step % (training.validate_every or self.steps_per_epoch) == 0
        if last or validating or step % training.log_every == 0:
            self._log(step)
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
        values = validate(self.ema.model, objective, dataset, self.pixels, self.device, at, end, seed)
        row = self._row(step, "validation", values)
        self.progress.history.append(row)
        count = self.config.logging.images
        self.logger.validated(row, lambda: pictures_of(self.ema.model, dataset, self.pixels, self.device, count, seed))
        for news in self.watch.news(self.ema.model, dataset, self.pixels, seed, self.progress.history):
            self.logger.message(news)
        return self._judge(step, values["selection"])

    def _judge(self, step: int, value: float) -> bool:
        progress = self.progress
        if math.isfinite(value) and (progress.best_value is None or value < progress.best_value):
            progress.best_step, progress.best_value, progress.validations_since_best = step, value, 0
            return True
        progress.validations_since_best += 1
        if self._out_of_patience():
            progress.finished = True
            self.logger.message(f"early stop at step {step}: no better validation since step {progress.best_step}")
        return False

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return patience is not None and self.progress.validations_since_best >= patience

    @torch.no_grad()
    def check_first_batch(self) -> None:
        """One validated pass in evaluation mode: shapes, support and finite values, before any time is spent."""
        state = torch.get_rng_state()  # drawing the check's noise must not change the run
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.model.eval()
        x = self._next(int(self.counters.step))
        trace = self.model(x, self.config.training.samples)
        kind = self.config.model.likelihood.kind
        support = trace.px.support
        if not bool(support.check(x).all()):
            raise DataError(f"pixel values do not fit the likelihood '{kind}'; see vaekit doctor, or data.binarize")
        if not bool(torch.isfinite(trace.px.log_prob(x)).all()):
            raise NumericalError("the first loss is not finite; start from other weights, or with precision=float32")
        torch.set_rng_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, self.device)


def batch_statistics(model: torch.nn.Module) -> list[Tensor]:
    """The buffers that training-mode forward passes change: those of BatchNorm."""
    layers = (module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm))
    return [buffer for layer in layers for buffer in layer.buffers()]
