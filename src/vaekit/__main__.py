"""`python -m vaekit`, which is how torchrun starts it."""

from vaekit.cli.main import run

run()
