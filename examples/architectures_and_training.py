"""Networks (shallow, deep, wide, convolutional) and training techniques (step schedule, clipping, early stopping).

Each row of the table is one training that differs from the recipe in the words beside it.
"""

import argparse
from pathlib import Path

from vaekit import evaluate, load, train

VARIANTS = {
    "shallow": ["model.network={kind: mlp, widths: [256]}"],
    "deep": ["model.network={kind: mlp, widths: [512, 256]}"],
    "wide": ["model.network={kind: mlp, widths: [1024]}"],
    "convolutional": ["model.network={kind: conv, widths: [32, 64]}"],
    # the learning rate falls to a tenth after every 20 epochs
    "step-schedule": ["training.schedule=step", "training.schedule_unit=epoch", "training.decay_every=20"],
    # no update is larger than that of a gradient of norm 10 (nats); null clips nothing
    "clipping": ["training.clip=10"],
    # stop after three validations without a better loss; the best checkpoint is the one that is evaluated
    "early-stopping": ["training.patience=3"],
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recipe", default="digits")
parser.add_argument("--out", type=Path, default=Path("runs/example-architectures"))
parser.add_argument("--epochs", type=float, default=60)
parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()

print("variant            weights   epochs     ELBO")
for name in options.only:
    words = [*options.overrides, f"training.epochs={options.epochs}", *VARIANTS[name]]
    run = train(options.recipe, *words, out=options.out / name, resume=True)
    weights = sum(p.numel() for p in load(run).model.parameters())
    trained = load(run, which="latest").history[-1]["epoch"]
    print(f"{name:15} {weights:10,} {trained:8.1f} {evaluate(run, samples=10)['elbo_nats']:8.2f}")
