"""Errors that a user can cause, each with the exit code of its kind.

The command line prints the message on one line, without a traceback, and exits with `exit_code`.
A message says what came, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VaekitError(Exception):
    """Anything that is not a bug of ours. Raise one of the subclasses."""

    exit_code = 1


class VaekitWarning(UserWarning):
    """Something that a reader of the result should know; the command line says it once, on a line of its own."""


class ConfigError(VaekitError):
    """A wrong option, recipe name or combination of parts."""

    exit_code = 2


class DataError(VaekitError):
    """Missing, unreadable or unsuitable images."""

    exit_code = 3


class CheckpointError(VaekitError):
    """A checkpoint that is absent, damaged or of another model."""

    exit_code = 4


class NumericalError(VaekitError):
    """Training that diverged, or memory that ran out."""

    exit_code = 5


class StorageError(VaekitError):
    """A disk that is full or a folder that cannot be written."""

    exit_code = 6


class BusyError(VaekitError):
    """A run folder that another process holds, or that already holds a run."""

    exit_code = 7


class LostProcessError(VaekitError):
    """One of several processes that train together is gone; its own error says why."""

    exit_code = 6


def suggest(name: str, allowed: Iterable[str]) -> str:
    """`did you mean 'vamp'? ` when a close name exists, then the whole choice.

    Example:
        >>> suggest("vampp", ["standard", "vamp"])
        "did you mean 'vamp'? choose one of: standard, vamp"
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}choose one of: {', '.join(names)}"


def missing_extra(what: str, extra: str, package: str = "", instead: str = "") -> str:
    """The sentence for a package that a plain install does not bring; `extra` is its name in pyproject.toml.

    Example:
        >>> missing_extra("logging.wandb", "wandb")
        "logging.wandb needs the package wandb; make install EXTRAS=wandb, or pip install 'vaekit[wandb]'"
    """
    ways = f"make install EXTRAS={extra}, or pip install 'vaekit[{extra}]'"
    return f"{what} needs the package {package or extra}; {ways}{f', or {instead}' if instead else ''}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host has no memory left."""
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
