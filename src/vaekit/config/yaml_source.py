"""YAML to plain values and back, with the line of every key.

The scalars of YAML 1.2: `1e-3` is a number, and only `true` and `false` are booleans. (PyYAML follows YAML 1.1, which
reads `1e-3` as text, `on` as true and `1:30` as 90, keeps the last of two equal keys, and can build any class.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

Key = tuple[str, ...]  # ("training", "epochs"); an item of a list by its index, as text


class Fault(NamedTuple):
    """What is wrong with a document that is YAML all the same, or nearly."""

    line: int
    path: Key
    message: str


class Document(NamedTuple):
    """A YAML text as dicts, lists and scalars; `lines` says where each key and list item stands, from 1."""

    value: Any
    lines: dict[Key, int]
    faults: list[Fault]
    readable: bool  # False after a syntax error: then `value` is None


_TAG = "tag:yaml.org,2002:"
_DEEPEST = 100  # levels; `_Reading` and PyYAML are recursive, and a config has five
_MOST_VALUES = 10_000  # aliases of aliases can ask for more memory than there is


def _integer(text: str) -> int:
    unsigned = text.lstrip("+-")
    return int(text, {"0o": 8, "0x": 16}.get(unsigned[:2], 10))


def _float(text: str) -> float:
    return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))


class _Scalar(NamedTuple):
    pattern: re.Pattern[str]
    first: list[str]  # the characters that such a scalar can begin with
    read: Callable[[str], Any]


_SCALARS = {
    _TAG + "null": _Scalar(re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""], lambda text: None),
    _TAG + "bool": _Scalar(
        re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"), {"true": True, "false": False}.__getitem__
    ),
    _TAG + "int": _Scalar(re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789"), _integer),
    _TAG + "float": _Scalar(
        re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
        list("-+.0123456789"),
        _float,
    ),
    _TAG + "str": _Scalar(re.compile(r"(?!)"), [], str),
}
_MERGE = _TAG + "merge"


class _TooDeep(Exception):
    """More brackets in brackets than any config has. Holds the line."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars above; nodes are turned into values by `_Reading`."""

    yaml_implicit_resolvers = {}  # noqa: RUF012, PyYAML's own name and type
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1  # counted, because the depth at which Python gives up is not the same everywhere
        if self.depth > _DEEPEST:
            raise _TooDeep(self.peek_event().start_mark.line + 1)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Keeps the quotes that YAML 1.1 needs too, so that other tools read the same values from our files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # PyYAML writes a Unicode line break bare and then reads it as a space, unless the text is in double quotes.
    return dumper.represent_scalar(_TAG + "str", value, style=None if value.isprintable() else '"')


for _tag, _scalar in _SCALARS.items():
    if _scalar.first:
        _Loader.add_implicit_resolver(_tag, _scalar.pattern, _scalar.first)
        _Dumper.add_implicit_resolver(_tag, _scalar.pattern, _scalar.first)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<$"), ["<"])
_Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar(_TAG + "float", _float_text(value)))
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence(_TAG + "seq", value, flow_style=True))


def _float_text(value: float) -> str:
    return re.sub(r"(inf|nan)$", r".\1", repr(value))


def read_yaml(text: str) -> Document:
    """The document in `text`; whatever is wrong with it is in `faults`, never raised.

    Example:
        >>> read_yaml("rate: 1e-3").value
        {'rate': 0.001}
    """
    reading = _Reading()
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        value = None if node is None else reading.value(node, ())
    except yaml.YAMLError as error:
        return Document(None, {}, [_syntax(error)], readable=False)
    except _TooDeep as error:
        (line,) = error.args
        return Document(None, {}, [Fault(line, (), f"nested more than {_DEEPEST} levels deep")], readable=False)
    return Document(value, reading.lines, reading.faults, readable=True)


def write_yaml(value: Any) -> str:
    """YAML of dicts, lists and scalars, which `read_yaml` turns back into an equal value."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=100
    )
    return text


def _syntax(error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)  # absent on a ReaderError
    said = [str(part) for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part]
    message = ", ".join(said) or " ".join(str(error).split())
    hint = "; a value that holds or begins with a special character needs quotes, and indents are spaces"
    return Fault(mark.line + 1 if mark else 1, (), f"not YAML: {message}{hint}")


class _Reading:
    """One walk over a document's nodes."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self.faults: list[Fault] = []
        self._count = 0
        self._open: set[int] = set()  # the nodes that hold the present one: an alias may point at its own parent

    def value(self, node: yaml.Node, path: Key) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES} values")
        if id(node) in self._open:
            self._fault(node, path, "an alias may not point at what holds it")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _fault(self, node: yaml.Node, path: Key, message: str) -> None:
        self.faults.append(Fault(node.start_mark.line + 1, path, message))

    def _scalar(self, node: yaml.Node, path: Key) -> Any:
        scalar = _SCALARS.get(node.tag)
        if scalar is None or not isinstance(node, yaml.ScalarNode):
            tag = node.tag.replace(_TAG, "!!")
            self._fault(node, path, f"the tag '{tag}' is not allowed; write plain text, numbers or lists")
            return None
        text = node.value.lower() if node.tag == _TAG + "bool" else node.value
        try:
            return scalar.read(text)
        except (ValueError, KeyError):
            self._fault(node, path, f"'{node.value[:40]}' cannot be read as {node.tag.replace(_TAG, '!!')}")
            return None

    def _sequence(self, node: yaml.SequenceNode, path: Key) -> list[Any]:
        values = []
        for index, item in enumerate(node.value):
            self.lines.setdefault((*path, str(index)), item.start_mark.line + 1)
            values.append(self.value(item, (*path, str(index))))
        return values

    def _mapping(self, node: yaml.MappingNode, path: Key) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if key.tag == _MERGE:  # first of all, since a key that is written out wins wherever it stands
                merged |= self._merge(key, item, path)
        for key, item in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, path, "a key must be a name")
            elif key.value in own:
                first = self.lines[(*path, key.value)]
                self._fault(key, (*path, key.value), f"written twice, first on line {first}; keep one of them")
            else:
                self.lines[(*path, key.value)] = key.start_mark.line + 1
                own[key.value] = self.value(item, (*path, key.value))
        return merged | own

    def _merge(self, key: yaml.Node, item: yaml.Node, path: Key) -> dict[str, Any]:
        """The mapping after `<<:`, whose keys give way to the ones written out."""
        value = self.value(item, path)
        for name in value if isinstance(value, dict) else ():
            self.lines[(*path, name)] = key.start_mark.line + 1
        if isinstance(value, dict):
            return value
        self._fault(key, path, "'<<' takes one mapping, such as an alias of one")
        return {}
