"""`vaekit reconstruct | anomalies`: a trained model on one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli import console
from vaekit.cli.options import Arrays, DataDir, Device, Given, RunPath, Seed, SideOrSides, Which, sides
from vaekit.errors import ConfigError

app = typer.Typer(rich_markup_mode=None)

Places = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[IMAGE|FOLDER]...", help="Files, or folders with images; none: test images."),
]
Samples = Annotated[int, typer.Option("--samples", "-k", min=1, max=100_000, help="Codes per image for its ELBO.")]
MOST_LINES = 40  # of a table on the screen; the file has them all


@app.command()
def reconstruct(
    run: RunPath,
    places: Places = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Test images, where no file is given.")] = 20,
    single: Annotated[bool, typer.Option("--single", help="Also each reconstruction as a PNG of its own.")] = False,
    arrays: Arrays = False,
    pages: Annotated[int, typer.Option("--pages", min=1, help="Sheets of 40 images at most.")] = 10,
    samples: Samples = 16,
    seed: Seed = 0,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    size: SideOrSides = None,
    data_dir: DataDir = None,
) -> None:
    """Originals, reconstructions and differences as a sheet; PSNR, SSIM, ELBO and compression of each image."""
    if not places:
        if size is not None:
            raise ConfigError("--size is for images of your own; test images have the size that the run was trained on")
        from vaekit.verbs.reconstruct import reconstruct_test_images

        console.say(str(reconstruct_test_images(run, count, which=which, device=device, data_dir=data_dir)))
        return
    from vaekit.trained.own_images import refuse_failures
    from vaekit.verbs.reconstruct import PER_PAGE, reconstruct

    with console.Bar("reconstructing") as bar:
        made = reconstruct(
            run,
            places,
            single=single,
            arrays=arrays,
            pages=pages,
            samples=samples,
            seed=seed,
            which=which,
            device=device,
            given=given,
            size=sides(size),
            progress=bar.share,
        )
    shown = made.scores[:MOST_LINES]
    console.table(_images(len(made.scores)), [(score.name, score.words()) for score in shown])
    if len(shown) < len(made.scores):
        console.say(f"… and {len(made.scores) - len(shown):,} more, all in {made.paths[-1]}")
    console.say(made.coding.words())
    for path in made.paths:
        console.say(str(path))
    if made.undrawn:
        console.say(f"{made.undrawn:,} images are on no sheet; --pages {-(-len(made.scores) // PER_PAGE)} draws all")
    refuse_failures(made.failures, made.paths[-1])


@app.command()
def anomalies(
    run: RunPath,
    places: Places = None,
    every: Annotated[
        bool, typer.Option("--all", help="Compare with the whole test set, not with 2,000 of it.")
    ] = False,
    samples: Samples = 16,
    seed: Seed = 0,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    data_dir: DataDir = None,
) -> None:
    """Images ranked by ELBO, the least expected first, with their percentile among the test images."""
    from vaekit.trained.own_images import refuse_failures
    from vaekit.verbs.anomalies import anomalies

    with console.Bar("scoring") as bar:
        found = anomalies(
            run,
            places or (),
            every=every,
            samples=samples,
            seed=seed,
            which=which,
            device=device,
            data_dir=data_dir,
            given=given,
            progress=bar.share,
        )
    shown = found.ranking[:MOST_LINES]
    rows = [(e.name, f"ELBO {e.elbo_nats:.2f} nats · percentile {e.percentile:.2f}") for e in shown]
    console.table(f"{_images(len(found.ranking))}, compared with {len(found.reference):,} test images", rows)
    if len(shown) < len(found.ranking):
        console.say(f"… and {len(found.ranking) - len(shown):,} more, all in {found.paths[-1]}")
    for path in found.paths:
        console.say(str(path))
    refuse_failures(found.failures, found.paths[-1])


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"
