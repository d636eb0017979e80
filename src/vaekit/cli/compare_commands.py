"""`vaekit compare | sweep | compare-dae`: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli import console
from vaekit.cli.options import DataDir, Device, Which

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
    from vaekit.compare.runs import compare_runs

    made = compare_runs(
        runs, out=out, samples=samples, which=which, device=device, data_dir=data_dir, announce=console.say
    )
    console.columns(f"{len(made.table.metrics)} runs", made.table.header, made.table.cells())
    for line in (*made.table.sentences(), *map(str, made.paths)):
        console.say(line)
