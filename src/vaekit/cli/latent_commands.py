"""`vaekit sample | interpolate | traverse | arithmetic | attribute | neighbours | latents`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.cli import console
from vaekit.cli.options import (
    All,
    Arrays,
    DataDir,
    Device,
    Given,
    Groups,
    RunPath,
    Seed,
    SideOrSides,
    Split,
    Steps,
    Which,
    sides,
)
from vaekit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vaekit.trained.run import Made, Run

app = typer.Typer(rich_markup_mode=None)


@app.command()
def sample(
    run: RunPath,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 100,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Spread of the codes.")] = 1.0,
    sampler: Annotated[
        str, typer.Option("--sampler", help="prior; or mixture or flow, fitted to the codes of training images.")
    ] = "prior",
    refit: Annotated[bool, typer.Option("--refit", help="Fit the sampler anew.")] = False,
    near: Annotated[Path | None, typer.Option("--near", metavar="IMAGE", help="From q(z | x) of this image.")] = None,
    spread: Annotated[
        float | None, typer.Option("--spread", min=0, help="With --near: its code + spread · noise instead.")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="The plane of a latent space of 2 dimensions.")] = False,
    side: Annotated[int, typer.Option("--side", min=1, max=100, help="With --grid: images per side.")] = 20,
    reach: Annotated[float, typer.Option("--range", help="With --grid: from -RANGE to RANGE.")] = 3.0,
    quantiles: Annotated[bool, typer.Option("--quantiles", help="With --grid: equally probable steps.")] = False,
    seed: Seed = 0,
    arrays: Arrays = False,
    every: All = False,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    groups: Groups = None,
    size: SideOrSides = None,
    data_dir: DataDir = None,
) -> None:
    """Images decoded from sampled codes: of the prior, of a fitted sampler, near an image, or on a grid."""
    ways = {"--near": near is not None, "--grid": grid or quantiles, "--sampler": sampler != "prior"}
    if len(asked := [name for name, given in ways.items() if given]) > 1:
        raise ConfigError(f"{' and '.join(asked)} cannot be had at once; choose one of them")
    if spread is not None and near is None:
        raise ConfigError("--spread is a distance from an image; name the image with --near")
    if refit and sampler == "prior":
        raise ConfigError("--refit needs a sampler that is fitted; choose one with --sampler mixture or flow")
    from vaekit.verbs.sample import forget_sampler, sample, sample_grid, sample_near

    opened = _open(run, which, device, data_dir, every, given=given, groups=groups, size=sides(size))
    if near is not None:
        _show(sample_near(opened, near, count, spread=spread, temperature=temperature, seed=seed, arrays=arrays))
    elif grid or quantiles:
        _show(sample_grid(opened, side, reach=reach, quantiles=quantiles, arrays=arrays))
    else:
        if refit:
            forget_sampler(opened, sampler)
        options = {"sampler": sampler, "temperature": temperature, "seed": seed, "arrays": arrays}
        _show(sample(opened, count, **options, announce=console.say))  # type: ignore[arg-type]


@app.command()
def interpolate(
    run: RunPath,
    images: Annotated[list[Path] | None, typer.Argument(metavar="[A B]", help="Two files; none: test images.")] = None,
    steps: Steps = 10,
    mode: Annotated[str, typer.Option("--mode", help="linear or spherical.")] = "linear",
    pairs: Annotated[int, typer.Option("--pairs", min=1, max=50, help="Of test images, where no file is given.")] = 6,
    seed: Seed = 0,
    arrays: Arrays = False,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    groups: Groups = None,
    data_dir: DataDir = None,
) -> None:
    """From one image to another, as a picture and an animation."""
    from vaekit.verbs.interpolate import interpolate

    opened = _open(run, which, device, data_dir, given=given, groups=groups)
    _show(interpolate(opened, images or (), steps=steps, mode=mode, pairs=pairs, seed=seed, arrays=arrays))


@app.command()
def traverse(
    run: RunPath,
    dims: Annotated[
        str, typer.Option("--dims", metavar="0,3,7", help="Which dimensions.", show_default="the most used")
    ] = "",
    steps: Steps = 9,
    reach: Annotated[float, typer.Option("--range", help="In standard deviations, to both sides.")] = 3.0,
    aggregate: Annotated[
        bool, typer.Option("--aggregate", help="Deviations of the aggregate posterior, not of the prior.")
    ] = False,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Around its code.", show_default="the mean code")
    ] = None,
    arrays: Arrays = False,
    every: All = False,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    groups: Groups = None,
    data_dir: DataDir = None,
) -> None:
    """One dimension changes, the others stay."""
    from vaekit.verbs.traverse import Scale, traverse

    chosen = _numbers(dims)
    opened = _open(run, which, device, data_dir, every, given=given, groups=groups)
    _show(traverse(opened, chosen, image=image, steps=steps, scale=Scale(reach, aggregate), arrays=arrays))


@app.command()
def arithmetic(
    run: RunPath,
    base: Annotated[str | None, typer.Argument(metavar="[BASE]", help="What to add to and take from.")] = None,
    plus: Annotated[list[str] | None, typer.Option("--plus", metavar="TERM", help="May be given often.")] = None,
    minus: Annotated[list[str] | None, typer.Option("--minus", metavar="TERM", help="May be given often.")] = None,
    arrays: Arrays = False,
    every: All = False,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    groups: Groups = None,
    data_dir: DataDir = None,
) -> None:
    """Add and subtract codes: a TERM is a file, a folder (the mean of its images) or a class (class:7)."""
    from vaekit.verbs.arithmetic import arithmetic

    _show(
        arithmetic(
            _open(run, which, device, data_dir, every, given=given, groups=groups),
            plus or (),
            minus or (),
            base=base,
            arrays=arrays,
        )
    )


@app.command()
def attribute(
    run: RunPath,
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Files; none: test images.")] = None,
    name: Annotated[str, typer.Option("--class", help="The class whose attribute it is.")] = "",
    steps: Steps = 9,
    reach: Annotated[float, typer.Option("--range", help="How many times the vector, to both sides.")] = 1.5,
    arrays: Arrays = False,
    every: All = False,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    groups: Groups = None,
    data_dir: DataDir = None,
) -> None:
    """Move images along the mean code with a class minus the mean code without it."""
    from vaekit.verbs.attribute import attribute

    if not name:
        raise ConfigError("an attribute is what one class has and the others lack; name the class with --class")
    opened = _open(run, which, device, data_dir, every, given=given, groups=groups)
    _show(attribute(opened, name, images or (), steps=steps, reach=reach, arrays=arrays))


@app.command()
def neighbours(
    run: RunPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many of each.")] = 10,
    standardised: Annotated[
        bool, typer.Option("--standardised", help="Let each dimension count by its own spread.")
    ] = False,
    arrays: Arrays = False,
    every: All = False,
    which: Which = "best",
    device: Device = "auto",
    given: Given = None,
    groups: Groups = None,
    data_dir: DataDir = None,
) -> None:
    """The training images with the nearest codes."""
    from vaekit.verbs.neighbours import neighbours

    opened = _open(run, which, device, data_dir, every, given=given, groups=groups)
    found = neighbours(opened, images, count, standardised=standardised, arrays=arrays)
    console.table("nearest training images, with distances", found.rows)
    _show(found.made)


@app.command()
def latents(
    run: RunPath,
    split: Split = "test",
    projection: Annotated[str, typer.Option("--projection", help="pca or tsne, above 2 dimensions.")] = "pca",
    encode: Annotated[
        Path | None, typer.Option("--encode", metavar="FOLDER", help="Images to a table of codes.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="Its file: .csv, .npz or .parquet.", show_default="reports/codes.csv")
    ] = None,
    arrays: Arrays = False,
    every: All = False,
    which: Which = "best",
    device: Device = "auto",
    groups: Groups = None,
    data_dir: DataDir = None,
) -> None:
    """Statistics of each dimension, scatter, KL, histograms, correlation; or a folder of images as a table of codes."""
    from vaekit.verbs.latents import encode_folder, headline, latents

    opened = _open(run, which, device, data_dir, every, groups=groups)
    if encode is not None:
        _show(encode_folder(opened, encode, table or opened.folder / "reports" / "codes.csv"))
        return
    if table is not None:
        raise ConfigError(f"--table {table} needs images; name their folder with --encode")
    use, made = latents(opened, split=split, projection=projection, arrays=arrays)
    console.table(f"{run} · step {opened.trained.step} · {len(use.means):,} {split} images", headline(use))
    _show(made)


def _open(
    run: Path,
    which: str,
    device: str,
    data_dir: str | None,
    every: bool = False,
    *,
    given: str | None = None,
    groups: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Run:
    from vaekit.trained.codes import MOST_IMAGES
    from vaekit.trained.run import open_run

    return open_run(
        run,
        which=which,
        device=device,
        data_dir=data_dir,
        limit=None if every else MOST_IMAGES,
        given=given,
        groups=groups or (),
        size=size,
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"--dims {text} is not a list of dimensions; write it as 0,3,7") from None


def _show(made: Made) -> None:
    for line in [*made.notes, *map(str, made.paths)]:
        console.say(line)
    if made.failures:
        raise DataError("; ".join(made.failures))
