"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Changes to the recipe, such as training.epochs=5", show_default=False
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one of its checkpoints.")]
Which = Annotated[str, typer.Option("--checkpoint", help="best or latest.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", help="Where data sets lie or are downloaded to.", show_default="$VAEKIT_DATA"),
]
Split = Annotated[str, typer.Option("--split", help="train, validation or test.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn: codes, 0/1 pixels, the choice of images.")]
BoundSamples = Annotated[int, typer.Option("--samples", "-k", min=1, max=100_000, help="K of the bound.")]
All = Annotated[bool, typer.Option("--all", help="Look at every image, not at 10,000 of them.")]
Given = Annotated[
    str | None,
    typer.Option("--given", metavar="CLASS", help="The class of the images, for a conditional model."),
]
Steps = Annotated[int, typer.Option("--steps", min=2, max=1000, help="How many images, the ends included.")]
Arrays = Annotated[bool, typer.Option("--save-arrays", help="Also the codes or images as .npy.")]
