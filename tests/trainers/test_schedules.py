import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.example_libraries import optimizers

import trainers
from trainers.schedules import (
    SCHEDULES,
    WARMUP_KEYS,
    learning_rate_curve,
    required_keys,
    schedule_keys,
    warmup_steps,
)

TICKS = 40  # four epochs of ten steps, or forty epochs
DIVIDED = "trainers.schedules:divide_by_three"


class Twin(NamedTuple):
    """A family's parameters, durations in ticks, and the same schedule from another library."""

    family: str
    parameters: dict[str, Any]
    schedule: Callable[[Any], Any]


TWINS = {
    "constant, jax": Twin("constant", {"peak_lr": 0.3}, optimizers.constant(0.3)),
    "constant, optax": Twin("constant", {"peak_lr": 0.3}, optax.constant_schedule(0.3)),
    "exponential_decay, jax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 0.1, "decay": 13},
        optimizers.exponential_decay(0.3, 13, 0.1),
    ),
    "exponential_decay, optax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 0.9, "decay": 4},
        optax.exponential_decay(0.3, 4, 0.9),
    ),
    "exponential_decay staircase, optax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 0.5, "decay": 7, "staircase": True},
        optax.exponential_decay(0.3, 7, 0.5, staircase=True),
    ),
    "inverse_time_decay, jax": Twin(
        "inverse_time_decay",
        {"peak_lr": 0.3, "decay_rate": 2.5, "decay": 13},
        optimizers.inverse_time_decay(0.3, 13, 2.5),
    ),
    "inverse_time_decay staircase, jax": Twin(
        "inverse_time_decay",
        {"peak_lr": 0.3, "decay_rate": 2.5, "decay": 7, "staircase": True},
        optimizers.inverse_time_decay(0.3, 7, 2.5, staircase=True),
    ),
    "polynomial_decay, jax": Twin(
        "polynomial_decay",
        {"peak_lr": 0.3, "decay": 30, "power": 2.0, "final_fraction": 0.25},
        optimizers.polynomial_decay(0.3, 30, 0.075, 2.0),
    ),
    "polynomial_decay, optax": Twin(
        "polynomial_decay",
        {"peak_lr": 0.3, "decay": TICKS, "power": 0.5},
        optax.polynomial_schedule(0.3, 0.0, 0.5, TICKS),
    ),
    "piecewise_constant, jax": Twin(
        "piecewise_constant",
        {"values": [0.1, 0.3, 0.01], "boundaries": [10, 25]},
        optimizers.piecewise_constant([10, 25], [0.1, 0.3, 0.01]),
    ),
    "cosine_decay, optax": Twin(
        "cosine_decay", {"peak_lr": 0.3, "decay": TICKS}, optax.cosine_decay_schedule(0.3, TICKS)
    ),
    "cosine_decay with a floor, optax": Twin(
        "cosine_decay",
        {"peak_lr": 0.3, "decay": 30, "final_fraction": 0.1},
        optax.cosine_decay_schedule(0.3, 30, alpha=0.1),
    ),
}
over_twins = pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
over_families = pytest.mark.parametrize("family", SCHEDULES)


def spelled(parameters: dict[str, Any], unit: str) -> dict[str, Any]:
    names = {"decay": f"decay_{unit}", "boundaries": f"boundaries_{unit}"}
    return {names.get(name, name): value for name, value in parameters.items()}


def evaluated(schedule: Callable[[Any], Any], ticks: Any) -> np.ndarray:
    """In float64, so that a difference is ours and not the twin's rounding."""
    with jax.enable_x64(True):
        return np.array([float(schedule(tick)) for tick in ticks])


def curve_of(
    family: str,
    parameters: dict[str, Any],
    *,
    num_epochs: int = 4,
    steps_per_epoch: int = 10,
    **warmup: Any,
) -> np.ndarray:
    space = {"schedule": {family: parameters}, **warmup}
    return learning_rate_curve(space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)


# Oracle: at every step, so at the first, at boundaries, in the middle and at the last.


@over_twins
def test_a_family_equals_its_twin_at_every_step(twin: Twin) -> None:
    ours = curve_of(twin.family, spelled(twin.parameters, "steps"))
    assert_close(ours, evaluated(twin.schedule, range(TICKS)))


@over_twins
def test_interval_epoch_is_the_twin_at_the_number_of_the_epoch(twin: Twin) -> None:
    parameters = {**spelled(twin.parameters, "epochs"), "interval": "epoch"}
    ours = curve_of(twin.family, parameters, num_epochs=TICKS, steps_per_epoch=3)
    assert_close(ours, np.repeat(evaluated(twin.schedule, range(TICKS)), 3))


@over_twins
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_first_tick_1_is_the_twin_one_tick_later(twin: Twin, interval: str) -> None:
    parameters = {
        **spelled(twin.parameters, f"{interval}s"),
        "interval": interval,
        "first_tick": 1,
    }
    ours = curve_of(twin.family, parameters, num_epochs=TICKS, steps_per_epoch=1)
    assert_close(ours, evaluated(twin.schedule, range(1, TICKS + 1)))


