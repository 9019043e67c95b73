"""Every refusal of a schedule or a warmup names the rule and the value."""

import math
import operator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.curves import DIVIDED, curve_of, starts_with
from trainers.schedules import SCHEDULES, WARMUP_KEYS, learning_rate_curve

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    (
        "interpolate",
        {"values": [], "knots_steps": []},
        "knots must be a list of numbers, but got []",
    ),
    (
        "piecewise_constant",
        {"values": [1, 2], "boundaries_steps": 3},
        "boundaries must be a list of numbers, but got 3",
    ),
    (
        "piecewise_constant",
        {"values": 1, "boundaries_steps": []},
        "values must be a list of numbers, but got 1",
    ),
    (
        "piecewise_constant",
        {"values": [1, 2, 3], "boundaries_steps": [[3], [4]]},
        "boundaries.0 must be a number, but got [3]",
    ),
    ("custom", {"function": [1]}, "function must read module:function or file.py:function"),
    ("constant", {"peak_lr": -1}, "peak_lr >= 0 must hold, but got -1"),
    ("constant", {"peak_lr": "1e-3"}, "peak_lr must be a number, but got '1e-3'"),
    ("constant", {"peak_lr": True}, "peak_lr must be a number, but got True"),
    ("constant", {"peak_lr": None}, "peak_lr must be a number, but got None"),
    ("constant", {"peak_lr": float("nan")}, "peak_lr must be finite, but got nan"),
    ("constant", {"peak_lr": float("inf")}, "peak_lr must be finite, but got inf"),
    ("constant", {"peak_lr": 1e39}, "every learning rate must be finite, but constant gives inf"),
    ("constant", {}, "peak_lr must be given for constant"),
    (
        "constant",
        {"peak_lr": 1, "init_lr": 2},
        "constant takes peak_lr, interval, first_tick, but got init_lr",
    ),
    (
        "constant",
        {"peak_lr": 1, "interval": "steps"},
        "interval must be step or epoch, but got steps",
    ),
    ("constant", {"peak_lr": 1, "first_tick": 2}, "first_tick must be 0 or 1, but got 2"),
    (
        "exponential_decay",
        {"peak_lr": 1, "decay_rate": 0},
        "decay_rate > 0 must hold, but got 0",
    ),
    (
        "exponential_decay",
        {"peak_lr": 1, "decay_rate": 10, "decay_steps": 1},
        "every learning rate must be finite, but exponential_decay gives inf",
    ),
    (
        "exponential_decay",
        {"peak_lr": 1, "decay_rate": 0.5, "decay_steps": 1, "decay_epochs": 1},
        "a duration must be spelled once, but got decay_steps and decay_epochs",
    ),
    (
        "inverse_time_decay",
        {"peak_lr": 1, "decay_rate": -0.5},
        "decay_rate >= 0 must hold, but got -0.5",
    ),
    ("polynomial_decay", {"peak_lr": 1, "power": 0}, "power > 0 must hold, but got 0"),
    (
        "polynomial_decay",
        {"peak_lr": 1, "final_fraction": 1.5},
        "0 <= final_fraction <= 1 must hold, but got 1.5",
    ),
    (
        "cosine_decay",
        {"peak_lr": 1, "final_fraction": -0.1},
        "0 <= final_fraction <= 1 must hold, but got -0.1",
    ),
    ("cosine_decay", {"peak_lr": 1, "decay_epochs": 0}, "decay > 0 must hold, but got 0"),
    ("cosine_decay", {"peak_lr": 1, "decay_steps": "2"}, "decay must be a number, but got '2'"),
    (
        "piecewise_constant",
        {"values": [1, 2], "boundaries_steps": [3, 4]},
        "values must hold one more entry than boundaries, but got 2 values and 2 boundaries",
    ),
    (
        "piecewise_constant",
        {"values": [1, -2], "boundaries_steps": [3]},
        "values.1 >= 0 must hold, but got -2",
    ),
    (
        "piecewise_constant",
        {"values": [1, 2, 3], "boundaries_epochs": [2, 1]},
        "boundaries must rise, but got [20.0, 10.0]",
    ),
    (
        "piecewise_constant",
        {"values": [1, 2], "boundaries_steps": ["3"]},
        "boundaries.0 must be a number, but got '3'",
    ),
    (
        "piecewise_constant",
        {"values": [1, 2]},
        "boundaries_fraction must be given for piecewise_constant (or _epochs, or _steps)",
    ),
    (
        "step_decay",
        {"peak_lr": 1, "decay_rate": 0.5},
        "decay_fraction must be given for step_decay (or _epochs, or _steps)",
    ),
    (
        "step_decay",
        {"peak_lr": 1, "decay_rate": 0.5, "decay_steps": 1, "staircase": True},
        "step_decay takes peak_lr, decay_rate, decay_steps, decay_epochs, decay_fraction, "
        "interval, first_tick, but got staircase",
    ),
    (
        "inverse_sqrt",
        {"peak_lr": 1},
        "timescale_fraction must be given for inverse_sqrt (or _epochs, or _steps)",
    ),
    (
        "inverse_sqrt",
        {"peak_lr": 1, "timescale_steps": 0},
        "timescale > 0 must hold, but got 0",
    ),
    ("linear_decay", {"peak_lr": 1, "decay_steps": -3}, "decay > 0 must hold, but got -3"),
    ("linear_decay", {"peak_lr": 1, "decay_epochs": 1e308}, "decay must be finite, but got inf"),
    ("rex", {"peak_lr": 1, "final_fraction": 2}, "0 <= final_fraction <= 1 must hold, but got 2"),
    (
        "warmup_stable_decay",
        {"peak_lr": 1},
        "decay_fraction must be given for warmup_stable_decay (or _epochs, or _steps)",
    ),
    (
        "warmup_stable_decay",
        {"peak_lr": 1, "decay_steps": 41},
        "decay must be no longer than the run after the warmup, but got 41 of 40 ticks",
    ),
    (
        "warmup_stable_decay",
        {"peak_lr": 1, "decay_epochs": 5, "interval": "epoch"},
        "decay must be no longer than the run after the warmup, but got 5 of 4 ticks",
    ),
    (
        "warmup_stable_decay",
        {"peak_lr": 1, "decay_steps": 4, "shape": "exponential"},
        "final_fraction > 0 must hold with shape exponential, but got 0",
    ),
    (
        "warmup_stable_decay",
        {"peak_lr": 1, "decay_steps": 4, "shape": "sqrt"},
        "shape must be one of linear, cosine, 1-sqrt, exponential, but got sqrt",
    ),
    (
        "warmup_stable_decay",
        {"peak_lr": 1, "decay_steps": 4, "num_ticks": 40},
        "warmup_stable_decay takes peak_lr, decay_steps, decay_epochs, decay_fraction, shape, "
        "final_fraction, interval, first_tick, but got num_ticks",
    ),
    (
        "cosine_restarts",
        {"peak_lr": 1},
        "cycle_fraction must be given for cosine_restarts (or _epochs, or _steps)",
    ),
    (
        "cosine_restarts",
        {"peak_lr": 1, "cycle_steps": 5, "cycle_growth": 0.5},
        "cycle_growth >= 1 must hold, but got 0.5",
    ),
    (
        "cosine_restarts",
        {"peak_lr": 1, "cycle_steps": 5, "peak_decay": 1.5},
        "0 <= peak_decay <= 1 must hold, but got 1.5",
    ),
    ("cosine_restarts", {"peak_lr": 1, "cycle_steps": 0}, "cycle > 0 must hold, but got 0"),
    (
        "one_cycle",
        {"peak_lr": 1},
        "rise_fraction must be given for one_cycle (or _epochs, or _steps)",
    ),
    (
        "one_cycle",
        {"peak_lr": 1, "rise_steps": 40},
        "rise < cycle must hold, but got 40 and 40 ticks",
    ),
    (
        "one_cycle",
        {"peak_lr": 1, "rise_epochs": 2, "cycle_fraction": 0.25},
        "rise < cycle must hold, but got 20 and 10 ticks",
    ),
    ("one_cycle", {"peak_lr": 1, "rise_steps": 0}, "rise > 0 must hold, but got 0"),
    (
        "one_cycle",
        {"peak_lr": 1, "rise_steps": 4, "init_fraction": 1.5},
        "0 <= init_fraction <= 1 must hold, but got 1.5",
    ),
    (
        "one_cycle",
        {"peak_lr": 1, "rise_steps": 4, "anneal": "cos"},
        "anneal must be one of cosine, linear, but got cos",
    ),
    (
        "cyclic",
        {"peak_lr": 1, "cycle_steps": 4, "mode": "triangle"},
        "mode must be one of triangular, triangular2, exp_range, but got triangle",
    ),
    (
        "cyclic",
        {"peak_lr": 1, "cycle_steps": 4, "decay_rate": 1.5},
        "0 < decay_rate <= 1 must hold, but got 1.5",
    ),
    (
        "cyclic",
        {"peak_lr": 1, "cycle_steps": 4, "decay_steps": 0},
        "decay > 0 must hold, but got 0",
    ),
    (
        "cyclic",
        {"peak_lr": 1, "cycle_steps": 4, "init_fraction": -1},
        "0 <= init_fraction <= 1 must hold, but got -1",
    ),
    (
        "interpolate",
        {"values": [1, 2]},
        "knots_fraction must be given for interpolate (or _epochs, or _steps)",
    ),
    ("interpolate", {"knots_steps": [1, 2]}, "values must be given for interpolate"),
    (
        "interpolate",
        {"values": [1, 2, 3], "knots_steps": [0, 10]},
        "values must hold one entry for each of the knots, but got 3 values and 2 knots",
    ),
    (
        "interpolate",
        {"values": [1, 2, 3], "knots_epochs": [0, 2, 2]},
        "knots must rise, but got [0.0, 20.0, 20.0]",
    ),
    (
        "interpolate",
        {"values": [1, -2], "knots_steps": [0, 10]},
        "values.1 >= 0 must hold, but got -2",
    ),
    (
        "interpolate",
        {"values": [1, 2], "knots_steps": [0, 10], "interpolation": "spline"},
        "interpolation must be one of linear, cubic, cosine, but got spline",
    ),
    (
        "interpolate",
        {"values": [1, 2], "knots_steps": [0, float("nan")]},
        "knots.1 must be finite, but got nan",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1},
        "patience_fraction must be given for reduce_on_plateau (or _epochs, or _steps)",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1, "patience_epochs": 2, "factor": 0},
        "0 < factor <= 1 must hold, but got 0",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1, "patience_epochs": 2, "factor": 2},
        "0 < factor <= 1 must hold, but got 2",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1, "patience_steps": -1},
        "patience >= 0 must hold, but got -1",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1, "patience_steps": 1, "cooldown_steps": -1},
        "cooldown >= 0 must hold, but got -1",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1, "patience_epochs": 2, "threshold": -0.1},
        "0 <= threshold <= 1 must hold, but got -0.1",
    ),
    (
        "reduce_on_plateau",
        {"peak_lr": 1, "patience_epochs": 2, "min_fraction": 1.1},
        "0 <= min_fraction <= 1 must hold, but got 1.1",
    ),
    ("custom", {}, "function must be given for custom"),
    (
        "custom",
        {"function": "rule"},
        "function must read module:function or file.py:function, but got rule",
    ),
    (
        "custom",
        {"function": "no_such_module:rule"},
        "function must be importable, but no_such_module:rule raised ModuleNotFoundError",
    ),
    (
        "custom",
        {"function": "trainers.schedules:no_such_rule"},
        "function must be importable, but trainers.schedules:no_such_rule raised AttributeError",
    ),
    (
        "custom",
        {"function": "/no/such/file.py:rule"},
        "function must be importable, but /no/such/file.py:rule raised FileNotFoundError",
    ),
    (
        "custom",
        {"function": DIVIDED},
        f"function must return a number for every tick, but {DIVIDED} raised TypeError",
    ),
    (
        "custom",
        {"function": DIVIDED, "init_lr": -1.0},
        "every learning rate must be >= 0, but custom gives -1.0",
    ),
    ("warp", {}, f"schedule must be one of {', '.join(SCHEDULES)}, but got warp"),
]


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    FAULTS,
    ids=[f"{family}: {message[:40]}" for family, _, message in FAULTS],
)
def test_a_fault_in_a_schedule_is_named(
    family: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=starts_with(message)):
        curve_of(family, parameters)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return float('nan')", "every learning rate must be finite, but custom gives nan"),
        ("return None", "function must return a number for every tick, but"),
        ("return [t, t]", "function must return a number for every tick, but"),
        ("return 'fast'", "function must return a number for every tick, but"),
        ("return -t", "every learning rate must be >= 0, but custom gives -39.0"),
        ("return 1 / t", "function must return a number for every tick, but"),
    ],
)
def test_a_fault_in_a_custom_function_is_named(tmp_path: Path, body: str, message: str) -> None:
    file = tmp_path / "rules.py"
    file.write_text(f"def rule(t):\n    {body}\n")
    with pytest.raises(ValueError, match=starts_with(message)):
        curve_of("custom", {"function": f"{file}:rule"})


