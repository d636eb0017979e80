"""Does one objective disentangle better than another? Both are trained with several seeds, and all scores are compared.

On the sprites, whose factors are known. A difference counts where it is large beside the spread over the seeds, and
the ELBO says what it cost. docs/disentanglement.md says what each score measures.

python examples/disentangle.py                                        # β = 1 against β = 4; minutes
python examples/disentangle.py --seeds 5 --a objective=elbo --b 'objective={kind: elbo, beta: 8}' -- training.epochs=30
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from vaekit import evaluate, train
from vaekit.verbs.disentanglement import disentanglement


def measured(recipe: str, words: Sequence[str], seed: int, out: Path) -> dict[str, float]:
    """The scores of one training, and its ELBO. A run that is there already is not trained again."""
    run = train(recipe, *words, f"training.seed={seed}", out=out, resume=True)
    numbers = evaluate(run, samples=1)
    found = disentanglement(run).found
    return {
        **{score.name: score.value for score in found.scores},
        **{name: float(numbers[name]) for name in ("elbo_nats", "rate_nats", "active_units")},
    }


def shown(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """A line for each number, a column for each objective, and in how many of the pairs of seeds B is larger."""
    a, b = rows["A"], rows["B"]
    lines = [f"{'':22}{'A':>18}{'B':>18}   B is larger"]
    for name in a[0]:
        columns = [[row[name] for row in of] for of in (a, b)]
        larger = sum(second > first for first, second in zip(*columns, strict=True))
        lines.append(f"{name:22}{shown(columns[0]):>18}{shown(columns[1]):>18}   {larger} of {len(a)}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sprites")
    parser.add_argument("--out", type=Path, default=Path("runs/example-disentangle"))
    parser.add_argument("--seeds", type=int, choices=range(1, 101), default=3, metavar="COUNT")
    parser.add_argument("--a", nargs="+", default=["objective=elbo"], metavar="KEY=VALUE")
    parser.add_argument("--b", nargs="+", default=["objective={kind: elbo, beta: 4}"], metavar="KEY=VALUE")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of both, after --")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"A": [], "B": []}
    for seed in range(options.seeds):
        for name, words in (("A", options.a), ("B", options.b)):
            out = options.out / f"{name}-{seed}"
            found[name].append(measured(options.recipe, [*options.overrides, *words], seed, out))
            print(f"{name} seed {seed}: MIG {found[name][-1]['mig']:.3f}", flush=True)
    print(f"A: {' '.join(options.a)}\nB: {' '.join(options.b)}\n{table(found)}")
