"""`vaekit disentanglement`."""

from __future__ import annotations

import typer

from vaekit.cli import console
from vaekit.cli.options import DataDir, Device, RunPath, Seed, Split, Which

HEADER = ("score", "value", "by chance", "at best")
NAMES = {
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "factor_vae": "FactorVAE score",
    "beta_vae": "β-VAE score",
    "modularity": "modularity",
}


app = typer.Typer(rich_markup_mode=None)


@app.command()
def disentanglement(
    run: RunPath,
    split: Split = "test",
    seed: Seed = 0,
    which: Which = "best",
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """How the codes hold the known factors of the images: MIG, SAP, DCI, modularity, FactorVAE and β-VAE scores."""
    from vaekit.verbs.disentanglement import disentanglement as score_run

    scored = score_run(run, split=split, seed=seed, which=which, device=device, data_dir=data_dir)
    found = scored.found
    cells = [
        (NAMES[score.name], *(f"{value:.3f}" for value in (score.value, score.chance, score.best)))
        for score in found.scores
    ]
    console.columns(f"{run} · {found.images:,} {split} images · factors: {', '.join(found.factors)}", HEADER, cells)
    for factor, share, dim in zip(
        found.factors,
        (found.information / found.entropies).max(0),
        found.information.argmax(0),
        strict=True,
    ):
        console.say(f"{factor}: most in z{dim}, {share:.0%} of its entropy")
    for line in (*found.notes, *map(str, scored.paths)):
        console.say(line)