@over_twins
def test_a_warmup_is_joined_as_optax_joins(twin: Twin) -> None:
    ours = curve_of(twin.family, spelled(twin.parameters, "steps"), warmup_steps=7)
    ramp = optax.linear_schedule(0.0, evaluated(twin.schedule, [0])[0], 7)
    assert_close(ours, evaluated(optax.join_schedules([ramp, twin.schedule], [7]), range(TICKS)))


@pytest.mark.parametrize("final_fraction", [0.0, 0.1])
def test_warmup_and_cosine_equal_optax(final_fraction: float) -> None:
    parameters = {"peak_lr": 0.3, "final_fraction": final_fraction}
    twin = optax.warmup_cosine_decay_schedule(0.0, 0.3, 8, TICKS, 0.3 * final_fraction)
    ours = curve_of("cosine_decay", parameters, warmup_steps=8)
    assert_close(ours, evaluated(twin, range(TICKS)))
    assert (ours[0], ours[8]) == (0, np.float32(0.3))


def test_piecewise_constant_moves_on_after_the_boundary_and_optax_at_it() -> None:
    ours = curve_of("piecewise_constant", {"values": [0.4, 0.2], "boundaries_steps": [10]})
    theirs = evaluated(optax.piecewise_constant_schedule(0.4, {10: 0.5}), range(TICKS))
    assert ours[9:12].tolist() == np.array([0.4, 0.4, 0.2], np.float32).tolist()
    assert_close(theirs[9:12].astype(np.float32), np.array([0.4, 0.2, 0.2]))
    assert_close(np.delete(ours, 10), np.delete(theirs, 10))


