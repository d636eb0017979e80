"""`vaekit VERB …`: parse, call the function of `vaekit.verbs` that is called alike, print what it found."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer

from vaekit.cli import (
    ais_command,
    compare_commands,
    console,
    data_commands,
    disentanglement_commands,
    inference_commands,
    latent_commands,
    quality_commands,
    selftest_command,
)
from vaekit.cli.options import BoundSamples, DataDir, Device, Overrides, Recipe, RunPath, Seed, Split, Which
from vaekit.errors import VaekitError, VaekitWarning, is_out_of_memory
from vaekit.system import print_any_text

app = typer.Typer(
    name="vaekit",
    help="Variational autoencoders on images: train, evaluate, sample, explore.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run's folder.", show_default="a new one in runs/")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    data_dir: DataDir = None,
    device: Annotated[str | None, typer.Option("--device", help="The same as training.device=…")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a folder with unreadable images.")] = False,
) -> None:
    """Train RECIPE, with `section.key=value` overrides."""
    from vaekit.processes import world_of_environment
    from vaekit.verbs.train import train as train_run

    chosen = list(overrides or [])
    chosen += [f"training.device={device}"] if device else []
    chosen += ["data.strict=true"] if strict else []
    leads = world_of_environment().leads
    with console.TrainingBar(shown=leads) as bar:
        run = train_run(
            recipe, *chosen, out=out, data_dir=data_dir, resume=resume, loggers=[bar], progress=bar.preparing
        )
    if leads:
        here = Path.cwd()
        console.say(f"run: {run.relative_to(here) if run.is_relative_to(here) else run}")


@app.command()
def evaluate(
    run: RunPath,
    samples: BoundSamples = 100,
    split: Split = "test",
    seed: Seed = 0,
    lpips_weights: Annotated[
        Path | None, typer.Option("--lpips-weights", help="Folder with its two files.", show_default="$VAEKIT_WEIGHTS")
    ] = None,
    which: Which = "best",
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """ELBO, importance-weighted bound, bits/dim, mutual information, PSNR, SSIM, LPIPS, active units, a diagnosis."""
    from vaekit.evaluation.evaluate import headline
    from vaekit.trained.run import open_run
    from vaekit.verbs.evaluate import evaluate as evaluate_run
    from vaekit.verbs.evaluate import health

    with console.Bar("evaluating") as bar:
        metrics = evaluate_run(
            run,
            split=split,
            samples=samples,
            seed=seed,
            which=which,
            device=device,
            data_dir=data_dir,
            lpips_weights=lpips_weights,
            announce=console.say,
            progress=bar.share,
        )
    title = (
        f"{run} · {metrics['checkpoint']} · {metrics['images']:,} {split} images · measure: {metrics['base_measure']}"
    )
    console.table(title, headline(metrics))
    console.say(f"all numbers, and KL per dimension: {open_run(run).folder / 'reports'}")
    if "lpips_unavailable" in metrics:
        console.say(f"for LPIPS, {metrics['lpips_unavailable']}")
    for finding in health(run, metrics):
        console.say(f"health: {finding.text}")


@app.command()
def pictures(run: RunPath, which: Which = "best", device: Device = "auto", data_dir: DataDir = None) -> None:
    """Every standard picture of a run: reconstructions, prior samples, loss curves, the latent space."""
    from vaekit.verbs.pictures import pictures

    for path in pictures(run, which=which, device=device, data_dir=data_dir):
        console.say(str(path))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them.", show_default=False)] = None,
) -> None:
    """What can be trained by name; of one NAME, where it comes from, what to expect, what it costs, and its config."""
    from vaekit.config.load import load_config, recipe_names, recipe_path

    if name is None:
        console.table("recipes", [(each, load_config(each).recipe.about) for each in recipe_names()])
        console.say("vaekit recipes NAME says whence one comes, what to expect, what it costs, and its config")
        return
    from vaekit.models.build import LIKELIHOODS

    path = recipe_path(name)
    config = load_config(name)
    said, chosen = config.recipe, config.model.likelihood
    others = ", ".join(f"model.likelihood={kind}" for kind in LIKELIHOODS if kind != chosen.kind)
    options = "".join(f", {option} {value}" for option, value in chosen.options.items())
    likelihood = f"{chosen.kind}{options}; for another: {others} (vaekit doctor says what fits)"
    rows = (
        ("what", said.about), ("source", said.source), ("likelihood", likelihood),
        ("expect", said.expect), ("cost", said.cost),
    )  # fmt: skip
    console.table(name, [(title, text) for title, text in rows if text])
    text = path.read_text(encoding="utf-8")
    console.say("\n" + text[text.index("\ndata:") + 1 :].rstrip())


@app.command()
def doctor(
    recipe: Recipe,
    overrides: Overrides = None,
    data_dir: DataDir = None,
) -> None:
    """Before training: values against likelihood, shapes, memory, effective β; what to change."""
    from vaekit.training.combinations import read_config
    from vaekit.verbs.doctor import doctor as look

    findings = look(read_config(recipe, overrides or [], data_dir))
    console.table(f"doctor: {recipe}", [(f"{f.verdict:<7} {f.topic}", f.text) for f in findings])
    if any(f.verdict == "problem" for f in findings):
        raise typer.Exit(2)


# How `--help` lists them: in the order in which they are needed.
ORDER = (
    "train", "recipes", "doctor",
    "evaluate", "quality", "ais", "disentanglement", "compare", "sweep", "compare-dae",
    "pictures", "reconstruct", "sample", "interpolate", "traverse", "arithmetic", "attribute", "neighbours", "latents",
    "anomalies", "selftest",
)  # fmt: skip


def _gather() -> None:
    """Put the commands of all modules into one list, in ORDER."""
    modules = (
        ais_command,
        compare_commands,
        disentanglement_commands,
        inference_commands,
        latent_commands,
        quality_commands,
        selftest_command,
    )
    for module in modules:
        app.registered_commands += module.app.registered_commands
    app.registered_commands.sort(key=lambda command: ORDER.index(name_of(command)))
    app.add_typer(data_commands.app, name="data")


def name_of(command: typer.models.CommandInfo) -> str:
    """What is typed for a command."""
    assert command.callback is not None
    return command.name or command.callback.__name__


_gather()


def run() -> None:
    """The entry point: runs a command and turns errors into one line and the exit code of their kind."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """The exit code of a command line."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", VaekitWarning)
        warnings.showwarning = _say_warning
        return _answer(arguments)


