"""A recipe and overrides → one `Config`, or one ConfigError that lists every problem with file and line.

`load(to_yaml(config)) == config`: the config.yaml of a run repeats it.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.config.paths import KEYS as PATHS
from vaekit.config.paths import in_run, is_run
from vaekit.config.schema import Config, Part
from vaekit.config.validate import Problem, convert, layout, option_problems, part_defaults, plain
from vaekit.config.yaml_source import Key, read_yaml, write_yaml
from vaekit.errors import ConfigError, suggest

__all__ = [
    "Override",
    "Problem",
    "from_dict",
    "load_config",
    "named_options",
    "option_problems",
    "override_config",
    "recipe_names",
    "recipe_path",
    "to_dict",
    "to_yaml",
]

Check = Callable[[Config], Iterable[Problem]]
Override = str | Mapping[str, Any]  # "section.key=value", or a mapping of such keys to values


def load_config(recipe: str, overrides: Sequence[Override] = (), *, check: Check | None = None) -> Config:
    """The config of a recipe (a name, or a YAML file) with `section.key=value` overrides applied.

    `check` may report what the schema cannot know, such as the options of a part; its problems get their file and
    line here. Raises one ConfigError for all problems.

    Example:
        >>> load_config("digits", ["training.epochs=5"]).training.epochs
        5.0
    """
    path = _find(recipe)
    # An installed recipe goes by its file name alone; a user's own file as it was given, so that it can be opened.
    where = path.name if recipe in recipe_names() else recipe
    document = read_yaml(_text(path, where))
    draft = _Draft(where, places={key: _Place(line, f"{where}:{line}") for key, line in document.lines.items()})
    for fault in document.faults:
        draft.add(_Place(fault.line, f"{where}:{fault.line}"), Problem(fault.path, fault.message))
    draft.fill(document.value)
    if is_run(path.parent):
        draft.anchor(path.parent)
    _apply(overrides, draft)
    config = draft.finish(check if document.readable else None)
    return _with_unit(config, "epochs" if is_run(path.parent) else "steps")


def override_config(config: Config, overrides: Sequence[Override], where: str, *, check: Check | None = None) -> Config:
    """A config that exists already (a run's own, called `where` in errors) with overrides applied."""
    draft = _Draft(where)
    draft.fill(to_dict(config))
    _apply(overrides, draft)
    return _with_unit(draft.finish(check), "steps")


def _with_unit(config: Config, unit: str) -> Config:
    """The warm-up with its unit, where the schedule's unit could be taken for it.

    Configs are stored like that. In those of older runs a number without a unit was in that of the schedule.
    """
    training = config.training
    if training.schedule_unit == "step" or isinstance(training.warmup, str) or training.warmup == 0:
        return config
    return replace(config, training=replace(training, warmup=f"{training.warmup:g} {unit}"))


def _apply(overrides: Sequence[Override], draft: _Draft) -> None:
    wishes = [wish for order, given in enumerate(overrides) for wish in _read_given(given, order, draft)]
    for wish in sorted(wishes, key=_Wish.depth):
        draft.override(wish)


def from_dict(mapping: Mapping[str, Any], where: str) -> Config:
    """The config that `to_dict` wrote; `where` names its file in the ConfigError for a damaged or older one."""
    draft = _Draft(where)
    draft.fill(plain(mapping))
    return _with_unit(draft.finish(None), "epochs")


def to_dict(config: Config) -> dict[str, Any]:
    """The whole config as JSON can hold it; a part without options is its bare name."""
    result: dict[str, Any] = plain(config)
    return result


def to_yaml(config: Config) -> str:
    """The whole config, defaults included, as YAML that `load_config` reads back to an equal one.

    Equal where the options of its parts are themselves plain values: a tuple comes back as a list.
    """
    return write_yaml(to_dict(config))


def recipe_names() -> list[str]:
    """The names of the recipes that come with vaekit, sorted."""
    return sorted(path.stem for path in _recipes().glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe. Raises ConfigError for an unknown name.

    Example:
        >>> recipe_path("digits").name
        'digits.yaml'
    """
    if name not in recipe_names():
        hint = suggest(name, recipe_names())
        raise ConfigError(f"unknown recipe '{name}'; {hint}; or give the path of a YAML file, such as ./my.yaml")
    return _recipes() / f"{name}.yaml"


def _recipes() -> Path:
    return Path(str(resources.files("vaekit.config.recipes")))


def _find(recipe: str) -> Path:
    path = Path(recipe)
    looks_like_a_path = "/" in recipe or path.suffix in (".yaml", ".yml")
    if recipe in recipe_names() or not (looks_like_a_path or path.exists()):
        return recipe_path(recipe)  # a recipe's name means the same in every folder
    if path.is_dir():
        raise ConfigError(f"'{recipe}' is a folder; give a YAML file, such as {path / 'config.yaml'}")
    if not path.exists():
        known = f"; the recipe of that name is '{path.stem}'" if path.stem in recipe_names() else ""
        raise ConfigError(f"no file '{recipe}'{known or '; check the path, or give the name of a recipe'}")
    return path


def _text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a byte-order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None


class _Place(NamedTuple):
    """Where a value was written, and its order among the places."""

    order: float
    text: str


class _Wish(NamedTuple):
    """One override."""

    path: Key
    value: Any
    place: _Place

    def depth(self) -> int:
        """Wholes come before their details, so that the order of the command line does not matter."""
        names_a_part = self.path[-1] == "kind" and self.path[:-1] in part_defaults()
        return len(self.path) - names_a_part


def _read_given(given: Override, order: int, draft: _Draft) -> Iterator[_Wish]:
    """The wishes in one override: text as on the command line, or a mapping of dotted keys to values."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            path = tuple(str(name).split("."))
            if len(path) == 1 and path not in layout():
                yield from _read_given(named_options({path[0]: value}), order, draft)
            elif path in layout() and path not in part_defaults() and isinstance(value, Mapping):
                yield from _read_given({f"{name}.{key}": item for key, item in value.items()}, order, draft)
            else:
                yield _Wish(path, plain(value, path), _Place(1e9 + order, f"override {{{name!r}: …}}"))
    elif isinstance(given, str):
        wish = _read_override(given, order, draft)
        yield from [] if wish is None else [wish]
    else:
        raise ConfigError(
            f"an override is a {type(given).__name__}; give text such as 'training.epochs=10', or a mapping such as "
            "{'training.epochs': 10}"
        )


def named_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as dotted keys: an option by its last name where no other has it.

    ConfigError for a name that none or several have; those are given in a mapping.

    Example:
        >>> named_options({"epochs": 3})
        {'training.epochs': 3}
    """
    found = {}
    for name, value in options.items():
        homes = [".".join(path) for path in _keys() if path[-1] == name]
        if len(homes) != 1:
            which = f"write one of {', '.join(homes)} in a mapping, {{'{homes[0]}': …}}" if homes else _meant_key(name)
            raise ConfigError(f"unknown option '{name}'; {which}")
        found[homes[0]] = value
    return found


def _keys() -> list[Key]:
    """Every key that holds one value or part, without the options of parts."""
    holders = [path for path, default in layout().items() if not isinstance(default, Part)]
    keys = [(*path, name) for path in holders for name in vars(layout()[path])]
    return [key for key in keys if key not in layout() or key in part_defaults()]


def _meant_key(name: str) -> str:
    """Which key may have been meant by its last name, and how any key is given."""
    last = {path[-1]: ".".join(path) for path in _keys()}
    close = [last[near] for near in difflib.get_close_matches(name, last, n=1)]
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}write {{'section.key': value}}, such as {{'objective.beta': 4}}"


def _read_override(text: str, order: int, draft: _Draft) -> _Wish | None:
    place = _Place(1e9 + order, f"override '{text}'")
    name, equals, written = text.partition("=")
    path = tuple(step.strip() for step in name.split("."))
    if not equals or not all(path):
        draft.add(place, Problem((), "must be written section.key=value, such as training.epochs=10"))
        return None
    if not written.strip():
        draft.add(place, Problem(path, "no value after '='; write null for none, or '' for an empty text"))
        return None
    document = read_yaml(written)
    for fault in document.faults:
        draft.add(place, Problem(path + fault.path, fault.message))
    return None if document.faults else _Wish(path, document.value, place)


@dataclass
class _Draft:
    """A config that is being put together: its tree, where each value came from, and what is wrong so far.

    In the tree every part that was written is a mapping that holds its kind.
    """

    where: str
    places: dict[Key, _Place] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[_Place, Problem]] = field(default_factory=list)

    def add(self, place: _Place, problem: Problem) -> None:
        self.problems.append((place, problem))

    def fill(self, value: Any) -> None:
        """Take over a whole document. A section or part that was left empty keeps its defaults."""
        if not isinstance(value, dict | None):
            sections = ", ".join(path[0] for path in layout() if len(path) == 1)
            self.add(self._place(()), Problem((), f"must be a mapping of sections ({sections}), got {value!r}"))
            return
        self.tree = value or {}
        for path, default in layout().items():
            parent = self._container(path[:-1]) if path else None
            if parent is None or path[-1] not in parent:
                continue
            written = parent[path[-1]]
            if written is None:
                del parent[path[-1]]
            elif isinstance(default, Part):
                parent[path[-1]] = _as_mapping(written, default.kind)

    def anchor(self, run: Path) -> None:
        """Let the paths of a run's config.yaml name what lies in the run."""
        for section, key in PATHS:
            written = self._container((section,)) or {}
            if key in written:
                written[key] = in_run(written[key], run)

    def override(self, wish: _Wish) -> None:
        """Put one value in its place; naming another kind of part drops the options of the old one."""
        path, value, place = wish
        default = layout().get(path)
        if isinstance(default, Part) and isinstance(value, dict) and "kind" not in value:
            for name, option in value.items():
                self.override(_Wish((*path, name), option, place))
        elif isinstance(default, Part):
            self._set(path, _as_mapping(value, default.kind), place)
        elif default is not None:
            example = f"{'.'.join(path)}.{next(iter(vars(default)))}"
            self.add(place, Problem(path, f"a section cannot be set whole; set its keys, such as {example}=…"))
        elif path[:-1] in part_defaults() and path[-1] == "kind":
            if self._kind(path[:-1]) != value:
                self._set(path[:-1], {"kind": value}, place)
        else:
            if path[:-1] in part_defaults() and self._container(path[:-1]) is None:
                self._set(path[:-1], {"kind": self._kind(path[:-1])}, place)
            self._set(path, value, place)

    def finish(self, check: Check | None) -> Config:
        """The config. Raises ConfigError for everything that was found on the way, and that `check` finds."""
        config, nested_problems = convert(Config, _nested(self.tree), ())
        found = [Problem(_flat(problem.path), problem.message) for problem in nested_problems]
        if not found:
            found = list(check(config)) if check else []
        elif check:
            # So that a wrong option of a part is told at once with the rest, check the parts of what remains valid.
            rest, _ = convert(Config, _nested(_without(self.tree, [problem.path for problem in found])), ())
            if rest is not None:
                found += [problem for problem in check(rest) if self._in_written_part(problem.path)]
        for problem in found:
            self.add(self._place(problem.path), problem)
        if self.problems:
            raise ConfigError(self._message())
        result: Config = config
        return result

    def _set(self, path: Key, value: Any, place: _Place) -> None:
        parent = self.tree
        for depth, step in enumerate(path[:-1], start=1):
            self.places.setdefault(path[:depth], place)
            child = parent.setdefault(step, {})
            if not isinstance(child, dict):
                outer = ".".join(path[:depth])
                self.add(place, Problem(path, f"{outer} is {child!r}, which has no keys; set it whole: {outer}=…"))
                return
            parent = child
        parent[path[-1]] = value
        self.places = {key: old for key, old in self.places.items() if key[: len(path)] != path} | {path: place}

    def _container(self, path: Key) -> dict[str, Any] | None:
        """The mapping at a path, if there is one."""
        found: Any = self.tree
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else None

    def _kind(self, path: Key) -> Any:
        return (self._container(path) or {}).get("kind", part_defaults()[path].kind)

    def _place(self, path: Key) -> _Place:
        """Where a path was written, or else what holds it."""
        known = (self.places[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in self.places)
        return next(known, _Place(0, self.where))

    def _in_written_part(self, path: Key) -> bool:
        return any(path[: len(part)] == part and self._container(part) for part in part_defaults())

    def _message(self) -> str:
        lines = []
        for place, problem in sorted(self.problems, key=lambda found: found[0].order):
            name = ".".join(problem.path)
            lines.append(f"{place.text}: {name}: {problem.message}" if name else f"{place.text}: {problem.message}")
        lines = list(dict.fromkeys(lines))
        return "\n".join(lines if len(lines) == 1 else [f"{len(lines)} problems in {self.where}:", *lines])


def _as_mapping(written: Any, default_kind: str) -> Any:
    """A part as its flat mapping, whichever way it was written; anything else is left for validation to refuse."""
    if isinstance(written, str):
        return {"kind": written}
    return {"kind": default_kind, **written} if isinstance(written, dict) else written


def _nested(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree as the dataclasses have it: the options of a part in a mapping of their own."""
    nested = copy.deepcopy(tree)
    for *above, name in part_defaults():
        parent: Any = nested
        for step in above:
            parent = parent.get(step) if isinstance(parent, dict) else None
        if isinstance(parent, dict) and isinstance(parent.get(name), dict):
            kind, options = parent[name]["kind"], {k: v for k, v in parent[name].items() if k != "kind"}
            parent[name] = {"kind": kind, "options": options}
    return nested


def _flat(path: Key) -> Key:
    """A path in the nested tree as it is written in a config."""
    for part in part_defaults():
        if path[: len(part) + 1] == (*part, "options"):
            return part + path[len(part) + 1 :]
    return path


def _without(tree: dict[str, Any], paths: Iterable[Key]) -> dict[str, Any]:
    """The tree without the values at these paths; of a list or an option, without the whole of it."""
    rest = copy.deepcopy(tree)
    for path in paths:
        parent: Any = rest
        for step in path[:-1]:
            if not isinstance(parent.get(step), dict):
                parent.pop(step, None)
                break
            parent = parent[step]
        else:
            parent.pop(path[-1], None)
    return rest
