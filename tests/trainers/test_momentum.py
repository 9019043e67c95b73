"""The curves a momentum may follow."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.curves import DIVIDED, assert_close, curve_of, recorded, starts_with
from tests.trainers.points import MOMENTUM_BOUNDS, VALID_MOMENTA, Run, configs, runs, stems_of
from trainers.momentum import MOMENTA
from trainers.schedules import momentum_curve

over_momenta = pytest.mark.parametrize("family", MOMENTA)
RAMP = np.linspace(0, 0.5, 40, dtype=np.float32)


def momentum_of(
    family: str,
    parameters: dict[str, Any],
    learning_rates: np.ndarray = RAMP,
    *,
    steps_per_epoch: int = 10,
) -> np.ndarray:
    space = {"momentum_schedule": {family: parameters}, "schedule": {"constant": {"peak_lr": 1}}}
    before = copy.deepcopy(space)
    curve = momentum_curve(space, learning_rates, steps_per_epoch=steps_per_epoch)
    assert space == before
    assert curve is not None
    return curve


# Oracle: PyTorch cycles the momentum against the learning rate.


@pytest.mark.parametrize(
    ("scheduler", "rise", "interpolation"),
    [("OneCycleLR", 11, "cosine"), ("OneCycleLR, linear", 9, "linear")],
)
def test_the_momentum_of_onecyclelr_is_interpolated(
    scheduler: str, rise: int, interpolation: str
) -> None:
    parameters = {
        "values": [0.95, 0.85, 0.95],
        "knots_steps": [0, rise, 39],
        "interpolation": interpolation,
    }
    assert_close(momentum_of("interpolate", parameters), recorded(scheduler, "momentum"))


def test_the_momentum_of_cycliclr_mirrors_its_learning_rate() -> None:
    rates = curve_of("cyclic", {"peak_lr": 0.3, "cycle_steps": 10})
    ours = momentum_of("mirror", {"low": 0.8, "high": 0.9}, rates)
    assert_close(ours, recorded("CyclicLR, momentum", "momentum"))


def test_mirror_is_high_at_a_rate_of_0_and_low_at_the_peak() -> None:
    rates = curve_of("linear_decay", {"peak_lr": 0.3}, warmup_steps=8)
    ours = momentum_of("mirror", {"low": 0.5, "high": 0.75}, rates)
    assert (ours[0], ours[8], ours[24]) == (0.75, 0.5, 0.625)
    assert_close(ours, 0.75 - 0.25 * (rates / np.float64(rates.max())))


def test_mirror_of_rates_that_are_all_0_is_high() -> None:
    ours = momentum_of("mirror", {"low": 0.5, "high": 0.75}, np.zeros(4, np.float32))
    assert ours.tolist() == [0.75] * 4


def test_the_clock_starts_with_the_run_and_may_count_epochs() -> None:
    stepped = {"values": [0.5, 0.75], "boundaries_steps": [10]}
    ours = momentum_of("piecewise_constant", stepped)
    assert ours.tolist() == [0.5] * 11 + [0.75] * 29
    by_epoch = {"values": [0.5, 0.75], "boundaries_epochs": [1], "interval": "epoch"}
    assert momentum_of("piecewise_constant", by_epoch).tolist() == [0.5] * 20 + [0.75] * 20
    later = momentum_of("piecewise_constant", {**by_epoch, "first_tick": 1})
    assert later.tolist() == [0.5] * 10 + [0.75] * 30


def test_custom_is_a_function_of_the_tick() -> None:
    parameters = {"function": DIVIDED, "init_lr": 0.9, "interval": "epoch"}
    assert_close(momentum_of("custom", parameters), np.repeat([0.9, 0.3, 0.1, 0.1 / 3], 10))


def test_a_function_that_is_known_by_name_is_used() -> None:
    ours = momentum_curve(
        {"momentum_schedule": {"custom": {"function": "gone.py:rule", "slope": 0.01}}},
        RAMP,
        steps_per_epoch=10,
        functions={"gone.py:rule": lambda t, slope: t * slope},
    )
    assert ours is not None
    assert_close(ours, np.arange(40) * 0.01)


@pytest.mark.parametrize("space", [{}, {"momentum_schedule": None}, {"momentum": 0.9}])
def test_a_point_without_a_momentum_schedule_has_no_curve(space: dict[str, Any]) -> None:
    assert momentum_curve(space, RAMP, steps_per_epoch=10) is None


# Laws


def test_every_momentum_has_laws() -> None:
    assert set(VALID_MOMENTA) == set(MOMENTA)
    assert set(MOMENTUM_BOUNDS) == set(MOMENTA)


@over_momenta
def test_every_parameter_is_drawn(family: str) -> None:
    drawn: set[str] = set()

    @settings(max_examples=50, derandomize=True, database=None)
    @given(VALID_MOMENTA[family])
    def collect(parameters: dict[str, Any]) -> None:
        drawn.update(parameters)

    collect()
    assert drawn - {"init_lr"} == stems_of(MOMENTA[family])


@over_momenta
@settings(max_examples=200, deadline=None)
@given(data=st.data(), run=runs(), peak=st.floats(0, 10))
def test_a_curve_is_float32_repeatable_and_within_its_bounds(
    family: str, data: st.DataObject, run: Run, peak: float
) -> None:
    parameters = data.draw(configs(MOMENTA[family], VALID_MOMENTA[family], run, run.num_steps))
    rates = np.linspace(peak, 0, run.num_steps, dtype=np.float32)
    before = rates.copy()
    ours, again, read = (
        momentum_of(family, given, rates, steps_per_epoch=run.steps_per_epoch)
        for given in (parameters, parameters, json.loads(json.dumps(parameters)))
    )
    assert ours.shape == rates.shape
    assert ours.dtype == np.float32
    assert np.all((ours >= 0) & (ours < 1))
    assert ours.tobytes() == again.tobytes() == read.tobytes()
    assert rates.tobytes() == before.tobytes()
    low, high = MOMENTUM_BOUNDS[family](parameters)
    assert low - 1e-7 <= ours.min() <= ours.max() <= high + 1e-7


@over_momenta
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_curve_by_step_does_not_depend_on_the_length_of_an_epoch(
    family: str, data: st.DataObject
) -> None:
    run = Run(1, 12, units=("steps", "fraction"))
    parameters = data.draw(configs(MOMENTA[family], VALID_MOMENTA[family], run, 12))
    curves = {
        momentum_of(family, parameters, RAMP[:12], steps_per_epoch=steps).tobytes()
        for steps in (12, 6, 3, 1)
    }
    assert len(curves) == 1


# Errors

LOW_HIGH = {"low": 0.8, "high": 0.9}
FAULTS: list[tuple[str, Any, str]] = [
    ("mirror", {"low": 0.8}, "high must be given for mirror"),
    ("mirror", None, "low must be given for mirror"),
    ("mirror", {"lo": 0.8, "low": 0.8, "high": 0.9}, "mirror takes low, high, but got lo"),
    ("interpolate", None, "values must be given for interpolate"),
    (
        "interpolate",
        {"values": [1e39], "knots_steps": [0]},
        "0 <= momentum < 1 must hold, but interpolate gives inf",
    ),
    ("mirror", {**LOW_HIGH, "low": 0.95}, "low <= high must hold, but got 0.95 and 0.9"),
    ("mirror", {**LOW_HIGH, "low": -0.1}, "0 <= low <= 1 must hold, but got -0.1"),
    ("mirror", {**LOW_HIGH, "high": 1.5}, "0 <= high <= 1 must hold, but got 1.5"),
    ("mirror", {**LOW_HIGH, "high": "0.9"}, "high must be a number, but got '0.9'"),
    ("mirror", {**LOW_HIGH, "low": float("nan")}, "low must be finite, but got nan"),
    ("mirror", {"low": 0.5, "high": 1}, "0 <= momentum < 1 must hold, but mirror gives 1.0"),
    (
        "piecewise_constant",
        {"values": [0.5, 1.0], "boundaries_steps": [3]},
        "0 <= momentum < 1 must hold, but piecewise_constant gives 1.0",
    ),
    (
        "piecewise_constant",
        {"values": [0.5, -0.5], "boundaries_steps": [3]},
        "values.1 >= 0 must hold, but got -0.5",
    ),
    (
        "piecewise_constant",
        {"values": [0.5], "boundaries_steps": [3]},
        "values must hold one more entry than boundaries, but got 1 values and 1 boundaries",
    ),
    (
        "interpolate",
        {"values": [0.5, 0.99999999], "knots_steps": [0, 3]},
        "0 <= momentum < 1 must hold, but interpolate gives 1.0",
    ),
    (
        "interpolate",
        {"values": [0.5], "knots_steps": [0], "interpolation": "spline"},
        "interpolation must be one of linear, cubic, cosine, but got spline",
    ),
    (
        "custom",
        {"function": DIVIDED, "init_lr": -0.5},
        "0 <= momentum < 1 must hold, but custom gives -0.5",
    ),
    (
        "custom",
        {"function": DIVIDED, "init_lr": float("nan")},
        "0 <= momentum < 1 must hold, but custom gives nan",
    ),
    (
        "cosine_decay",
        {},
        "momentum_schedule must be one of mirror, interpolate, piecewise_constant, custom, but got",
    ),
]


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    FAULTS,
    ids=[f"{family}: {message[:40]}" for family, _, message in FAULTS],
)
def test_a_fault_in_a_momentum_schedule_is_named(
    family: str, parameters: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=starts_with(message)):
        momentum_of(family, parameters)
