"""Plain values against annotations: the typed object, or every problem in words.

pydantic builds the object. The words are ours, because its errors of a union list every branch, and because a
`Literal[1]` of its takes `true`.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from vaekit.config.schema import Config, Part, Range
from vaekit.config.yaml_source import Key
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class Problem(NamedTuple):
    """What is wrong with one key; `path` is for example `("model", "network", "widths")`."""

    path: Key
    message: str


def option_problems(
    path: Key,
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    written_as: Mapping[Any, Any] = types.MappingProxyType({}),
) -> tuple[dict[str, Any], list[Problem]]:
    """The options as `factory` wants them (lists made tuples where annotated so), and what is wrong with them.

    Options are the keyword-only parameters of `factory`: those that may stand before a `*` are for
    `vaekit.models.build` to fill in. `written_as` gives, for an annotation that no YAML can hold (a function of the
    step), the one that a config has in its place. An option with a problem is not among the converted ones.

    Example:
        >>> def trunk(shape, *, widths: tuple[int, ...] = (64,)): ...
        >>> option_problems(("network",), trunk, {"widths": [8, 8]})
        ({'widths': (8, 8)}, [])
    """
    allowed = _options(factory)
    problems = [
        Problem((*path, name), "missing; it has no default")
        for name, (_, required) in allowed.items()
        if required and name not in options
    ]
    converted = {}
    for name, value in options.items():
        if name not in allowed:
            problems.append(Problem((*path, name), f"unknown option{_meant(name, allowed) or '; it takes none'}"))
            continue
        annotation = written_as.get(allowed[name][0], allowed[name][0])
        result, found = convert(annotation, plain(value, (*path, name)), (*path, name))
        problems += found
        if not found:
            converted[name] = result
    return converted, problems


def _options(factory: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Name → (annotation, required) of each keyword-only parameter."""
    return {
        parameter.name: (
            Any if parameter.annotation is parameter.empty else parameter.annotation,
            parameter.default is parameter.empty,
        )
        for parameter in inspect.signature(factory, eval_str=True).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def plain(value: Any, path: Key = ()) -> Any:
    """A config, or a part of one, as dicts, lists and scalars, a `Part` without options being its bare name.

    Raises ConfigError for what neither YAML nor JSON can hold.
    """
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value)  # NumPy's numbers are numbers too, and YAML would not know them
        case PurePath():
            return str(value)
        case Part(kind, options):
            rest = plain(options, path)
            return {"kind": kind, **rest} if rest else kind
        case Mapping():
            return {str(key): plain(item, (*path, str(key))) for key, item in value.items()}
        case list() | tuple():
            return [plain(item, (*path, str(index))) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), (*path, f.name)) for f in dataclasses.fields(value)}
    raise ConfigError(f"{'.'.join(path)}: a config holds text, numbers, lists and mappings, got {value!r}")


def convert(annotation: Any, value: Any, path: Key) -> tuple[Any, list[Problem]]:
    """The object that `annotation` describes, made from a plain value; None where there are problems."""
    from pydantic import ValidationError  # 0.1 s that `vaekit --help` need not pay

    problems = list({p.path: p for p in (*_explain(annotation, value, path), *_unbounded(value, path))}.values())
    if problems:
        return None, problems
    try:
        # In JSON a list may become a tuple and a mapping a dataclass, while true is no 1 and 12.0 no whole number.
        return _adapter(annotation).validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        found = ((tuple(str(step) for step in e["loc"]), e["msg"]) for e in error.errors())
        return None, [Problem((*path, *where), message) for where, message in found]


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)


def _accepts(annotation: Any, value: Any) -> bool:
    from pydantic import ValidationError

    try:
        _adapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def _unbounded(value: Any, path: Key) -> Iterator[Problem]:
    """JSON has no infinity, and training has no use for one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unbounded(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unbounded(item, (*path, str(index)))
    elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        yield Problem(path, f"must be a finite number, got {_shown(value)}")


def _explain(annotation: Any, value: Any, path: Key) -> Iterator[Problem]:
    """The problems of a value, at the deepest key that is to blame."""
    inner, bounds = _split(annotation)
    refused = Problem(path, f"must be {_words(annotation)}, got {_shown(value)}{_close(value, _choices(annotation))}")
    if _is_union(inner):
        branches = [m for m in get_args(inner) if _shape_of(value) in _shapes(_split(m)[0])]
        if len(branches) == 1 and isinstance(value, list | dict):
            yield from _explain(branches[0], value, path)
        elif all(any(_explain(branch, value, path)) for branch in branches):
            yield refused
    elif dataclasses.is_dataclass(inner):
        yield from _explain_fields(inner, value, path) if isinstance(value, dict) else [refused]
    elif get_origin(inner) in (list, tuple):
        items = _items(inner, value) if isinstance(value, list) else None
        if items is None:
            yield refused
        for index, item in enumerate(items or ()):
            yield from _explain(item, value[index], (*path, str(index)))
    elif get_origin(inner) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(inner)):
            yield refused
    elif not _accepts(inner, value):
        yield refused
    elif bounds and not _accepts(annotation, value):
        yield Problem(path, f"must be {_bounds(bounds)}, got {_shown(value)}")


def _explain_fields(kind: Any, value: dict[str, Any], path: Key) -> Iterator[Problem]:
    hints = get_type_hints(kind, include_extras=True)
    allowed = [field.name for field in dataclasses.fields(kind)]
    for key, item in value.items():
        if key in allowed:
            yield from _explain(hints[key], item, (*path, key))
        else:
            home = _elsewhere(key) if kind in {type(v) for v in layout().values()} else None
            hint = f"; did you mean '{home}'?" if home else _meant(key, allowed)
            yield Problem((*path, key), f"unknown key{hint}")


def _split(annotation: Any) -> tuple[Any, Range | None]:
    """An annotation without its `Annotated`, and the bounds that stood there."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    inner, *extras = get_args(annotation)
    return inner, next((extra for extra in extras if isinstance(extra, Range)), None)


