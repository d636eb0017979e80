"""`vaekit compare | sweep | compare-dae`: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli import console
from vaekit.cli.options import BoundSamples, DataDir, Device, Overrides, Recipe, Which

if TYPE_CHECKING:
    from vaekit.verbs.compare import Compared

app = typer.Typer(rich_markup_mode=None)

K = Annotated[
    int | None,
    typer.Option("--samples", "-k", min=1, max=100_000, help="K of the bounds.", show_default="as reported, else 100"),
]


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")],
    out: Annotated[Path, typer.Option("--out", help="Where the table and the sheet go.")] = Path("runs/compare"),
    samples: K = None,
    which: Which = "best",
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Metrics side by side, and one sheet of the same test images and of samples."""
    from vaekit.verbs.compare import compare

    made = compare(runs, out=out, samples=samples, which=which, device=device, data_dir=data_dir, announce=console.say)
    _show(made)


@app.command("compare-dae")
def compare_dae(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where runs and sheet go.", show_default="runs/compare-dae-RECIPE")
    ] = None,
    samples: BoundSamples = 100,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Train a VAE and a denoising autoencoder alike; compare reconstructions, samples and latent structure."""
    from vaekit.verbs.compare_dae import compare_dae as compare

    made = compare(
        recipe,
        *(overrides or []),
        out=out,
        samples=samples,
        device=device,
        data_dir=data_dir,
        announce=console.say,
        train_run=_train_with_bar,
    )
    _show(made)


def _show(made: Compared) -> None:
    console.columns(f"{len(made.table.metrics)} runs", made.table.header, made.table.cells())
    for line in (*made.table.sentences(), *map(str, made.paths)):
        console.say(line)


@app.command()
def sweep(
    recipe: Recipe,
    overrides: Annotated[
        list[str],
        typer.Argument(metavar="KEY=A,B,C...", help="Keys and their values, such as objective.beta=0.1,0.5,1,4"),
    ],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each combination.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="The sweep's folder.", show_default="runs/sweep-RECIPE")
    ] = None,
    samples: BoundSamples = 100,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Train every combination of values and seeds, and tell mean ± standard deviation. Again to go on."""
    from vaekit.verbs.sweep import short, sweep

    found = sweep(
        recipe,
        *overrides,
        seeds=seeds,
        out=out,
        samples=samples,
        device=device,
        data_dir=data_dir,
        announce=console.say,
        train_run=_train_with_bar,
    )
    names = {"nll_nats": "NLL", "elbo_nats": "ELBO", "rate_nats": "rate", "distortion_nats": "distortion"}
    names |= {"psnr_db": "PSNR (dB)", "active_units": "active units"}
    keys = [key for key in names if any(key in c.metrics for c in found.combinations)]
    rows = []
    for c in found.combinations:
        said = [f"{k}={short(v)}" for k, v in c.values.items()]
        cells = [(c.metrics[k].mean, c.metrics[k].sd) if k in c.metrics else None for k in keys]
        rows.append([" ".join(said) or recipe, *(_plus_minus(cell) for cell in cells)])
    title = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed each"
    console.columns(f"{title}; nats per test image", ["", *(names[k] for k in keys)], rows)
    for path in found.paths:
        console.say(str(path))


def _train_with_bar(*words: str, **options: Any) -> Path:
    from vaekit.verbs.train import train

    with console.TrainingBar() as bar:
        return train(*words, loggers=[bar], progress=bar.preparing, **options)


def _plus_minus(cell: tuple[float, float | None] | None) -> str:
    if cell is None:
        return "-"
    mean, sd = cell
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"
