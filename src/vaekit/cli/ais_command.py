"""`vaekit ais`."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli import console
from vaekit.cli.options import DataDir, Device, RunPath, Seed, Split, Which
from vaekit.errors import ConfigError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def ais(
    run: RunPath,
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Of the split, evenly spread.")] = 100,
    temperatures: Annotated[int, typer.Option("--temperatures", min=1, help="More of them: a tighter bound.")] = 500,
    chains: Annotated[int, typer.Option("--chains", min=1, help="For each image.")] = 8,
    leapfrogs: Annotated[int, typer.Option("--leapfrogs", min=1, help="Steps of a trajectory.")] = 10,
    start: Annotated[str, typer.Option("--start", help="Of the path: prior, or posterior, which is q(z|x).")] = "prior",
    own_images: Annotated[
        int, typer.Option("--own-images", min=0, help="Drawn from the model, for the gap to a bound from above.")
    ] = 32,
    split: Split = "test",
    seed: Seed = 0,
    which: Which = "best",
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """log p(x) by annealed importance sampling, tighter than the importance-weighted bound, and how tight it is."""
    from vaekit.evaluation.ais import Annealing
    from vaekit.trained.run import open_run
    from vaekit.verbs.ais import ais, rows_of

    if start not in ("prior", "posterior"):
        raise ConfigError(f"unknown start '{start}'; choose one of: posterior, prior")
    settings = Annealing(temperatures, chains, leapfrogs, "prior" if start == "prior" else "posterior")
    with console.Bar("annealing") as bar:
        metrics = ais(
            run,
            settings,
            images=images,
            own_images=own_images,
            split=split,
            seed=seed,
            which=which,
            device=device,
            data_dir=data_dir,
            announce=console.say,
            progress=bar.share,
        )
    title = f"{run} · {metrics['ais_checkpoint']} · {metrics['ais_images']:,} {split} images"
    console.table(title, rows_of(metrics))
    console.say(f"all numbers: {open_run(run).folder / 'reports' / 'metrics.json'}")
