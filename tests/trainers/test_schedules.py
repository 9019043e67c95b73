"""How a point becomes a curve: durations, the warmup, functions, the keys of a family."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import trainers
from tests.trainers.curves import (
    DIVIDED,
    TICKS,
    assert_close,
    curve_of,
    evaluated,
    recorded,
)
from trainers.schedules import (
    SCHEDULES,
    learning_rate_curve,
    required_keys,
    schedule_keys,
    steps_per_epoch,
    warmup_steps,
)

FALL = {"peak_lr": 0.3, "decay_rate": 0.5}


def durations(stem: str) -> set[str]:
    return {f"{stem}_steps", f"{stem}_epochs", f"{stem}_fraction"}


# Durations


@pytest.mark.parametrize(
    ("warmup", "durations"),
    [
        ({}, {"steps": 20, "epochs": 2, "fraction": 0.5}),
        ({"warmup_steps": 10}, {"steps": 15, "epochs": 1.5, "fraction": 0.5}),
        ({"warmup_steps": 4}, {"steps": 12, "epochs": 1.2, "fraction": 1 / 3}),
        ({"warmup_steps": 15}, {"steps": 7, "epochs": 0.7, "fraction": 0.28}),  # 25 * 0.28 > 7
    ],
)
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("staircase", [False, True])
def test_the_three_spellings_of_a_duration_are_one(
    warmup: dict[str, Any], durations: dict[str, float], interval: str, staircase: bool
) -> None:
    fixed = {"peak_lr": 0.3, "decay_rate": 0.1, "interval": interval, "staircase": staircase}
    curves = {
        curve_of("exponential_decay", {**fixed, f"decay_{unit}": length}, **warmup).tobytes()
        for unit, length in durations.items()
    }
    assert len(curves) == 1


@pytest.mark.parametrize(
    ("family", "stem"), [("piecewise_constant", "boundaries"), ("interpolate", "knots")]
)
def test_a_list_of_durations_is_spelled_in_three_ways_too(family: str, stem: str) -> None:
    durations = {"steps": [0, 12, 24], "epochs": [0, 1.2, 2.4], "fraction": [0, 0.3, 0.6]}
    values = [3, 2, 1, 0] if family == "piecewise_constant" else [3, 2, 1]
    curves = {
        curve_of(family, {"values": values, f"{stem}_{unit}": places}).tobytes()
        for unit, places in durations.items()
    }
    assert len(curves) == 1


def test_two_durations_of_a_family_may_be_spelled_differently() -> None:
    by_step = {"peak_lr": 1.0, "rise_steps": 10, "cycle_steps": 30}
    mixed = {"peak_lr": 1.0, "rise_fraction": 0.25, "cycle_epochs": 3}
    assert curve_of("one_cycle", by_step).tobytes() == curve_of("one_cycle", mixed).tobytes()


def test_the_decay_of_warmup_stable_decay_may_take_the_whole_run_after_the_warmup() -> None:
    wsd = {"peak_lr": 1.0, "decay_fraction": 1}
    ours = curve_of("warmup_stable_decay", wsd, warmup_steps=4)
    assert_close(ours, curve_of("linear_decay", {"peak_lr": 1.0}, warmup_steps=4))


def test_the_last_batch_of_an_epoch_is_a_step_too() -> None:
    assert [steps_per_epoch(size, 32) for size in (1, 32, 33, 64)] == [1, 1, 2, 2]


# The warmup


@pytest.mark.parametrize(
    ("warmup", "steps"),
    [
        ({}, 0),
        ({"warmup_steps": None}, 0),
        ({"warmup_steps": 7}, 7),
        ({"warmup_epochs": 1.5}, 15),
        ({"warmup_fraction": 0.1}, 4),
        ({"warmup_fraction": 0.117}, 5),
        ({"warmup_fraction": 0}, 0),
        ({"warmup_steps": 39}, 39),
    ],
)
def test_a_warmup_rises_in_a_straight_line_from_0(warmup: dict[str, Any], steps: int) -> None:
    space = {"schedule": {"constant": {"peak_lr": 0.5}}, "momentum": 0.9, **warmup}
    assert warmup_steps(space, num_epochs=4, steps_per_epoch=10) == steps
    curve = learning_rate_curve(space, num_epochs=4, steps_per_epoch=10)
    expected = [0.5 * min(step / max(steps, 1), 1) if steps else 0.5 for step in range(TICKS)]
    assert_close(curve, np.array(expected))


def test_the_warmups_of_optax_start_where_ours_do() -> None:
    """At 0 if nothing is said, else at the share of the peak."""
    warmup = {"warmup_steps": 8, "warmup_init_fraction": 0.1}
    cosine = optax.warmup_cosine_decay_schedule(0.03, 0.3, 8, TICKS, 0.06)
    ours = curve_of("cosine_decay", {"peak_lr": 0.3, "final_fraction": 0.2}, **warmup)
    assert_close(ours, evaluated(cosine, range(TICKS)))
    falling = optax.warmup_exponential_decay_schedule(0.03, 0.3, 8, 5, 0.5)
    ours = curve_of("exponential_decay", {**FALL, "decay_steps": 5}, **warmup)
    assert_close(ours, evaluated(falling, range(TICKS)))
    constant = optax.warmup_constant_schedule(0.03, 0.3, 8)
    assert_close(
        curve_of("constant", {"peak_lr": 0.3}, **warmup), evaluated(constant, range(TICKS))
    )
    from_0 = evaluated(optax.warmup_constant_schedule(0.0, 0.3, 8), range(TICKS))
    assert_close(curve_of("constant", {"peak_lr": 0.3}, warmup_steps=8), from_0)
    assert from_0[0] == 0


def test_the_warmup_of_linearlr_starts_at_a_third() -> None:
    theirs = recorded("LinearLR")
    ours = curve_of("constant", {"peak_lr": 0.3}, warmup_steps=8, warmup_init_fraction=1 / 3)
    assert_close(ours, theirs)
    assert theirs[0] == pytest.approx(0.1)


@pytest.mark.parametrize("final_fraction", [0.0, 0.1])
def test_warmup_and_cosine_equal_optax(final_fraction: float) -> None:
    parameters = {"peak_lr": 0.3, "final_fraction": final_fraction}
    twin = optax.warmup_cosine_decay_schedule(0.0, 0.3, 8, TICKS, 0.3 * final_fraction)
    ours = curve_of("cosine_decay", parameters, warmup_steps=8)
    assert_close(ours, evaluated(twin, range(TICKS)))
    assert (ours[0], ours[8]) == (0, np.float32(0.3))


@pytest.mark.parametrize(
    ("shape", "start", "expected"),
    [
        ("linear", 0, [0, 0.25, 0.5, 0.75]),
        ("linear", 0.5, [0.5, 0.625, 0.75, 0.875]),
        ("cosine", 0, [0, (2 - 2**0.5) / 4, 0.5, (2 + 2**0.5) / 4]),
        ("cosine", 0.5, [0.5, 0.5 + (2 - 2**0.5) / 8, 0.75, 0.5 + (2 + 2**0.5) / 8]),
        ("exponential", 0.0625, [0.0625, 0.125, 0.25, 0.5]),
        ("exponential", 1, [1, 1, 1, 1]),
    ],
)
def test_the_shapes_of_a_warmup(shape: str, start: float, expected: list[float]) -> None:
    warmup = {"warmup_steps": 4, "warmup_shape": shape, "warmup_init_fraction": start}
    ours = curve_of("linear_decay", {"peak_lr": 1.0, "decay_steps": 10}, **warmup)
    assert_close(ours[:4], np.array(expected))
    assert_close(ours[4:7], np.array([1, 0.9, 0.8]))


def test_a_warmup_rises_to_the_first_value_of_the_family() -> None:
    parameters = {"peak_lr": 1.0, "rise_steps": 8, "init_fraction": 0.5}
    ours = curve_of("one_cycle", parameters, warmup_steps=4)
    assert ours[:5].tolist() == [0, 0.125, 0.25, 0.375, 0.5]
    assert ours[4 + 8] == 1


# Functions


def test_a_function_that_is_known_by_name_is_used_and_its_file_is_not_read() -> None:
    name = "/no/such/file.py:rule"
    space = {"schedule": {"custom": {"function": name, "slope": 0.5, "interval": "epoch"}}}
    ours = learning_rate_curve(
        space, num_epochs=3, steps_per_epoch=2, functions={name: lambda t, slope: slope * t}
    )
    assert ours.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert space["schedule"]["custom"]["function"] == name


def test_functions_of_other_names_change_nothing() -> None:
    space = {"schedule": {"custom": {"function": DIVIDED, "init_lr": 0.9}}}
    ours = learning_rate_curve(
        space, num_epochs=1, steps_per_epoch=3, functions={"other.py:rule": lambda t: 7.0}
    )
    assert_close(ours, np.array([0.9, 0.3, 0.1]))


# The keys of a family


@pytest.mark.parametrize(
    ("family", "required", "keys"),
    [
        ("constant", {"peak_lr"}, {"peak_lr"}),
        (
            "inverse_time_decay",
            {"peak_lr", "decay_rate"},
            {"peak_lr", "decay_rate", *durations("decay"), "staircase"},
        ),
        (
            "piecewise_constant",
            {"values", "boundaries"},
            {"values", "boundaries_steps", "boundaries_epochs", "boundaries_fraction"},
        ),
        (
            "warmup_stable_decay",
            {"peak_lr", "decay"},
            {"peak_lr", *durations("decay"), "shape", "final_fraction"},
        ),
        (
            "cyclic",
            {"peak_lr", "cycle"},
            {
                *("peak_lr", *durations("cycle"), "init_fraction", "mode"),
                *("decay_rate", *durations("decay")),
            },
        ),
        ("interpolate", {"values", "knots"}, {"values", *durations("knots"), "interpolation"}),
        (
            "reduce_on_plateau",
            {"peak_lr", "patience"},
            {
                *("peak_lr", *durations("patience"), "factor", "threshold"),
                *(*durations("cooldown"), "min_fraction"),
            },
        ),
        ("custom", {"function"}, {"function"}),
    ],
)
def test_the_keys_of_a_family(family: str, required: set[str], keys: set[str]) -> None:
    assert set(required_keys(SCHEDULES[family])) == required
    assert set(schedule_keys(family)) == keys | {"interval", "first_tick"}


def test_the_schedules_need_no_jax() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, trainers.schedules; assert 'jax' not in sys.modules"],
        cwd=Path(trainers.__path__[0]).parent,
        check=True,
    )
