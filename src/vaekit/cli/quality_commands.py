"""`vaekit quality`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli import console
from vaekit.cli.options import DataDir, Device, RunPath, Seed, Which

HEADER = ("source", "Fréchet", "kernel ×1000", "precision", "recall", "density", "coverage")


app = typer.Typer(rich_markup_mode=None)


@app.command()
def quality(
    run: RunPath,
    count: Annotated[int, typer.Option("--count", "-n", min=16, help="Images of each source, at most.")] = 2000,
    drawn: Annotated[bool, typer.Option("--drawn", help="Also score draws from p(x|z), not only means.")] = False,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            "--sampler",
            help="mixture or flow, fitted to the codes of training images; or prior, for it alone. May be given often.",
            show_default="mixture, and what is fitted",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder with Inception's weights.", show_default="$VAEKIT_WEIGHTS"),
    ] = None,
    seed: Seed = 0,
    which: Which = "best",
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Why samples look bad: real images, reconstructions and samples scored against test images in one table."""
    from vaekit.evaluation.health import diagnose
    from vaekit.verbs.quality import quality as score_run

    found = score_run(
        run,
        count=count,
        seed=seed,
        samplers=None if sampler is None else [kind for kind in sampler if kind != "prior"],
        drawn=drawn,
        weights=weights,
        which=which,
        device=device,
        data_dir=data_dir,
        announce=console.say,
    )
    cells = [
        (
            row.source.replace("_", " "),
            f"{row.frechet:.2f}",
            f"{1000 * row.kernel:.2f} ± {1000 * row.kernel_se:.2f}",
            *(f"{value:.3f}" for value in (row.precision, row.recall, row.density, row.coverage)),
        )
        for row in found.rows
    ]
    blank = ("",) * (len(HEADER) - 2)
    cells += [(name.replace("_", " "), why, *blank) for name, why in found.unavailable.items()]
    console.columns(f"{run} · {found.rows[0].images:,} images each · by {found.extractor}", HEADER, cells)
    if "quality_proxy_accuracy" in found.metrics:
        console.say(f"the proxy names {found.metrics['quality_proxy_accuracy']:.1%} of the test images rightly")
    console.say("Fréchet and kernel: 0 is best, the row 'real' is what a perfect model would get; others: 1")
    for finding in diagnose(found.metrics):
        console.say(f"health: {finding.text}")
    console.say(str(found.path))
