"""Small runs on the digits for tests, and processes that start fast enough to be killed often."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vaekit.selftest.durability import what_is_left as what_is_left
from vaekit.training.checkpoint import locate

SIZES = (
    "data.limit=400",
    "data.validation=60",
    "model.network={kind: mlp, widths: [16]}",
    "model.latent_dim=4",
    "training.batch_size=40",
    "training.learning_rate=1e-3",
    "training.warmup=0",
    "training.validate_every=null",
)
# Everything that has a state or a schedule is on, and saving, validating and logging fall on different steps.
EVERYTHING = (
    *SIZES,
    "data.shift=1",
    "objective.beta={kind: linear, over: 2}",
    "training.epochs=4",
    "training.warmup=9",
    "training.accumulate=2",
    "training.validate_every=11",
    "training.checkpoint_every=7",
    "training.log_every=5",
)

SERVER = """
import json, os, shutil, signal, sys
import torch, sklearn.datasets
import vaekit.verbs.train, vaekit.cli.main
from vaekit.training.combinations import read_config
read_config("digits")
torch.set_num_threads(1)

def kill_at(number, counted):
    # A process dies just before its number-th call that makes something durable on the disk, or takes it away.
    done = 0
    def counting(function):
        def call(*arguments, **options):
            nonlocal done
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for home, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "unlink"), (shutil, "rmtree")):
        setattr(home, name, counting(getattr(home, name)))
    return lambda: open(counted, "w").write(str(done))

for line in sys.stdin:
    wish = json.loads(line)
    if "wait" in wish:
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(wish["wait"], 0)[1])), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        finish = kill_at(wish["kill_at"], wish["log"] + ".count")
        code = vaekit.cli.main.main(wish["arguments"])
        finish()
        os._exit(code)
    print(json.dumps(pid), flush=True)
"""


class Processes:
    """Runs `vaekit …` in forks of one process that has torch loaded."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "output.log"
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def _ask(self, wish: dict[str, Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(wish) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, *arguments: str, kill_at: int = 0) -> int:
        """The process id; `kill_at` n lets it die at its n-th durable change of the disk."""
        return self._ask({"arguments": arguments, "log": str(self.log), "kill_at": kill_at})

    def wait(self, pid: int) -> int:
        """Its exit code, or minus the signal that killed it."""
        return self._ask({"wait": pid})

    def run(self, *arguments: str, kill_at: int = 0) -> int:
        """Start and wait."""
        return self.wait(self.start(*arguments, kill_at=kill_at))

    def durable_changes(self) -> int:
        """How many of them the process that ended last made."""
        return int(Path(f"{self.log}.count").read_text())

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


def state_of(run: Path, which: str = "latest") -> dict[str, Any]:
    """state.json of a checkpoint."""
    return json.loads((locate(run, which) / "state.json").read_text())