@pytest.mark.parametrize(
    ("family", "parameters", "expected"),
    [
        ("exponential_decay", {"decay_rate": 0.25}, [1, 0.5**0.5, 0.5, 0.5**1.5]),
        ("inverse_time_decay", {"decay_rate": 4}, [1, 0.5, 1 / 3, 0.25]),
        ("polynomial_decay", {}, [1, 0.75, 0.5, 0.25]),
        ("cosine_decay", {}, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
    ],
)
def test_a_decay_left_out_spans_all_steps(
    family: str, parameters: dict[str, Any], expected: list[float]
) -> None:
    ours = curve_of(family, {"peak_lr": 1.0, **parameters}, num_epochs=2, steps_per_epoch=2)
    assert_close(ours, np.array(expected))


def test_custom_from_a_module_equals_a_plain_loop() -> None:
    ours = curve_of("custom", {"function": DIVIDED, "init_lr": 0.1, "interval": "epoch"})
    assert_close(ours, np.repeat([0.1 / 3**epoch for epoch in range(4)], 10))


def test_custom_from_a_file_equals_a_plain_loop(tmp_path: Path) -> None:
    file = tmp_path / "rules.py"
    file.write_text("def rule(t, *, a, names):\n    return a[t % 3] / len(names)\n")
    rule = {"function": f"{file}:rule", "a": [1, 2, 3], "names": "xy"}
    assert_close(curve_of("custom", rule), np.array([(t % 3 + 1) / 2 for t in range(TICKS)]))


def test_custom_sees_whole_ticks_from_first_tick_on(tmp_path: Path) -> None:
    file = tmp_path / "rules.py"
    file.write_text("def rule(t):\n    assert type(t) is int\n    return t\n")
    ours = curve_of("custom", {"function": f"{file}:rule", "interval": "epoch", "first_tick": 1})
    assert ours.tolist() == np.repeat([1, 2, 3, 4], 10).tolist()


# Durations and the warmup


@pytest.mark.parametrize(
    ("warmup", "durations"),
    [
        ({}, {"steps": 20, "epochs": 2, "fraction": 0.5}),
        ({"warmup_steps": 10}, {"steps": 15, "epochs": 1.5, "fraction": 0.5}),
        ({"warmup_steps": 4}, {"steps": 12, "epochs": 1.2, "fraction": 1 / 3}),
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


def test_boundaries_are_spelled_in_three_ways_too() -> None:
    curves = {
        curve_of("piecewise_constant", {"values": [3, 2, 1], key: boundaries}).tobytes()
        for key, boundaries in {
            "boundaries_steps": [12, 24],
            "boundaries_epochs": [1.2, 2.4],
            "boundaries_fraction": [0.3, 0.6],
        }.items()
    }
    assert len(curves) == 1


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


@pytest.mark.parametrize(
    ("family", "required", "keys"),
    [
        ("constant", {"peak_lr"}, {"peak_lr"}),
        (
            "inverse_time_decay",
            {"peak_lr", "decay_rate"},
            {"peak_lr", "decay_rate", "decay_steps", "decay_epochs", "decay_fraction", "staircase"},
        ),
        (
            "piecewise_constant",
            {"values", "boundaries"},
            {"values", "boundaries_steps", "boundaries_epochs", "boundaries_fraction"},
        ),
        ("custom", {"function"}, {"function"}),
    ],
)
def test_the_keys_of_a_family(family: str, required: set[str], keys: set[str]) -> None:
    assert set(required_keys(family)) == required
    assert set(schedule_keys(family)) == keys | {"interval", "first_tick"}


def test_the_schedules_need_no_jax() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, trainers.schedules; assert 'jax' not in sys.modules"],
        cwd=Path(trainers.__path__[0]).parent,
        check=True,
    )


# Laws


def one_of_units(stem: str, duration: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    units = st.sampled_from(["steps", "epochs", "fraction"])
    return st.builds(lambda unit, value: {f"{stem}_{unit}": value}, units, duration)


def records(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {k: v for d in dicts for k, v in d.items()})


def pieces(count: int) -> st.SearchStrategy[dict[str, Any]]:
    rising = st.lists(st.floats(0, 50), min_size=count, max_size=count, unique=True).map(sorted)
    values = st.lists(RATES, min_size=count + 1, max_size=count + 1)
    return merged(records(values=values), one_of_units("boundaries", rising))


RATES = st.floats(0, 10)
FRACTIONS = st.floats(0, 1)
DECAYS = st.just({}) | one_of_units("decay", st.floats(0.01, 100))
STAIRS = st.booleans()
CLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "interval": st.sampled_from(["step", "epoch"]),
        "first_tick": st.sampled_from([0, 1]),
    },
)
PARAMETERS = {
    "constant": records(peak_lr=RATES),
    "exponential_decay": merged(
        records(peak_lr=RATES, decay_rate=st.floats(1e-3, 1), staircase=STAIRS), DECAYS
    ),
    "inverse_time_decay": merged(
        records(peak_lr=RATES, decay_rate=st.floats(0, 100), staircase=STAIRS), DECAYS
    ),
    "polynomial_decay": merged(
        records(peak_lr=RATES, power=st.floats(0.1, 5), final_fraction=FRACTIONS), DECAYS
    ),
    "piecewise_constant": st.integers(0, 4).flatmap(pieces),
    "cosine_decay": merged(records(peak_lr=RATES, final_fraction=FRACTIONS), DECAYS),
    "custom": records(function=st.just(DIVIDED), init_lr=RATES),
}


@over_families
@settings(max_examples=50, deadline=None)
@given(
    data=st.data(),
    clock=CLOCKS,
    warmup=st.just({}) | st.builds(lambda w: {"warmup_fraction": w}, st.floats(0, 0.4)),
    num_epochs=st.integers(1, 5),
    steps_per_epoch=st.integers(1, 12),
)
def test_a_curve_is_float32_finite_within_0_and_its_peak_and_repeatable(
    family: str,
    data: st.DataObject,
    clock: dict[str, Any],
    warmup: dict[str, Any],
    num_epochs: int,
    steps_per_epoch: int,
) -> None:
    parameters = data.draw(PARAMETERS[family])
    peak = max(parameters.get("values", [parameters.get("peak_lr", parameters.get("init_lr"))]))
    space = {"schedule": {family: {**parameters, **clock}}, **warmup}
    before = copy.deepcopy(space)
    first, second = (
        learning_rate_curve(space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
        for _ in range(2)
    )
    assert first.shape == (num_epochs * steps_per_epoch,)
    assert first.dtype == np.float32
    assert np.all(np.isfinite(first))
    assert first.min() >= 0
    assert first.max() <= np.float32(peak)
    assert first.tobytes() == second.tobytes()
    assert space == before


# Errors

FAULTS: list[tuple[str, dict[str, Any], str]] = [
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
        "boundaries must be a number, but got '3'",
    ),
    (
        "piecewise_constant",
        {"values": [1, 2]},
        "boundaries_fraction must be given for piecewise_constant (or _epochs, or _steps)",
    ),
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
        f"function must return a learning rate for every tick, but {DIVIDED} raised TypeError",
    ),
    (
        "custom",
        {"function": DIVIDED, "init_lr": -1.0},
        "every learning rate must be >= 0, but custom gives -1.0",
    ),
    ("cyclic", {}, "schedule must be one of constant, exponential_decay,"),
]


def starts_with(text: str) -> str:
    return "^" + re.escape(text)


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
        ("return None", "function must return a learning rate for every tick, but"),
        ("return [t, t]", "function must return a learning rate for every tick, but"),
        ("return 'fast'", "function must return a learning rate for every tick, but"),
        ("return -t", "every learning rate must be >= 0, but custom gives -39.0"),
        ("return 1 / t", "function must return a learning rate for every tick, but"),
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
            {"warmup_steps": 1, "warmup_fraction": 0.5},
            "a duration must be spelled once, but got warmup_steps and warmup_fraction",
        ),
    ],
)
def test_a_fault_in_a_warmup_is_named(warmup: dict[str, Any], message: str) -> None:
    assert set(warmup) <= set(WARMUP_KEYS)
    with pytest.raises(ValueError, match=starts_with(message)):
        curve_of("constant", {"peak_lr": 1}, **warmup)