def _is_union(inner: Any) -> bool:
    return get_origin(inner) in (Union, types.UnionType)


_SHAPES = {
    int: "number", float: "number", bool: "boolean", types.NoneType: "null", str: "text", list: "list", dict: "mapping"
}  # fmt: skip


def _shape_of(value: Any) -> str:
    return _SHAPES.get(type(value), "text")


def _shapes(inner: Any) -> set[str]:
    """The shapes of plain value that a member of a union can be written as."""
    if inner is Any:
        return set(_SHAPES.values())
    origin = get_origin(inner)
    if origin is Literal:
        return {_shape_of(choice) for choice in get_args(inner)}
    if origin in (list, tuple):
        return {"list"}
    if dataclasses.is_dataclass(inner) or origin in (dict, Mapping):
        return {"mapping"}
    return {_SHAPES.get(inner, "text")}


def _choices(annotation: Any) -> list[str]:
    """The words among which a value may choose."""
    inner, _ = _split(annotation)
    if get_origin(inner) is Literal:
        return [str(choice) for choice in get_args(inner)]
    return [choice for member in get_args(inner) for choice in _choices(member)] if _is_union(inner) else []


def _items(inner: Any, value: Sequence[Any]) -> list[Any] | None:
    """The annotation of each item; None if there are too many or too few."""
    arguments = list(get_args(inner))
    if get_origin(inner) is list:
        return arguments * len(value)
    if arguments[1:] == [...]:
        return arguments[:1] * len(value)
    return arguments if len(arguments) == len(value) else None


_NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text", types.NoneType: "null"}


def _words(annotation: Any) -> str:
    """An annotation for people: 'a number greater than 0 or null'."""
    inner, _ = _split(annotation)
    if _is_union(inner):
        members = ([str(c) for c in get_args(m)] if get_origin(m) is Literal else [_words(m)] for m in get_args(inner))
        return _either([words for member in members for words in member])
    if get_origin(inner) in (list, tuple):
        return f"a list {_bare(annotation)}"
    return f"a {_bare(annotation)}" if inner in (int, float) else _bare(annotation)


def _bare(annotation: Any) -> str:
    inner, bounds = _split(annotation)
    arguments = get_args(inner)
    if _is_union(inner):
        return _words(inner)
    if get_origin(inner) is Literal:
        return _either([str(choice) for choice in arguments])
    if get_origin(inner) in (list, tuple):
        endless = get_origin(inner) is list or arguments[1:] == (...,)
        items = [_bare(argument) for argument in arguments if argument is not ...]
        return f"[{', '.join(items)}{', …' if endless else ''}]"
    if inner is Part:
        return "a name, or a mapping of 'kind' and options"
    if dataclasses.is_dataclass(inner):
        return f"a mapping of {_either([field.name for field in dataclasses.fields(inner)])}"
    name = _NAMES.get(inner) or ("a mapping" if _shapes(inner) == {"mapping"} else str(inner))
    return f"{name} {_bounds(bounds)}".replace(" at ", " of at ", 1) if bounds else name


def _either(choices: list[str]) -> str:
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)


def _bounds(bounds: Range) -> str:
    said = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
    return " and ".join(f"{said[key]} {limit:g}" for key, limit in vars(bounds).items() if limit is not None)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _close(name: Any, allowed: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(name), [str(choice) for choice in allowed], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _meant(name: str, allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    return _close(name, names) or (f"; choose one of: {', '.join(names)}" if names else "")


def _elsewhere(key: str) -> str | None:
    """The full name of a key that was written in the wrong section."""
    homes = [".".join((*path, key)) for path, section in layout().items() if key in vars(section)]
    return homes[0] if len(homes) == 1 else None


@cache
def layout() -> dict[Key, Any]:
    """Key → default of every section and part of a config."""

    def inside(value: Any, path: Key) -> Iterator[tuple[Key, Any]]:
        yield path, value
        if not isinstance(value, Part):
            for field in dataclasses.fields(value):
                child = getattr(value, field.name)
                if dataclasses.is_dataclass(child):
                    yield from inside(child, (*path, field.name))

    return dict(inside(Config(), ()))


def part_defaults() -> dict[Key, Part]:
    """Key → default of every part of a config."""
    return {path: value for path, value in layout().items() if isinstance(value, Part)}
