"""What the commands do, as Python functions: train, evaluate and the pictures of a run."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vaekit.config.load import Override, from_dict, named_options, override_config, to_dict, to_yaml
from vaekit.config.paths import absolute, kept, of_run
from vaekit.config.schema import Config
from vaekit.data.places import find_same
from vaekit.data.splits import Splits, load_splits
from vaekit.errors import BusyError, CheckpointError, ConfigError
from vaekit.evaluation.health import Watch
from vaekit.files import storage_errors, write_text_atomically
from vaekit.models.build import event_of
from vaekit.processes import ALONE, World, join
from vaekit.system import hold, open_lock, unlink_held
from vaekit.trained.run import Run, open_run
from vaekit.training.checkpoint import Checkpoint, load_checkpoint, locate, require_state, saved_steps, tidy
from vaekit.training.combinations import check_config, read_config
from vaekit.training.device import choose_device, differences, environment
from vaekit.training.loggers import Logger, Several, build_loggers
from vaekit.training.loop import Trainer
from vaekit.training.state import refuse_other_data, restore

CHANGEABLE_ON_RESUME = {
    "training": {
        "epochs", "patience", "keep", "log_every", "validate_every", "checkpoint_every", "device", "threads", "compile",
        "capture",
    },
    "logging": None,
    "data": {"root", "path"},
}  # fmt: skip


def train(
    recipe: str,
    *overrides: Override,
    out: str | Path | None = None,
    data_dir: str | None = None,
    resume: bool = False,
    loggers: Sequence[Logger] = (),
    progress: Callable[..., Any] | None = None,
    **options: Any,
) -> Run:
    """Train a recipe (its name, or a YAML file) with `section.key=value` overrides; returns the run, a path too.

    Overrides are also mappings, {"training.epochs": 3}, and options by their last name where no other has it:
    epochs=3.

    `resume` goes on where a run stopped, with its own config; then only what cannot change its past may be
    overridden, and where nothing was saved yet it starts. `out` defaults to a new folder under runs/.
    """
    overrides = (*overrides, named_options(options))
    config = read_config(recipe, overrides, data_dir)
    world = join()
    choose_device(config.training.device, world)  # refuses one that is not here before any time is spent
    run = Path(world.from_leader(str(chosen_folder(config.name, out, resume))))
    with _locked(run, resume) if world.leads else nullcontext():
        if world.leads:
            tidy(run)
        world.wait()
        saved = load_checkpoint(locate(run, "latest")) if resume and saved_steps(run) else None
        if saved is not None:
            require_state(locate(run, "latest"), saved)
        if saved is not None:
            config = _resumed_config(run, saved, config.name, overrides)
        with world.one_first():
            config, splits = _found(config, saved, run, data_dir, progress)
        event_of(config.model, splits.train.shape)  # refuses a grid of codes that the images have not, before any file
        logger = build_loggers(run, config, loggers) if world.leads else Several([])
        try:
            _train(config, run, logger, saved, splits, world)
        finally:
            logger.close()
    return open_run(run.absolute())  # a program that changes its working directory still has it


def _found(
    config: Config, saved: Checkpoint | None, run: Path, data_dir: str | None, progress: Callable[..., Any] | None
) -> tuple[Config, Splits]:
    """The data, and the config with the place where it lies; of a run that goes on, wherever it lies now."""
    if saved is None:
        return config, load_splits(config.data, progress)
    held = find_same(config.data, saved.state["data"], run, data_dir, progress)
    refuse_other_data(saved, held.splits.facts)
    return absolute(replace(config, data=held.config)), held.splits


def _train(
    config: Config, run: Path, logger: Logger, saved: Checkpoint | None, splits: Splits, world: World = ALONE
) -> None:
    if saved is not None:
        stored = saved.state["environment"].get("threads")
        if config.training.threads is None and stored and stored <= (os.cpu_count() or stored):
            torch.set_num_threads(stored)
    if skipped := splits.facts.get("skipped"):
        logger.message(f"{skipped} images could not be read and were skipped; see {splits.facts.get('skipped_csv')}")
    if others := splits.facts.get("others"):
        logger.message(f"files that are no images by their endings were left out: {others}")
    written = kept(config, run)
    trainer = Trainer(config, splits, run, logger, to_dict(written), world, Watch().news)
    logger.message(describe(trainer))
    if saved is not None:
        if trainer.total_steps < saved.step:
            done = saved.step / trainer.steps_per_epoch
            raise ConfigError(
                f"{run} has {done:g} epochs behind it, more than training.epochs={config.training.epochs:g}; "
                "leave that out, or give more to go on"
            )
        restore(trainer, saved)
        _say_what_changed(trainer, saved, logger)
    elif config.training.start_from:
        trainer.start_from(load_checkpoint(locate(Path(config.training.start_from)), ("ema",)))
        logger.message(f"weights from {config.training.start_from}; steps, optimiser and schedules start afresh")
    if world.leads:
        write_text_atomically(run / "config.yaml", to_yaml(written))
    trainer.fit()


def describe(trainer: Trainer) -> str:
    """One line: images, model size, steps, device."""
    splits, training = trainer.splits, trainer.config.training
    channels, height, width = splits.train.shape
    weights = sum(p.numel() for p in trainer.model.parameters())
    named = splits.train.class_names
    shown = ", ".join(named[:5]) + (", …" if len(named) > 5 else "")
    classes = f" · {len(named)} classes: {shown}" if named else ""
    processes = f" in each of {trainer.world.size} processes" if trainer.world.size > 1 else ""
    return (
        f"{len(splits.train):,} images to train, {len(splits.validation):,} to select, {len(splits.test):,} to test · "
        f"{height}×{width}×{channels}{classes} · {weights:,} weights · "
        f"{trainer.total_steps:,} steps of {training.batch_size} · {trainer.device} · "
        f"{torch.get_num_threads()} threads{processes}"
    )


def _say_what_changed(trainer: Trainer, saved: Checkpoint, logger: Logger) -> None:
    logger.message(f"resumed at step {saved.step}")
    changed = differences(saved.state["environment"], environment(trainer.device, trainer.world.size))
    if changed:
        logger.message(
            f"same batches, noise and schedule, but not the same bytes as without a pause: {'; '.join(changed)}"
        )
    before = saved.state["total_steps"]
    if trainer.total_steps != before:
        trainer.extend(before)


def _resumed_config(run: Path, saved: Checkpoint, name: str, overrides: Sequence[Override]) -> Config:
    """The run's own config with the overrides that a resumed run may have; those that it had from the start pass."""
    stored = of_run(from_dict(saved.state["config"], "the run's config"), run)
    if stored.name != name:
        raise ConfigError(
            f"{run} holds a run of '{stored.name}', not of '{name}'; "
            f"resume {run / 'config.yaml'}, or choose another --out"
        )
    changed = absolute(override_config(stored, overrides, "the run's config", check=check_config))
    for key in _changed_keys(to_dict(stored), to_dict(changed)):
        raise ConfigError(
            f"{key} would change the run's past, so it cannot be resumed with it; "
            "leave it out, or start a new run with training.start_from"
        )
    return changed