def _answer(arguments: list[str]) -> int:
    """The exit code; an error is said in one line."""
    try:
        from typer._click.exceptions import ClickException, NoArgsIsHelpError
    except ImportError:  # before typer carried a click of its own
        from click.exceptions import ClickException, NoArgsIsHelpError  # type: ignore[import-not-found, no-redef]

    print_any_text()
    if _one_of_several() and arguments[:1] != ["train"]:
        return _fail("only `vaekit train` runs in several processes; start this command without torchrun", 2)
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except VaekitError as error:
        return _fail(str(error), error.exit_code)
    except NoArgsIsHelpError as error:
        console.complain(error.format_message())
        return 2
    except ClickException as error:
        usage = "; see vaekit --help" if "--help" not in error.format_message() else ""
        return _fail(f"{error.format_message().rstrip('.')}{usage}", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a reader such as head went away
        return 0
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("out of memory; lower training.batch_size, or raise training.accumulate", 5)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        return _fail(f"{error.filename or 'the disk'}: {error.strerror}; free some space, or choose another folder", 6)


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours on a line, others as Python shows them."""
    if issubclass(category, VaekitWarning):
        console.complain(f"vaekit: {message}")
    else:
        console.complain(warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def _one_of_several() -> bool:
    """Whether torchrun started this process beside others: without importing torch."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _fail(message: str, code: int) -> int:
    speaker = f" process {os.environ['RANK']}" if _one_of_several() and os.environ["RANK"] != "0" else ""
    console.complain(f"vaekit{speaker}: {message}")
    return code
