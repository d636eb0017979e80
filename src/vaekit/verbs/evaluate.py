"""The metrics of a run, and what they say of its health."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaekit.evaluation.evaluate import Metrics, evaluate_model, expected_seconds
from vaekit.evaluation.health import Finding, diagnose
from vaekit.evaluation.report import MAIN, name_of, read_metrics, write_reports
from vaekit.networks.pretrained.lpips import load_lpips, lpips_unavailable
from vaekit.trained.run import open_run
from vaekit.training.checkpoint import load_checkpoint


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    samples: int = 100,
    seed: int = 0,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    lpips_weights: Path | None = None,
    announce: Callable[[str], None] = lambda text: None,
    progress: Callable[[float], None] = lambda share: None,
) -> Metrics:
    """The metrics of a run on a split, also written to reports/; `samples` is K of the importance-weighted bound.

    `lpips_weights` is the folder of the two files that LPIPS needs, where it is not $VAEKIT_WEIGHTS.
    """
    lpips = load_lpips(lpips_weights)
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    trained, dataset = opened.trained, opened.dataset(split)
    seconds = expected_seconds(trained.model, dataset, trained.pixels, samples, seed)
    announce(f"{len(dataset):,} {split} images, K = {samples}: about {seconds:.0f} s")
    evaluation = evaluate_model(
        trained.model,
        dataset,
        trained.pixels,
        samples=samples,
        seed=seed,
        content_size=trained.content_size,
        lpips=lpips,
        progress=progress,
        say=announce,
    )
    facts = {"split": split, **opened.identity}
    facts |= {} if lpips else {"lpips_unavailable": lpips_unavailable(lpips_weights)}
    path = write_reports(opened.folder, evaluation, facts)
    if path.name != MAIN:
        there = read_metrics(opened.folder).get("nll_samples")
        announce(f"{MAIN} has K = {there} of this checkpoint and stays as it is; these numbers are in {path}")
    return {**evaluation.metrics, **facts}


def known_metrics(
    run: str | Path,
    *,
    samples: int | None = None,
    which: str = "best",
    device: str = "auto",
    data_dir: str | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Metrics:
    """The test metrics of a run: those in its reports where they are of this checkpoint, else evaluated now.

    `samples`, K of the bound, must be the one of the report then; None takes what is there, else K = 100.
    """
    opened = open_run(run, which=which, device=device, data_dir=data_dir)
    for name in (MAIN, *([name_of("test", samples)] if samples else [])):
        metrics = read_metrics(opened.folder, name)
        current = metrics.get("checkpoint_sha256") == opened.digest and metrics.get("split") == "test"
        if current and samples in (None, metrics.get("nll_samples", samples)):
            return metrics
    return evaluate(run, samples=samples or 100, which=which, device=device, data_dir=data_dir, announce=announce)


def health(run: str | Path, metrics: Metrics | None = None, *, which: str = "best") -> list[Finding]:
    """What looks wrong with a run, by these metrics (by default those in its reports/) and its whole history."""
    opened = open_run(run, which="latest" if which == "best" else which)  # the best checkpoint may be of mid-training
    progress = load_checkpoint(opened.checkpoint, ()).state["progress"]
    known = read_metrics(opened.folder) | (metrics or {})
    return diagnose(known, progress["history"], progress.get("first_loss"))
