"""Every command and every recipe's validation, with what is installed: two small runs on the digits, a minute or two.

python scripts/every_verb.py [FOLDER]    # exit code 1 where a command ends otherwise than it should

A recipe or command that needs an extra which is not installed must say so in one line, before any work.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vaekit.cli.main import ORDER, main
from vaekit.config.load import load_config, recipe_names

SMALL = ["data.limit=200", "training.epochs=1", "training.compile=off", "model.latent_dim=4"]
OWN = {"mnist", "fashion-mnist", "cifar10", "afhq", "folder", "arrays"}  # sources whose images are not at hand


def commands(run: Path, other: Path, photos: Path) -> list[list[str]]:
    """A command line for each verb."""
    one, two = str(photos / "0.png"), str(photos / "1.png")
    name, out = str(run), str(run.parent)
    return [
        ["train", "digits", *SMALL, "--out", name],
        ["train", "digits", *SMALL, "training.seed=1", "--out", str(other)],
        ["recipes"], ["recipes", "afhq"], ["doctor", "digits"], ["data", "list"], ["data", "check", "digits"],
        ["evaluate", name, "--samples", "2"], ["evaluate", str(other), "--samples", "2"],
        ["quality", name], ["ais", name, "-n", "4", "--temperatures", "5", "--chains", "2", "--own-images", "2"],
        ["disentanglement", name], ["compare", name, str(other)],
        ["sweep", "digits", "objective.beta=1,2", *SMALL, "--samples", "2", "--out", f"{out}/sweep"],
        ["compare-dae", "digits", *SMALL, "--out", f"{out}/dae"],
        ["pictures", name], ["reconstruct", name, str(photos)], ["sample", name],
        ["sample", name, "--sampler", "mixture"],
        ["interpolate", name, one, two], ["traverse", name], ["arithmetic", name, one, "--plus", two],
        ["attribute", name, "--class", "1"], ["neighbours", name, one], ["latents", name],
        ["anomalies", name, str(photos)], ["selftest"],
    ]  # fmt: skip


def without_extras(folder: Path) -> list[list[str]]:
    """What needs an extra: 0 where it is installed, else refused with exit code 2."""
    return [
        ["train", "digits", *SMALL, "logging.tensorboard=true", "--out", str(folder / "board")],
        ["train", "digits-flow-prior", "data.limit=200", "training.epochs=1", "--out", str(folder / "flow")],
    ]


def walk(folder: Path) -> list[str]:
    """The command lines that ended otherwise than they should."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    wrong = []
    lines = commands(folder / "run", folder / "other", photos)
    assert set(ORDER) <= {line[0] for line in lines}, "a command is missing here"
    for line, allowed in [*((line, {0}) for line in lines), *((line, {0, 2}) for line in without_extras(folder))]:
        print("$ vaekit", *line, flush=True)
        if (code := main(line)) not in allowed:
            wrong.append(f"exit code {code}: vaekit {' '.join(line)}")
    for name in recipe_names():
        line = ["doctor", name] if load_config(name).data.source not in OWN else ["recipes", name]
        print("$ vaekit", *line, flush=True)
        if main(line) not in ({0, 2} if "flow" in name else {0}):
            wrong.append(f"recipe {name}")
    return wrong


if __name__ == "__main__":
    if sys.argv[1:]:
        failed = walk(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            failed = walk(Path(place))
    print("\n".join(["", *failed, f"{len(failed)} ended otherwise than they should"]))
    sys.exit(bool(failed))
