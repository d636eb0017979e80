"""Train a VAE, measure it, look at it.

python examples/basic_training.py                               # handwritten digits, a minute
python examples/basic_training.py --recipe mnist-mlp data.root=data training.epochs=5
"""

import argparse
from pathlib import Path

from vaekit import evaluate, load, picture_run, train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recipe", default="digits")
parser.add_argument("--out", type=Path, default=Path("runs/example-basic"))
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()

# A recipe is a YAML file with every setting; an override changes one of them.
run = train(options.recipe, *options.overrides, out=options.out, resume=True)

# The history has one row per log point: of the training batches, and of the validation set.
vae = load(run)
validation = [row for row in vae.history if row["split"] == "validation"]
for row in validation[:: max(1, len(validation) // 5)]:
    print(f"epoch {row['epoch']:6.1f}   distortion {row['distortion']:7.2f} + rate {row['rate']:6.2f} nats per image")

# The negative ELBO is distortion + rate. The importance-weighted bound on -log p(x) is tighter.
metrics = evaluate(run, samples=100)
print(f"test: -ELBO {-metrics['elbo_nats']:.2f} nats, {metrics['active_units']} of {vae.latent_dim} dimensions in use")
if "nll_nats" in metrics:
    print(f"test: -log p(x) at most {metrics['nll_nats']:.2f} ± {metrics['nll_se_nats']:.2f} nats (K = 100)")

for path in picture_run(run):
    print(path)