def _changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The keys that differ and that a resumed run may not change."""
    for section, old in before.items():
        new, allowed = after[section], CHANGEABLE_ON_RESUME.get(section, set())
        if allowed is None or old == new:
            continue
        if not (isinstance(old, dict) and isinstance(new, dict)):
            yield f"{section}={new}"
            continue
        different = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        yield from (f"{section}.{key}={new.get(key)}" for key in different if key not in allowed)


def train_on(
    recipe: str,
    overrides: Sequence[Override],
    run: Path,
    *,
    device: str = "auto",
    data_dir: str | None = None,
    train_run: Callable[..., Path] = train,
) -> None:
    """Train to the end, by `train_run`, what `run` holds of these overrides: nothing, a part, or all of it already."""
    if saved_steps(run) and load_checkpoint(locate(run, "latest"), ()).state["progress"]["finished"]:
        return
    where = [] if device == "auto" else [f"training.device={device}"]
    train_run(recipe, *overrides, *where, out=run, data_dir=data_dir, resume=True)


def refuse_another_run(run: Path, config: Config) -> None:
    """ConfigError where a folder holds a run of other settings, which would be taken for the one of this config."""
    if not saved_steps(run):
        return
    state = load_checkpoint(locate(run, "latest"), ()).state
    stored, mine = to_dict(of_run(from_dict(state["config"], str(run)), run)), to_dict(config)
    different = [key.split("=")[0] for key in _changed_keys(mine, stored)]
    different += ["training.epochs"] if stored["training"]["epochs"] != mine["training"]["epochs"] else []
    if different:
        raise ConfigError(f"{run} holds a run with another {different[0]}; choose another --out")


def chosen_folder(name: str, out: str | Path | None, resume: bool) -> Path:
    """The folder of a run: `out`, or else a new one below runs/, or its newest one where it is to be resumed."""
    if out is not None:
        return Path(out)
    return _newest_run(name) if resume else _free_folder(name)


def refuse_held(run: Path, resume: bool) -> None:
    """BusyError where a folder holds a run that was not to be resumed."""
    if not resume and saved_steps(run):
        raise BusyError(f"{run} already holds a run; add --resume to go on with it, or choose another --out")


def _free_folder(name: str) -> Path:
    taken = 1
    while (run := Path("runs") / (name if taken == 1 else f"{name}-{taken}")).exists():
        taken += 1
    return run


def _newest_run(name: str) -> Path:
    folder = Path("runs") / name
    numbered = re.compile(rf"{re.escape(folder.name)}(-\d+)?")
    near = folder.parent.iterdir() if folder.parent.is_dir() else ()
    runs = [p for p in near if numbered.fullmatch(p.name) and (p / "config.yaml").is_file()]
    return max(runs, key=lambda p: (p / "config.yaml").stat().st_mtime, default=folder)


@contextmanager
def _locked(run: Path, resume: bool) -> Iterator[None]:
    """Hold the run folder. BusyError if another process does, or if it holds a run that was not to be resumed.

    A folder in which nothing was written is taken away again.
    """
    lock = run / ".lock"
    with storage_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        try:
            file = open_lock(lock)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise CheckpointError(f"{lock} is a link, or no file at all, and is not touched; delete it") from None
    with file:
        if not hold(file):
            raise BusyError(f"{run} is in use by another process; wait for it, or choose another --out")
        refuse_held(run, resume)
        try:
            yield
        finally:
            if list(run.iterdir()) == [lock]:
                unlink_held(lock, file)
                run.rmdir()
