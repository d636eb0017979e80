"""`vaekit selftest`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.cli import console
from vaekit.cli.options import Device

if TYPE_CHECKING:
    from vaekit.selftest.figure import Figure

HEADER = ("check", "figure", "limit", "verdict")


app = typer.Typer(rich_markup_mode=None)


@app.command()
def selftest(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="A check's name. May be given often.", show_default="all checks"),
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, for other programs.")] = False,
) -> None:
    """Check on this machine that densities normalise, KLs and bounds are right, and a killed run resumes."""
    from vaekit.selftest.run import run_checks

    with console.ERROR.status("selftest") as line:
        figures = list(
            run_checks(
                only or (),
                device=device,
                announce=lambda name, now, count: line.update(f"selftest {now + 1}/{count}: {name}"),
            )
        )
    if as_json:
        console.say(json.dumps([figure._asdict() for figure in figures], indent=1))
    else:
        _show(figures)
    failed = [figure.name for figure in figures if figure.verdict == "fail"]
    if failed:
        console.complain(f"vaekit: {len(failed)} of {len(figures)} checks failed: {', '.join(failed)}")
        raise typer.Exit(5)


def _show(figures: Sequence[Figure]) -> None:
    wide = max(len(figure.name) for figure in figures)
    rows = [
        (
            f"{figure.name:<{wide}}  {figure.law}",
            "–" if figure.value is None else f"{figure.value:.2g}",
            f"{figure.limit:.2g}",
            figure.verdict,
        )
        for figure in figures
    ]
    console.columns("selftest", HEADER, rows)
    for figure in figures:
        if figure.note:
            console.say(f"{figure.name}: {figure.note}")
