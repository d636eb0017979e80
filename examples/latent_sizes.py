"""How many latent dimensions: what 2, 8 and 32 can hold, and how many of them a model uses.

With few dimensions reconstructions are blurred, because there is no room for the rest of the image. Beyond some number
more do not help: rate and ELBO stay where they are, shared by more dimensions or by the same few.
"""

import argparse
from pathlib import Path

from vaekit import compare_runs, evaluate, train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recipe", default="digits")
parser.add_argument("--out", type=Path, default=Path("runs/example-latent-sizes"))
parser.add_argument("--sizes", nargs="+", type=int, default=[2, 8, 32])
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()

runs = []
print("dimensions  in use    rate  PSNR (dB)    ELBO")
for size in options.sizes:
    out = options.out / f"z-{size}"
    runs.append(train(options.recipe, f"model.latent_dim={size}", *options.overrides, out=out, resume=True))
    m = evaluate(runs[-1], samples=10)
    print(f"{size:10} {m['active_units']:7} {m['rate_nats']:7.2f} {m['psnr_db']:10.2f} {m['elbo_nats']:7.2f}")

for path in compare_runs(runs, out=options.out).paths if len(runs) > 1 else ():
    print(path)
