"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Changes to the recipe, such as training.epochs=5", show_default=False
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", help="Where data sets lie or are downloaded to.", show_default="$VAEKIT_DATA"),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one of its checkpoints.")]
Which = Annotated[str, typer.Option("--checkpoint", help="best or latest.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
