"""`vaekit data list | check | prepare`."""

from __future__ import annotations

from typing import Annotated

import typer

from vaekit.cli import console

app = typer.Typer(
    help="Data sets: what there is, whether it is whole, and preparing it.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, a data set's, or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as data.path=photos")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Folder of the data, or the one above; downloads go there.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a folder with unreadable images.")]


@app.command("list")
def list_sources(data_dir: DataDir = None) -> None:
    """The data sets with a name, and whether their files are on this machine."""
    from vaekit.data.download import data_root, locate
    from vaekit.data.sources import SOURCES

    root = data_root(data_dir)
    rows = []
    for source in SOURCES.values():
        present = all(locate(file, root) for file in source.files)
        state = "built in or your own" if not source.files else "on disk" if present else "to be downloaded"
        rows.append((source.name, f"{source.about} [{state}]"))
    console.table(f"data sets (downloads go to {root})", rows)


@app.command()
def check(
    recipe: Name,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    strict: Strict = False,
) -> None:
    """Load the data of RECIPE, verify it, and say what is in it."""
    _load(recipe, overrides, data_dir, strict)


@app.command()
def prepare(
    recipe: Name,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    strict: Strict = False,
) -> None:
    """Download what is missing and decode a folder, so that training starts at once."""
    _load(recipe, overrides, data_dir, strict)


def _load(recipe: str, overrides: list[str] | None, data_dir: str | None, strict: bool) -> None:
    from vaekit.config.load import recipe_names
    from vaekit.data.sources import SOURCES
    from vaekit.data.splits import load_splits
    from vaekit.training.combinations import read_config

    chosen = list(overrides or []) + (["data.strict=true"] if strict else [])
    if recipe in SOURCES and recipe not in recipe_names():
        chosen, recipe = [f"data.source={recipe}", "model.likelihood=bce", "data.binarize=none", *chosen], "digits"
    with console.TrainingBar() as bar:
        splits = load_splits(read_config(recipe, chosen, data_dir).data, bar.preparing)
    facts = splits.facts
    channels, height, width = facts["shape"]
    rows = [
        ("images", f"{height}×{width}×{channels}, 8 bits"),
        ("train · validation · test", f"{facts['train']:,} · {facts['validation']:,} · {facts['test']:,}"),
        ("classes", ", ".join(facts["classes"]) or "none"),
        ("found", f"{facts['train'] + facts['validation'] + facts['test'] + facts['skipped']:,}"),
        ("skipped", f"{facts['skipped']:,}" + (f", listed in {facts['skipped_csv']}" if facts["skipped"] else "")),
    ]
    if facts["others"]:
        rows.append(("no images by their endings", facts["others"]))
    whole = "readable and whole" if not facts["skipped"] else f"readable but for {facts['skipped']:,}"
    console.table(f"{facts['source']}: {whole}", rows)
