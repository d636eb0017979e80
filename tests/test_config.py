"""The config: what is refused, where the message points, and that nothing is lost between Python and YAML."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.config.load import (
    Problem,
    from_dict,
    load_config,
    named_options,
    option_problems,
    recipe_names,
    recipe_path,
    to_dict,
    to_yaml,
)
from vaekit.config.schema import (
    Config,
    Count,
    DataConfig,
    ModelConfig,
    Part,
    Positive,
    RecipeConfig,
    Schedule,
    ScheduleConfig,
    TrainingConfig,
)
from vaekit.config.yaml_source import read_yaml, write_yaml
from vaekit.errors import ConfigError
from vaekit.training.combinations import read_config


def load_text(folder: Path, text: str, *overrides: str, **options: Any) -> Config:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), overrides, **options)


def refusal(folder: Path, text: str, *overrides: str, **options: Any) -> str:
    """The message, with the file called mine.yaml."""
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, *overrides, **options)
    return str(caught.value).replace(f"{folder}/", "")


def trunk(inputs: int, *, widths: tuple[Count, ...] = (8,), norm: Literal["none", "batch"] = "none") -> None: ...


def density(*, scale: Positive | Literal["optimal"] = "optimal", mean: float) -> None: ...


def bound(*, beta: Schedule = 1.0, samples: Count | None = None) -> None: ...


def colour(*, channels: Literal[1, 3] = 1) -> None: ...


def check(config: Config) -> Iterator[Problem]:
    if config.model.network.kind != "conv":
        yield Problem(("model", "network"), f"unknown network '{config.model.network.kind}'")
    yield from option_problems(("model", "network"), trunk, config.model.network.options)[1]


# Numbers of a config, text that YAML could take for something else, and any other text.
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, max_value=1e300)
texts = st.sampled_from(
    ["on", "null", "1e-3", "010", "1:30", "~", "<<", "=", "2020-01-01", "- a", "a: b", "", " x\n", "\x85", "a\u2028b"]
)
words = texts | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | words
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=8)
options = st.dictionaries(words.filter(lambda name: name != "kind"), values, max_size=3)
parts = st.builds(Part, words, options)
sizes = st.none() | st.integers(1, 999) | st.tuples(st.integers(1, 99), st.integers(1, 99))
configs = st.builds(
    Config,
    name=words,
    recipe=st.builds(RecipeConfig, about=words),
    data=st.builds(DataConfig, size=sizes, path=st.none() | words, binarize=st.sampled_from(["none", "dynamic"])),
    model=st.builds(ModelConfig, latent_dim=st.integers(1), network=parts, prior=parts, likelihood=parts),
    objective=parts,
    training=st.builds(
        TrainingConfig,
        epochs=st.floats(min_value=1e-300, max_value=1e9),
        learning_rate=positive,
        clip=st.none() | positive,
        betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
        compile=st.sampled_from(["auto", "on", "off"]),
    ),
)
thorough = settings(max_examples=20, deadline=None)


@thorough
@given(config=configs)
def test_yaml_gives_back_the_config(config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert load_text(tmp_path_factory.getbasetemp(), to_yaml(config)) == config


@thorough
@given(config=configs)
def test_json_gives_back_the_config(config: Config) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False)), "state.json") == config


@thorough
@given(value=values)
def test_other_tools_read_the_same_text_from_our_yaml(value: Any) -> None:
    def only_text(item: Any) -> Any:
        """PyYAML follows YAML 1.1, which knows fewer floats; text must not turn into anything else there."""
        if isinstance(item, dict):
            return {key: only_text(inner) for key, inner in item.items()}
        return [only_text(inner) for inner in item] if isinstance(item, list) else item if type(item) is str else 0

    if not any(word in repr(value) for word in ("'<<'", "'='")):  # special in YAML 1.1 even where they are quoted
        text = only_text(value)
        assert yaml.safe_load(write_yaml(text)) == text


sections = [field.name for field in dataclasses.fields(Config)]
keys = st.sampled_from(["kind", "epochs", "size", "betas", "channels", "network", "likelihood", "clip", "about", "x"])


@thorough
@given(tree=st.dictionaries(st.sampled_from(sections), values | st.dictionaries(keys, values, max_size=4)))
def test_whatever_is_written_gives_a_config_or_a_config_error(tree: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(from_dict(tree, "state.json"), Config)


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "[1e-3, 1E5, .5, -2e3, 1e-08, 3., -.inf, 10, 010, 0x1f, true, on, yes, 1:30, 2020-01-01, null, '1e-3']"
    expected = [1e-3, 1e5, 0.5, -2e3, 1e-8, 3.0, -float("inf"), 10, 10, 31, True, "on", "yes", "1:30", "2020-01-01"]
    assert [(v, type(v)) for v in read_yaml(text).value] == [(v, type(v)) for v in [*expected, None, "1e-3"]]


def test_anchors_and_merged_mappings_are_read() -> None:
    document = read_yaml("base: &base {a: 1, b: 2}\nsame: *base\nmore:\n  b: 3\n  <<: *base\n")
    assert document.value == {"base": {"a": 1, "b": 2}, "same": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}}


ALIASES_OF_ALIASES = "a: &a [1]\n" + "".join(
    f"{k}: &{k} [{f'*{old},' * 9}]\n" for old, k in ("ab", "bc", "cd", "de", "ef")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: !!python/object/apply:os.getcwd []", "the tag '!!python/object/apply:os.getcwd' is not allowed"),
        ("a: 1\nb: !!int ten", "'ten' cannot be read as !!int"),
        ("a: 1\nb: &loop [*loop]", "may not point at what holds it"),
        ("a: 1\n? [x]\n: 2", "a key must be a name"),
        ("a: 1\nb: {c: 1, c: 2}", "written twice, first on line 2"),
        ("a: 1\nb: [", "not YAML"),
        ("a: 1\nb: \x07", "not YAML"),
        ("a: " + "[" * 600, "nested more than 100 levels deep"),
        (ALIASES_OF_ALIASES, "more than 10000"),
    ],
)
def test_unwanted_yaml_is_a_fault_and_not_an_exception(text: str, said: str) -> None:
    assert said in " ".join(fault.message for fault in read_yaml(text).faults)


def test_a_hundred_levels_can_be_read() -> None:
    assert not read_yaml("a: " + "[" * 99 + "]" * 99).faults
    assert read_yaml("a: " + "[" * 100 + "]" * 100).faults


def test_all_problems_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = "data:\n  binarize: dynamc\ntraining:\n  epocs: 3\n  seed: 1\n  seed: 2\nmodel:\n  network: {width: [8]}\n"
    assert refusal(tmp_path, text, "training.epochs=-1", check=check).splitlines() == [
        "5 problems in mine.yaml:",
        "mine.yaml:2: data.binarize: must be none, dynamic, fixed or threshold, got 'dynamc'; did you mean 'dynamic'?",
        "mine.yaml:4: training.epocs: unknown key; did you mean 'epochs'?",
        "mine.yaml:6: training.seed: written twice, first on line 5; keep one of them",
        "mine.yaml:8: model.network.width: unknown option; did you mean 'widths'?",
        "override 'training.epochs=-1': training.epochs: must be greater than 0 and at most 1e+09, got -1",
    ]


def test_a_single_problem_is_a_single_line(tmp_path: Path) -> None:
    expected = "mine.yaml:2: training.epochs: must be a number greater than 0 and of at most 1e+09, got 'ten'"
    assert refusal(tmp_path, "training:\n  epochs: ten\n") == expected


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=ten",
        "training.epochs='3'",
        "training.epochs=.inf",
        "training.epochs=1e999",
        "training.epochs=true",
        "training.epochs=null",
        "training.batch_size=12.5",
        "training.batch_size=12.0",
        "training.batch_size=true",
        "training.betas=[0.9]",
        "training.betas=[0.9, 1]",
        "training.deterministic=yes",
        "training.deterministic=1",
        "training.learning_rate.base=1",
        "data.size=[1, 2, 3]",
        "data.size=1.5",
        "data.channels=2",
        "data.channels=true",
        "name=3",
        "objective=3",
        "objective={kind: 3}",
        "training.epocs=3",
        "trainin.epochs=3",
        "training=3",
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"^override "):
        load_config("digits", [override])


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training..epochs=3", "training.epochs=", "data.path=["])
def test_a_malformed_override_is_refused_by_its_text(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("digits", [override])
    assert str(caught.value).startswith(f"override '{override}': ")


def test_a_key_in_the_wrong_section_is_told_its_place(tmp_path: Path) -> None:
    assert "did you mean 'model.latent_dim'?" in refusal(tmp_path, "latent_dim: 3\n")


def test_overrides_reach_every_depth() -> None:
    config = load_config(
        "digits",
        ["data.size=[28,20]", "training.learning_rate=1e-3", "model.network.widths=[32,64]", "objective.beta=4"],
    )
    found = (config.data.size, config.training.learning_rate, config.model.network.options["widths"], config.objective)
    assert found == ((28, 20), 1e-3, [32, 64], Part("elbo", {"beta": 4}))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Part("gaussian", {"scale": "fixed"})),
        (["model.likelihood.bits=3"], Part("gaussian", {"scale": "fixed", "bits": 3})),
        (["model.likelihood={bits: 3}"], Part("gaussian", {"scale": "fixed", "bits": 3})),
        (["model.likelihood=laplace"], Part("laplace")),
        (["model.likelihood.kind=laplace"], Part("laplace")),
        (["model.likelihood.kind=gaussian"], Part("gaussian", {"scale": "fixed"})),
        (["model.likelihood={kind: laplace, bits: 3}"], Part("laplace", {"bits": 3})),
        (["model.likelihood.bits=3", "model.likelihood=laplace"], Part("laplace", {"bits": 3})),
        (["model.likelihood.bits=3", "model.likelihood.kind=laplace"], Part("laplace", {"bits": 3})),
    ],
)
def test_naming_another_kind_drops_the_recipes_options(tmp_path: Path, overrides: list[str], expected: Part) -> None:
    text = "model:\n  likelihood: {kind: gaussian, scale: fixed}\n"
    assert load_text(tmp_path, text, *overrides).model.likelihood == expected


@pytest.mark.parametrize("text", ["model: {likelihood: gaussian}", "model: {likelihood: {kind: gaussian}}"])
def test_a_bare_name_takes_options(tmp_path: Path, text: str) -> None:
    part = load_text(tmp_path, text, "model.likelihood.scale=optimal").model.likelihood
    assert part == Part("gaussian", {"scale": "optimal"})


def test_a_part_without_kind_is_the_default_one(tmp_path: Path) -> None:
    assert load_text(tmp_path, "objective: {beta: 4}", "model.network.depth=2") == dataclasses.replace(
        Config(), objective=Part("elbo", {"beta": 4}), model=ModelConfig(network=Part("conv", {"depth": 2}))
    )


def test_what_is_left_empty_keeps_its_defaults(tmp_path: Path) -> None:
    assert load_text(tmp_path, "training:\n  # epochs: 3\nobjective:\n") == Config()


def test_a_syntax_error_does_not_hide_a_wrong_override(tmp_path: Path) -> None:
    message = refusal(tmp_path, "training:\n  epochs: [\n", "training.seed=-1", check=check)
    assert "mine.yaml:3: not YAML" in message and "override 'training.seed=-1'" in message


def test_options_are_not_judged_against_a_file_that_could_not_be_read(tmp_path: Path) -> None:
    message = refusal(tmp_path, "model:\n  network: [\n", "model.network.scale=1", check=check)
    assert "model.network.scale" not in message


def test_check_is_pointed_at_the_line_of_the_part(tmp_path: Path) -> None:
    expected = "mine.yaml:3: model.network: unknown network 'con'"
    assert refusal(tmp_path, "model:\n  latent_dim: 3\n  network: con\n", check=check) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digts", "unknown recipe 'digts'; did you mean 'digits'?"),
        ("nowhere/mine.yaml", "no file 'nowhere/mine.yaml'"),
        ("digits.yaml", "the recipe of that name is 'digits'"),
        ("./", "'./' is a folder"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_named_like_its_file(name: str) -> None:
    assert load_config(str(recipe_path(name))).name == name == load_config(name).name


def test_from_dict_names_its_file() -> None:
    with pytest.raises(ConfigError, match=r"^state\.json: training\.epocs: unknown key"):
        from_dict({"training": {"epocs": 3}}, "state.json")


@pytest.mark.parametrize("value", [object(), {1}, float("nan")])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"objective\.beta"):
        from_dict(to_dict(Config(objective=Part("elbo", {"beta": value}))), "state.json")


def test_options_are_converted_to_what_the_factory_wants() -> None:
    written = {"beta": {"kind": "cosine", "over": 5}, "samples": None}
    assert option_problems((), bound, written) == (
        {"beta": ScheduleConfig(kind="cosine", over=5.0), "samples": None},
        [],
    )
    assert option_problems((), trunk, {"widths": [1, 2]})[0] == {"widths": (1, 2)}


@pytest.mark.parametrize(
    ("factory", "written", "problem"),
    [
        (trunk, {"norms": "none"}, ("norms", "unknown option; did you mean 'norm'?")),
        (trunk, {"inputs": 3}, ("inputs", "unknown option; choose one of: norm, widths")),
        (trunk, {"widths": [8, 0]}, ("widths.1", "must be at least 1, got 0")),
        (trunk, {"widths": 8}, ("widths", "must be a list [whole number of at least 1, …], got 8")),
        (trunk, {"norm": "btch"}, ("norm", "must be none or batch, got 'btch'; did you mean 'batch'?")),
        (colour, {"channels": True}, ("channels", "must be 1 or 3, got true")),
        (density, {}, ("mean", "missing; it has no default")),
        (density, {"mean": 0, "scale": -1}, ("scale", "must be a number greater than 0 or optimal, got -1")),
        (bound, {"beta": {"over": 0}}, ("beta.over", "must be greater than 0, got 0")),
        (bound, {"beta": {"ove": 1}}, ("beta.ove", "unknown key; did you mean 'over'?")),
        (bound, {"beta": [["a", 0]]}, ("beta.0.0", "must be a number, got 'a'")),
        (bound, {"samples": "x"}, ("samples", "must be a whole number of at least 1 or null, got 'x'")),
        (len, {}, None),
        (lambda: None, {"x": 1}, ("x", "unknown option; it takes none")),
    ],
)
def test_a_wrong_option_is_explained_in_one_problem(
    factory: Any, written: dict[str, Any], problem: tuple[str, str] | None
) -> None:
    found = option_problems(("part",), factory, written)[1]
    assert [(".".join(p.path), p.message) for p in found] == ([("part." + problem[0], problem[1])] if problem else [])


def test_an_annotation_that_yaml_cannot_hold_is_replaced() -> None:
    def elbo(*, beta: type = float) -> None: ...

    assert option_problems((), elbo, {"beta": 3}, written_as={type: Schedule}) == ({"beta": 3.0}, [])


def test_importing_the_loader_is_cheap() -> None:
    code = "import sys, vaekit.config.load; print({'torch', 'pydantic', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    "override",
    [
        "objective.beta=-1",
        "objective.weight=-500/pixels",
        "objective.beta={kind: linear, start: -0.1, end: 1}",
        "objective.beta=[[0, 1], [5, -2]]",
        "objective.beta={kind: pairs, pairs: [[0, -1]]}",
    ],
)
def test_a_weight_below_zero_is_refused(override):
    """A rate of weight -1 was driven to 10^17 nats, with exit code 0."""
    with pytest.raises(ConfigError, match="a weight is 0 or more"):
        read_config("digits", [override])


@pytest.mark.parametrize(
    "words", [("objective=geco", "objective.tolerance=-0.1"), ("objective=mmd", "objective.alpha=-1")]
)
def test_what_may_be_below_zero_may(words):
    read_config("digits", words)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("capacity", "gamma"), ("capacity", "nats"), ("factor", "gamma"), ("adversarial", "strength"), ("mmd", "strength"),
     ("total-correlation", "beta"), ("iwae", "elbo_share")],
)  # fmt: skip
def test_every_weight_of_every_objective_has_its_range(kind, name):
    with pytest.raises(ConfigError, match="a weight is 0 or more"):
        read_config("digits", [f"objective={kind}", f"objective.{name}=-0.5"])


def test_overrides_are_text_or_mappings():
    expected = load_config("digits", ["training.epochs=3", "objective.beta=4", "model.prior=vamp", "data.shift=1"])
    for wishes in (
        [{"training.epochs": 3, "objective.beta": 4, "model.prior": "vamp", "data.shift": 1}],
        [{"training": {"epochs": 3}, "objective": {"beta": 4}, "model": {"prior": "vamp"}}, "data.shift=1"],
        [{"epochs": 3, "shift": np.int64(1), "prior": "vamp"}, "objective.beta=4"],
        [named_options({"epochs": 3.0, "shift": 1}), {"objective.beta": 4, "model.prior.kind": "vamp"}],
    ):
        assert load_config("digits", wishes) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"training.epoch": 3}, "did you mean 'epochs'"),
        ({"epoch": 3}, "did you mean 'training.epochs'"),
        ({"kind": "vae"}, None),
        ({"training.epochs": "many"}, "training.epochs"),
        ({"training.epochs": object()}, "holds text, numbers"),
        (3, "an override is a int; give text such as 'training.epochs=10', or a mapping"),
        (np.zeros(3), "an override is a ndarray"),
    ],
)
def test_a_mapping_is_refused_as_text_is(given, words):
    if words is None:
        assert load_config("digits", [given]).model.kind == "vae"
        return
    with pytest.raises(ConfigError) as refused:
        load_config("digits", [given])
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_name_that_two_keys_have_is_given_in_a_mapping():
    with pytest.raises(ConfigError, match=r"'seed'; write one of data\.seed, training\.seed in a mapping"):
        named_options({"seed": 3})
