"""What β does: a small one reconstructs better, a large one keeps fewer dimensions in use.

On the digits, where a whole code is worth 5 nats, β = 5 leaves no dimension in use: posterior collapse.

β multiplies the rate KL(q(z|x) || p(z)) in the loss. At 1 the loss is the negative ELBO.
Higgins et al. 2017. `vaekit sweep RECIPE objective.beta=0.1,1,5 --seeds 3` does the same with error bars.
"""

import argparse
from pathlib import Path

from vaekit import compare_runs, evaluate, train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recipe", default="digits")
parser.add_argument("--out", type=Path, default=Path("runs/example-beta"))
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()

runs = []
print("   beta  distortion    rate    ELBO  dimensions in use")
for beta in (0.1, 1, 5):
    out = options.out / f"beta-{beta}"
    runs.append(train(options.recipe, *options.overrides, f"objective.beta={beta}", out=out, resume=True))
    # The ELBO is measured with β = 1 for all of them: it is a bound on log p(x), whatever was trained.
    m = evaluate(runs[-1], samples=10)
    print(f"{beta:7} {m['distortion_nats']:11.2f} {m['rate_nats']:7.2f} {m['elbo_nats']:7.2f} {m['active_units']:18}")

# One sheet: the same test images, what each run makes of them, and samples from each prior.
for path in compare_runs(runs, out=options.out).paths:
    print(path)