@pytest.mark.parametrize(
    ("warmup", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps >= 0 must hold, but got -1"),
        (
            {"warmup_epochs": 1e308},
            "warmup_epochs must be shorter than the training of 40 steps, but got 1e+308",
        ),
        ({"warmup_fraction": "0.1"}, "warmup_fraction must be a number, but got '0.1'"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs must be finite, but got nan"),
        (
            {"warmup_epochs": 4},
            "warmup_epochs must be shorter than the training of 40 steps, but got 4",
        ),
        (
            {"warmup_fraction": 1.0},
            "warmup_fraction must be shorter than the training of 40 steps, but got 1.0",
        ),
        (
            {"warmup_steps": 4, "warmup_shape": "quadratic"},
            "warmup_shape must be one of linear, cosine, exponential, but got quadratic",
        ),
        (
            {"warmup_steps": 4, "warmup_init_fraction": 1.5},
            "0 <= warmup_init_fraction <= 1 must hold, but got 1.5",
        ),
        (
            {"warmup_steps": 4, "warmup_init_fraction": "0"},
            "warmup_init_fraction must be a number, but got '0'",
        ),
        (
            {"warmup_steps": 4, "warmup_shape": "exponential"},
            "warmup_init_fraction > 0 must hold with warmup_shape exponential, but got 0",
        ),
        (
            {"warmup_steps": 1, "warmup_fraction": 0.5},
            "a duration must be spelled once, but got warmup_steps and warmup_fraction",
        ),
    ],
)
def test_a_fault_in_a_warmup_is_named(warmup: dict[str, Any], message: str) -> None:
    assert set(warmup) <= {*WARMUP_KEYS, "warmup_shape", "warmup_init_fraction"}
    with pytest.raises(ValueError, match=starts_with(message)):
        curve_of("constant", {"peak_lr": 1}, **warmup)


def test_a_function_known_by_name_may_lack_a_name_of_its_own() -> None:
    space = {"schedule": {"custom": {"function": "own.py:rule"}}, "warmup_steps": 3}
    functions = {"own.py:rule": partial(operator.truediv, 1)}
    with pytest.raises(ValueError, match="function must return a number for every tick, but"):
        learning_rate_curve(space, num_epochs=1, steps_per_epoch=9, functions=functions)
    functions = {"own.py:rule": lambda tick: math.inf}
    with pytest.raises(ValueError, match="every learning rate must be finite, but custom gives"):
        learning_rate_curve(space, num_epochs=1, steps_per_epoch=9, functions=functions)
