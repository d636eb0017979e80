"""What goes wrong with VAEs, and whether the usual cures work: measured on the digits, before and after.

Each row trains the broken configuration with the words beside it, with several seeds, and is measured on the test set.

python examples/cures.py                                         # the tables; minutes
python examples/cures.py --only blurry --seeds 1                 # one of them; seconds
python examples/cures.py --write docs/troubleshooting.md --picture docs/images/cures.png
"""

import argparse
import re
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch

from vaekit import evaluate, load, train
from vaekit.plots import labelled_grid, save_picture
from vaekit.trained.codes import aggregate_samples
from vaekit.trained.run import open_run
from vaekit.trained.samplers import fit_sampler
from vaekit.verbs.quality import quality


class Cure(NamedTuple):
    """What is added to the broken configuration, and where the samples are drawn from."""

    words: tuple[str, ...] = ()
    sampler: str = "prior"
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """As on the command lines."""
        options = [f"--sampler {self.sampler}"] if self.sampler != "prior" else []
        options += [f"--temperature {self.temperature:g}"] if self.temperature != 1 else []
        return " · ".join(f"`{word}`" for word in (*self.words, *options)) or "as it is"


class Problem(NamedTuple):
    """A configuration that shows a problem, what is tried (the first as it is), and which numbers show it."""

    broken: tuple[str, ...]
    cures: tuple[Cure, ...]
    columns: tuple[str, ...]


def tried(*rows: str) -> tuple[Cure, ...]:
    """As it is, then each row's words."""
    return (Cure(), *(Cure(tuple(row.split(" · "))) for row in rows))


SMALL = ("model.network={kind: mlp, widths: [128]}", "training.epochs=80", "training.validate_every=200")
DEEP = ("model.network={kind: mlp, widths: [128, 128, 128, 128, 128]}", *SMALL[1:])
LIKELIHOODS = {
    "optimal": "model.likelihood={kind: gaussian, scale: optimal}",
    "logistic": "model.likelihood=discretised-logistic",
}
PROBLEMS = {
    "blurry": Problem(
        # σ² = 1/2: minus the log-likelihood is the sum of squares
        (*SMALL, "data.binarize=none", "model.likelihood={kind: gaussian, scale: fixed, initial_scale: 0.7071}",
         "model.latent_dim=2"),
        tried(
            "model.latent_dim=16",
            "objective.beta=0.1",
            "model.latent_dim=16 · objective.beta=0.1",
            LIKELIHOODS["optimal"],
            f"model.latent_dim=16 · {LIKELIHOODS['optimal']}",
            f"model.latent_dim=16 · {LIKELIHOODS['logistic']}",
        ),
        ("psnr_db", "ssim", "rate_nats", "active_units", "frechet"),
    ),
    "collapse": Problem(
        (*SMALL, "objective.beta=4"),
        tried(
            "objective.beta={kind: linear, end: 4, over: 40}",
            "objective.beta={kind: cyclical, end: 4, over: 20}",
            "objective.free_bits=0.1",
            "objective.free_bits=0.5",
            "objective.beta=1",
            "objective.beta=0.5",
        ),
        ("active_units", "rate_nats", "psnr_db", "elbo_nats"),
    ),
    "deep": Problem(
        DEEP,
        tried(
            "objective.beta={kind: linear, over: 40}",
            "objective.beta={kind: cyclical, over: 20}",
            "objective.free_bits=0.1",
            "objective.beta=0.5",
            "training.epochs=240",
            "training.epochs=240 · objective.beta={kind: linear, over: 120}",
            "model.network.block=residual",
        ),
        ("active_units", "rate_nats", "psnr_db", "elbo_nats"),
    ),
    "samples": Problem(
        (*SMALL, "objective.beta=4"),
        (
            Cure(),
            Cure(sampler="mixture"),
            Cure(("objective.beta=1",)),
            Cure(("objective.beta=1",), temperature=0.5),
            Cure(("objective.beta=1",), sampler="mixture"),
            Cure(("objective.beta=0.1",)),
            Cure(("objective.beta=0.1",), sampler="mixture"),
            Cure(("objective.beta=0.1",), sampler="mixture", temperature=0.7),
        ),
        ("frechet", "precision", "recall", "coverage"),
    ),
}  # fmt: skip
HEADERS = {
    "psnr_db": ("PSNR, dB", 1),
    "ssim": ("SSIM", 2),
    "rate_nats": ("rate, nats", 1),
    "active_units": ("active units", 1),
    "elbo_nats": ("ELBO, nats", 1),
    "frechet": ("Fréchet of samples", 1),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "coverage": ("coverage", 2),
}


