"""python -m benchmarks.gpu_check [--rehearse] [--out figures.json]: every GPU figure of the docs, in nine minutes.

Each part is a process of its own with a limit, so that one that fails or hangs costs the others nothing. The figures
come out as JSON; `--write figures.json` puts them into docs/performance.md and docs/results.md, on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import PARTS, UNTIMED, Size
from benchmarks.measure import machine
from benchmarks.report import Table, write_section

MINUTES = 9.0
PAGES = {"results": Path("docs/results.md")}  # the other tables go to the page of speed
SPEED = Path("docs/performance.md")
MARK = "VAEKIT_FIGURES "


def main() -> int:
    """Run all parts, one of them (which the others do), or write what was measured into the pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="small numbers, on whatever device is here")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--data-dir", type=Path, help="where MNIST lies, for the row of the results")
    parser.add_argument("--out", type=Path, help="a file for the figures, besides the screen")
    parser.add_argument("--write", type=Path, metavar="FIGURES", help="put a file of figures into the pages, and end")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(json.loads(options.write.read_text()))
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.rehearse:
        print("there is no CUDA device here; --rehearse runs it with small numbers on the CPU", file=sys.stderr)
        return 2
    size = Size(device, options.rehearse, options.data_dir)
    if options.part:
        print(MARK + json.dumps(PARTS[options.part](size)))
        return 0
    figures = measure(options, device)
    print(json.dumps(figures, indent=1))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1))
    return 1 if any("error" in part for part in figures["parts"].values()) else 0


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """{machine, rehearsal, seconds, parts}; a part that failed has an `error` in the place of its tables."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"machine": machine(device), "rehearsal": options.rehearse, "parts": {}}
    print(figures["machine"], file=sys.stderr, flush=True)

    def measured(name: str) -> None:
        at = time.perf_counter()
        part = run_part(name, options, 60 * options.minutes - (at - began))
        part["seconds"] = round(time.perf_counter() - at, 1)
        figures["parts"][name] = part
        print(f"{name}: {part.get('error', 'done')}, {part['seconds']} s\n{part.get('output', '')}", file=sys.stderr)
        for table in part.get("tables", []):
            print(Table(**table).markdown() + "\n", file=sys.stderr, flush=True)
        if options.out:  # whatever follows, this is kept
            options.out.write_text(json.dumps(figures, indent=1))

    chosen = options.only or list(PARTS)
    with ThreadPoolExecutor(1 if device.type == "cpu" else len(UNTIMED)) as at_once:
        list(at_once.map(measured, [name for name in chosen if name in UNTIMED]))
    for name in chosen:
        if name not in UNTIMED:
            measured(name)
    figures["seconds"] = round(time.perf_counter() - began, 1)
    return figures


def run_part(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """{tables}, or {error}: what the part printed, from a process that may take so long."""
    if seconds < 5:
        return {"error": "no time was left"}
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", name]
    command += ["--rehearse"] if options.rehearse else []
    command += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within the {seconds:.0f} s that were left"}
    found = [line for line in ran.stdout.splitlines() if line.startswith(MARK)]
    if ran.returncode or not found:
        return {"error": f"exit code {ran.returncode}", "output": (ran.stdout + ran.stderr)[-3000:]}
    result: dict[str, Any] = json.loads(found[-1].removeprefix(MARK))
    return result


def write(figures: dict[str, Any]) -> None:
    """Put the tables into the sections of GPUs; a rehearsal, or a part that failed, is refused."""
    failed = [name for name, part in figures["parts"].items() if "error" in part]
    if figures["rehearsal"]:
        raise SystemExit("these figures are of a rehearsal; docs hold those of a real run")
    for name, part in figures["parts"].items():
        tables = [Table(**table) for table in part.get("tables", [])]
        if tables:
            write_section(PAGES.get(name, SPEED), "cuda", figures["machine"], tables)
    if failed:
        raise SystemExit(f"not written, because they failed: {', '.join(failed)}")


if __name__ == "__main__":
    sys.exit(main())
