"""Pickles that may hold text, bytes, numbers, lists, dicts and NumPy arrays, and nothing else.

A pickle names functions and the unpickler calls them, so a file from elsewhere could start anything. Here the few names
that NumPy writes for an array stand for functions of our own, and every other name is refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from vaekit.errors import DataError

Array = np.ndarray[Any, Any]
KINDS = "biufSU"  # of a NumPy type: numbers and text, never objects
# What Python's unpickler raises on damaged data, beside its own error.
BROKEN = (pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, struct.error)


class _Refused(Exception):
    """A name that no plain value needs."""


class _Type:
    """What `numpy.dtype` stands for: a type by its code, such as u1."""

    __slots__ = ("order", "type")

    def __init__(self, code: str | bytes, align: Any = False, copy: Any = False) -> None:
        self.type = np.dtype(code.decode("ascii") if isinstance(code, bytes) else code)
        if self.type.kind not in KINDS:
            raise _Refused(f"values of type {self.type}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.type = self.type.newbyteorder(order)


class _Values:
    """What an array is until its values come: `array` afterwards."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * kind.type.itemsize:
            raise _Refused("an array whose values are not its shape's")
        flat = np.frombuffer(data, kind.type)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _empty(*arguments: Any) -> _Values:
    return _Values()


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes in an old pickle


class _Marker:
    """What `numpy.ndarray` stands for: it is named, and never called."""

    def __init__(self, *arguments: Any) -> None:
        raise _Refused("a call of numpy.ndarray")


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Marker,
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,
    ("_codecs", "encode"): _encoded,
}


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Python's own in Python: the one in C sets memory aside for as many values as a damaged byte says."""

    dispatch = {  # noqa: RUF012, its own name; an array of bytes sets memory aside in the same way
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]  # type: ignore[attr-defined]
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise _Refused(f"the name {module}.{name}")
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("something outside the file")


def read_plain_pickle(data: bytes, name: str) -> Any:
    """What a pickle holds; text of Python 2 as bytes. DataError for one that holds, or asks for, anything else.

    Example:
        >>> read_plain_pickle(pickle.dumps({"labels": [3], "data": np.ones((1, 2), np.uint8)}, 2), "a batch")
        {'labels': [3], 'data': array([[1, 1]], dtype=uint8)}
    """
    try:
        return _arrays_in(_Unpickler(io.BytesIO(data), encoding="bytes").load())
    except _Refused as refused:
        raise DataError(f"{name} asks for {refused}, which no data set needs; it may do harm and is not read") from None
    except (*BROKEN, RecursionError, MemoryError) as error:
        raise DataError(f"{name} is no readable pickle of plain values ({type(error).__name__})") from None


def _arrays_in(value: Any) -> Any:
    """The value with each of our stand-ins replaced by its array."""
    match value:
        case dict():
            return {_arrays_in(key): _arrays_in(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_arrays_in(item) for item in value)
        case _Values():
            return value.array
        case None | bool() | int() | float() | str() | bytes():
            return value
    raise _Refused(f"a {type(value).__name__.lstrip('_')}")
