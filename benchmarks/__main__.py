"""python -m benchmarks [--quick] [--only NAME …] [--device cuda] [--write docs/performance.md]"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.data import data_path, memory, start_up
from benchmarks.evaluation import evaluation
from benchmarks.measure import machine
from benchmarks.report import Table, write_section
from benchmarks.scaling import scaling
from benchmarks.training import training

PARTS: dict[str, Callable[[torch.device, bool, bool], list[Table]]] = {
    "training": training,
    "evaluation": evaluation,
    "data": data_path,
    "startup": start_up,
    "memory": memory,
    "scaling": scaling,
}


def main() -> None:
    """Run the parts that were asked for, print their tables, and keep them where asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: under five minutes on two cores")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--write", type=Path, help="the page whose section for this kind of machine is replaced")
    options = parser.parse_args()
    device = torch.device(options.device)
    with_pythae = importlib.util.find_spec("pythae") is not None
    head = machine(device)
    print(head, flush=True)
    if not with_pythae:
        print("pythae is not installed, so its rows are missing; pip install -c constraints.txt '.[bench]'")
    began = time.perf_counter()
    tables: list[Table] = []
    for name in options.only or PARTS:
        for table in PARTS[name](device, options.quick, with_pythae):
            tables.append(table)
            print(f"\n{table.markdown()}", flush=True)
    print(f"\nMeasured in {(time.perf_counter() - began) / 60:.1f} minutes.")
    if options.write:
        write_section(options.write, options.device, head + (" · quick" if options.quick else ""), tables)


if __name__ == "__main__":
    main()