def trained(problem: str, cure: Cure, seed: int, out: Path, overrides: list[str]) -> Path:
    """The run of a cure; of several that differ in sampling alone, there is one."""
    words = (*PROBLEMS[problem].broken, *cure.words, *overrides, f"training.seed={seed}")
    name = re.sub(r"[^\w.]+", "-", "-".join(cure.words)).strip("-") or "broken"
    return train("digits", *words, out=out / problem / f"{name}-{seed}", resume=True)


def samples(run: Path, cure: Cure, count: int) -> torch.Tensor:
    """Images (N, C, H, W) in [0, 1], from the prior or from the sampler fitted to the codes of the training images."""
    opened = open_run(run)
    if cure.sampler == "prior":
        return opened.trained.sample_means(count, temperature=cure.temperature)
    fitted = fit_sampler(opened.trained, cure.sampler, aggregate_samples(opened.trained, opened.images("train")))
    return torch.from_numpy(opened.decoded(fitted.sampler.sample(count, temperature=cure.temperature)))


def measured(run: Path, cure: Cure, columns: tuple[str, ...]) -> dict[str, float]:
    """The numbers of one run."""
    numbers = evaluate(run, samples=1)
    if "frechet" in columns:
        found = quality(run, sources={"these": lambda count: samples(run, cure, count)})
        numbers |= next(row for row in found.rows if row.source == "these")._asdict()
    return {column: float(numbers[column]) for column in columns}


def table(problem: str, options: argparse.Namespace) -> str:
    """Markdown: a row for each cure, each number a mean over the seeds, ± their standard deviation."""
    columns = PROBLEMS[problem].columns
    lines = [f"| changed | {' | '.join(HEADERS[column][0] for column in columns)} |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for cure in PROBLEMS[problem].cures:
        runs = [trained(problem, cure, seed, options.out, options.overrides) for seed in range(options.seeds)]
        rows = [measured(run, cure, columns) for run in runs]
        cells = [shown([row[column] for row in rows], HEADERS[column][1]) for column in columns]
        lines.append(f"| {cure.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(values: list[float], digits: int) -> str:
    """Mean ± standard deviation."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}".replace("-", "−")


def picture(options: argparse.Namespace) -> Path:
    """Test images, what broken and cured models make of them, and samples before and after."""
    rows = []
    for problem, number, _ in PICTURED:
        cure = PROBLEMS[problem].cures[number]
        run = trained(problem, cure, 0, options.out, options.overrides)
        opened = open_run(run)
        images = opened.images("test").subset(torch.arange(COLUMNS))
        rows = rows or [opened.originals(images.images)]
        drawn = problem == "samples"
        found = samples(run, cure, COLUMNS) if drawn else load(run).reconstruct_prepared(images)
        rows.append(found.clamp(0, 1).numpy())
    labels = ["test images", *(label for _, _, label in PICTURED)]
    title = "before and after: reconstructions of test images, then samples"
    return save_picture(labelled_grid(rows, title=title, row_labels=labels), options.picture)


COLUMNS = 12
PICTURED = (  # problem, which of its cures, what it is
    ("blurry", 0, "blurry: sum of squares, D = 2"),
    ("blurry", 5, "optimal scale, D = 16"),
    ("collapse", 0, "collapsed: β = 4"),
    ("collapse", 5, "β = 1"),
    ("samples", 0, "without variety: prior, β = 4"),
    ("samples", 5, "like nothing: prior, β = 0.1"),
    ("samples", 6, "mixture sampler, β = 0.1"),
)


def written(page: Path, tables: dict[str, str]) -> None:
    """Put each table between its marks, <!-- cures: NAME --> and <!-- end -->."""
    text = page.read_text(encoding="utf-8")
    for problem, lines in tables.items():
        marked = re.compile(rf"(<!-- cures: {problem} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marked.search(text):
            raise SystemExit(f"{page} has no mark <!-- cures: {problem} -->")
        text = marked.sub(lambda found, lines=lines: f"{found[1]}{lines}\n{found[2]}", text)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/example-cures"))
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, choices=range(1, 21), default=3, metavar="COUNT")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="before and after, as pictures")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.write and not options.write.is_file():
        parser.error(f"{options.write} is no file; give a page with the marks <!-- cures: … --> and <!-- end -->")
    tables = {}
    for problem in options.only:
        tables[problem] = table(problem, options)
        print(f"\n{problem}\n\n{tables[problem]}", flush=True)
    if options.write:
        written(options.write, tables)
    if options.picture:
        print(picture(options))
