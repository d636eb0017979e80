"""Random numbers as a pure function of counters: the same on every device, torch version and batch composition.

All arithmetic is on 32-bit words held in int64 and never overflows, so that eager, compiled and CUDA code agree.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # separates the counters 0, 1, 2 …

Word = int | Tensor


class Stream(IntEnum):
    """What the numbers are for; two streams with the same seed are independent."""

    ORDER = 1
    AUGMENT = 2
    BINARIZE = 3
    SPLIT = 4
    LIMIT = 5


def _mix(word: Word) -> Word:
    # lowbias32 with C. Wellons' 2022 constants, github.com/skeeto/hash-prospector. The second is 0xD35A2D97 - 2**32:
    # below 2**31 in size, so that a product with a 32-bit word fits into int64.
    word = word ^ (word >> 16)
    word = (word * 0x21F0AAAD) & _WORD
    word = word ^ (word >> 15)
    word = (word * -0x2CA5D269) & _WORD
    return word ^ (word >> 15)


def _absorb(state: Word, value: Word) -> Word:
    return _mix(_mix((value + _GOLDEN) & _WORD) ^ state)


def counter_hash(stream: Stream, seed: int, *counters: Word) -> Word:
    """A word in [0, 2**32) for each combination of the counters (integers or int64 tensors that broadcast).

    Example:
        >>> counter_hash(Stream.ORDER, 0, 1, 2) == counter_hash(Stream.ORDER, 0, 1, 2)
        True
    """
    state = _absorb(_absorb(_absorb(0, int(stream)), seed), seed >> 32)
    for counter in counters:
        state = _absorb(state, counter)
    return state


def permutation(stream: Stream, seed: int, turn: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """A permutation of 0 … count - 1, int64 (count,), that depends on the four numbers alone.

    Example:
        >>> sorted(permutation(Stream.ORDER, 0, 0, 4).tolist())
        [0, 1, 2, 3]
    """
    keys = counter_hash(stream, seed, turn, torch.arange(count, device=device))
    return torch.argsort(
        torch.as_tensor(keys), stable=True
    )  # stable: equal keys are rare, but must not differ by device


def counter_uniform(
    seed: int, epoch: Word, indices: Tensor, columns: int, *, stream: Stream = Stream.AUGMENT
) -> Tensor:
    """Uniform numbers in [0, 1), float32 (B, columns): a function of seed, epoch, sample index and column only.

    Give `epoch` as a tensor inside a compiled step, or it compiles once per epoch.

    Example:
        >>> counter_uniform(0, 0, torch.tensor([3, 8]), 2).shape
        torch.Size([2, 2])
    """
    column = torch.arange(columns, device=indices.device)
    words = torch.as_tensor(counter_hash(stream, seed, epoch, indices[:, None], column))
    return (words >> 8).to(torch.float32) * 2.0**-24  # 24 bits: all that float32 holds, so that 1.0 never appears
