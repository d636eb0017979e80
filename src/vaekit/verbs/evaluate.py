"""The metrics of a run, and what they say of its health."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaekit.evaluation.evaluate import Metrics, evaluate_model, expected_seconds
from vaekit.evaluation.health import Finding, diagnose
from vaekit.evaluation.report import read_metrics, write_reports
from vaekit.networks.pretrained.lpips import load_lpips, lpips_unavailable
from vaekit.trained.model import load
from vaekit.trained.run import dataset_of, run_folder
from vaekit.training.checkpoint import checkpoint_digest, load_checkpoint, locate


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
    trained = load(run, which=which, device=device)
    dataset = dataset_of(trained, split, data_dir)
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
    folder = locate(Path(run), which)
    facts = {"split": split, "checkpoint": folder.name, "checkpoint_sha256": checkpoint_digest(folder)}
    facts |= {} if lpips else {"lpips_unavailable": lpips_unavailable(lpips_weights)}
    write_reports(run_folder(Path(run)), evaluation, facts)
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
    digest = checkpoint_digest(locate(Path(run), which))  # another training may end with a step of the same name
    metrics = read_metrics(run_folder(Path(run)))
    current = metrics.get("checkpoint_sha256") == digest and metrics.get("split") == "test"
    if current and samples in (None, metrics.get("nll_samples", samples)):
        return metrics
    return evaluate(run, samples=samples or 100, which=which, device=device, data_dir=data_dir, announce=announce)


def health(run: str | Path, metrics: Metrics | None = None, *, which: str = "best") -> list[Finding]:
    """What looks wrong with a run, by these metrics (by default those in its reports/) and its whole history."""
    folder = locate(Path(run), "latest" if which == "best" else which)  # the best checkpoint may be of mid-training
    progress = load_checkpoint(folder, ()).state["progress"]
    known = read_metrics(run_folder(Path(run))) | (metrics or {})
    return diagnose(known, progress["history"], progress.get("first_loss"))
