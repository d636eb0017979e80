"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from vaekit.errors import ConfigError

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
    typer.Option(
        "--data-dir", help="Folder of the data, or the one above; downloads go there.", show_default="$VAEKIT_DATA"
    ),
]
Split = Annotated[str, typer.Option("--split", help="train, validation or test.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn: codes, 0/1 pixels, the choice of images.")]
BoundSamples = Annotated[int, typer.Option("--samples", "-k", min=1, max=100_000, help="K of the bound.")]
All = Annotated[bool, typer.Option("--all", help="Look at every image, not at 10,000 of them.")]
Given = Annotated[
    str | None,
    typer.Option("--given", metavar="CLASS", help="The class of the images, for a conditional model."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        help="A group of latents, for a model with several; the others are the prior's mean. May be given often.",
        show_default="all",
    ),
]
SideOrSides = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="H[xW]", help="Of the images, for a model whose code is a grid.", show_default="its own"
    ),
]
Steps = Annotated[int, typer.Option("--steps", min=2, max=1000, help="How many images, the ends included.")]
Arrays = Annotated[bool, typer.Option("--save-arrays", help="Also the codes or images as .npy.")]


def sides(text: str | None) -> tuple[int, int] | None:
    """(height, width) of `96` or `64x96`. ConfigError for other words."""
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--size {text} is no size; write it as 96, or as 64x96 (height x width)")
    return int(parts[0]), int(parts[-1])
