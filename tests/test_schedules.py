"""Schedules are functions of the step alone, and mean what their names say."""

import math

import pytest
import torch

from vaekit.config.load import from_dict, to_dict
from vaekit.config.schedules import build_learning_rate, build_schedule, in_steps
from vaekit.config.schema import ScheduleConfig, TrainingConfig
from vaekit.errors import ConfigError
from vaekit.objectives import Facts
from vaekit.objectives.build import build_objective
from vaekit.training.combinations import read_config


def values(schedule, steps):
    return [float(schedule(torch.tensor(step))) for step in steps]


def test_linear_counts_epochs_or_steps():
    per_epoch = build_schedule(ScheduleConfig(kind="linear", start=0, end=2, over=4), steps_per_epoch=10)
    per_step = build_schedule(ScheduleConfig(kind="linear", start=0, end=2, over=40, unit="step"), steps_per_epoch=10)
    assert values(per_epoch, range(0, 60, 7)) == values(per_step, range(0, 60, 7))
    assert values(per_epoch, (0, 20, 40, 1000)) == [0, 1, 2, 2]


def test_delay_holds_the_start():
    schedule = build_schedule(ScheduleConfig(kind="linear", start=0.5, end=1, over=10, delay=5, unit="step"), 1)
    assert values(schedule, (0, 5, 10, 15)) == [0.5, 0.5, 0.75, 1.0]


def test_cosine_is_half_way_half_way():
    schedule = build_schedule(ScheduleConfig(kind="cosine", start=1, end=0, over=100, unit="step"), 1)
    assert values(schedule, (0, 50, 100)) == pytest.approx([1, 0.5, 0], abs=1e-6)


def test_cyclical_rises_in_its_share_of_each_cycle_then_stays():
    schedule = build_schedule(ScheduleConfig(kind="cyclical", start=0, end=1, over=10, ratio=0.5, unit="step"), 1)
    assert values(schedule, (0, 2, 5, 9, 10, 12, 15)) == pytest.approx([0, 0.4, 1, 1, 0, 0.4, 1])


@pytest.mark.parametrize("kind", ["linear", "cosine", "cyclical"])
def test_a_delay_moves_the_whole_shape(kind):
    options = {"kind": kind, "start": 0.2, "end": 0.9, "over": 8, "unit": "step"}
    plain, later = build_schedule(options, 10), build_schedule({**options, "delay": 5}, 10)
    steps = torch.arange(30)
    assert later(steps + 5).tolist() == pytest.approx(plain(steps).tolist())
    assert later(torch.arange(5)).tolist() == pytest.approx([0.2] * 5)


def test_pairs_hold_until_the_next():
    schedule = build_schedule([(0, 0.0), (2, 0.5), (4, 1.0)], steps_per_epoch=10)
    assert values(schedule, (0, 19, 20, 39, 40, 500)) == [0, 0, 0.5, 0.5, 1, 1]


def test_a_held_value_may_be_over_pixels_too():
    schedule = build_schedule([(0, "50/pixels"), (2, 1.0)], steps_per_epoch=10, pixels=100)
    assert values(schedule, (0, 20)) == [0.5, 1.0]
    config = read_config("digits", ["objective.beta=[[0, 64/pixels], [2, 1]]"])
    built = build_objective(config.objective, 10, 64, Facts(100, 16))
    assert values(built.schedules["beta"], (0, 20)) == [1.0, 1.0]
    for written in (
        "[[0, half]]",
        "[[0, 1e400/pixels]]",
        "1e400/pixels",
        "[[0, -1/pixels]]",
        ".nan",
        "[[0, .inf]]",
        "[]",
        ".inf",
    ):
        with pytest.raises(ConfigError, match="objective"):
            read_config("digits", [f"objective.beta={written}"])


def test_weight_over_pixels_is_exact():
    """A weight of 500 on the mean over 1·32·32 pixels is 500/1024 on the sum."""
    assert values(build_schedule("500/pixels", 1, pixels=1024), (0,)) == [500 / 1024]
    with pytest.raises(ConfigError, match="500/pixels"):
        build_schedule("half", 1)


def test_a_mapping_and_its_dataclass_are_the_same():
    written = {"kind": "cosine", "start": 1.0, "end": 0.0, "over": 3.0}
    assert values(build_schedule(written, 7), range(30)) == values(
        build_schedule(ScheduleConfig(**written), 7), range(30)
    )


def rate(steps_per_epoch=10, total=100, **options):
    config = TrainingConfig(learning_rate=1.0, **options)
    return build_learning_rate(config, steps_per_epoch, total)


def test_warmup_rises_and_moves_from_the_first_step():
    assert values(rate(schedule="constant", warmup=4), (0, 1, 3, 50)) == [0.25, 0.5, 1, 1]


def test_a_warm_up_has_a_unit_of_its_own():
    for unit in ("step", "epoch"):
        expected = values(rate(schedule="constant", warmup=20), range(50))
        for written in (20, "20 steps", "2 epochs", "2epoch"):
            assert values(rate(schedule="constant", warmup=written, schedule_unit=unit), range(50)) == expected
    for written in ("soon", "-1 steps", "3 minutes", "1e400 epochs", ""):
        with pytest.raises(
            ConfigError, match="is no length of time; give a number of steps, or text such as '2 epochs'"
        ):
            rate(warmup=written)
        with pytest.raises(ConfigError, match=r"training\.warmup.* is no length of time"):
            read_config("digits", [f"training.warmup={written!r}"])


def test_the_schedules_unit_leaves_a_recipes_warm_up_as_it_is(tmp_path):
    """Found by use: 50 steps of a recipe became 50 epochs, and the run never reached its rate."""
    plain, per_epoch = read_config("digits"), read_config("digits", ["training.schedule_unit=epoch"])
    warm_ups = [in_steps(config.training.warmup, 9) for config in (plain, per_epoch)]
    assert warm_ups == [50, 50]
    assert from_dict(to_dict(per_epoch), "a checkpoint") == per_epoch  # as a run stores it and goes on
    older = {"training": {"schedule_unit": "epoch", "warmup": 2.0}}  # what it meant when it was stored
    assert in_steps(from_dict(older, "an older checkpoint").training.warmup, 9) == 18


def test_cosine_rate_ends_at_its_final_factor():
    assert values(rate(schedule="cosine", final_factor=0.1), (0, 100)) == pytest.approx([1, 0.1])


def test_rate_per_epoch_changes_only_between_epochs():
    per_epoch = values(rate(schedule="cosine", schedule_unit="epoch"), range(100))
    assert all(len(set(per_epoch[i : i + 10])) == 1 for i in range(0, 100, 10))
    assert len(set(per_epoch)) == 10
    at_starts = values(rate(schedule="cosine"), range(0, 100, 10))
    assert per_epoch[::10] == pytest.approx(at_starts)


def test_step_rate_multiplies_every_period():
    schedule = rate(schedule="step", schedule_unit="epoch", decay_every=3, decay_factor=0.5)
    assert values(schedule, (0, 29, 30, 60)) == [1, 1, 0.5, 0.25]


def test_schedules_do_not_count_calls():
    schedule = build_schedule(ScheduleConfig(kind="cyclical", over=7, unit="step"), 1)
    first = values(schedule, range(20))
    assert values(schedule, reversed(range(20))) == first[::-1]
    assert all(math.isfinite(v) for v in first)
