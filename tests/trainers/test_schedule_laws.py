"""What holds for every family of schedules, whatever its parameters."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.curves import curve_of
from tests.trainers.points import BOUNDS, VALID, Point, Run, points, stems_of
from trainers.schedules import SCHEDULES, learning_rate_curve

over_families = pytest.mark.parametrize("family", SCHEDULES)
TWELVE = Run(1, 12, units=("steps", "fraction"))  # an epoch has no fixed number of steps


def curve(point: Point, space: dict[str, Any] | None = None) -> np.ndarray:
    num_epochs, steps_per_epoch, _ = point.run
    return learning_rate_curve(
        space or point.space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch
    )


def assert_within(rates: np.ndarray, low: float, high: float) -> None:
    """But for the rounding of the last float32 digit."""
    assert rates.min() >= np.nextafter(np.float32(low), np.float32(-1))
    assert rates.max() <= np.nextafter(np.float32(high), np.float32(np.inf))


def test_every_family_has_laws() -> None:
    assert set(VALID) == set(SCHEDULES)
    assert set(BOUNDS) == set(SCHEDULES)


@over_families
def test_every_parameter_is_drawn(family: str) -> None:
    drawn: set[str] = set()

    @settings(max_examples=50, derandomize=True, database=None)
    @given(VALID[family])
    def collect(parameters: dict[str, Any]) -> None:
        drawn.update(parameters)

    collect()
    assert drawn - {"init_lr"} == stems_of(SCHEDULES[family])


@over_families
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_curve_is_float32_repeatable_and_within_its_bounds(
    family: str, data: st.DataObject
) -> None:
    point = data.draw(points(family))
    space, before = point.space, copy.deepcopy(point.space)
    rates = curve(point, space)
    assert space == before
    assert rates.shape == (point.run.num_steps,)
    assert rates.dtype == np.float32
    assert np.all(np.isfinite(rates))
    assert rates.min() >= 0
    assert rates.tobytes() == curve(point, space).tobytes()
    assert rates.tobytes() == curve(point, json.loads(json.dumps(space))).tobytes()
    ramp, body = rates[: point.warmup_steps], rates[point.warmup_steps :]
    assert_within(body, *BOUNDS[family](point.parameters))
    if point.warmup_steps:
        start = point.warmup.get("warmup_init_fraction", 0.0) * float(body[0])
        assert_within(ramp, start, float(body[0]))
        assert ramp[0] == pytest.approx(start, rel=1e-6, abs=1e-44)
        assert np.all(np.diff(rates[: point.warmup_steps + 1]) >= 0)


@over_families
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_curve_by_step_does_not_depend_on_the_length_of_an_epoch(
    family: str, data: st.DataObject
) -> None:
    point = data.draw(points(family, TWELVE))
    curves = {
        learning_rate_curve(
            point.space, num_epochs=num_epochs, steps_per_epoch=12 // num_epochs
        ).tobytes()
        for num_epochs in (1, 2, 4, 12)
    }
    assert len(curves) == 1


EXTREMES = [1e-300, 1e-9, 1e9, 1e300]
DECAYING: dict[str, tuple[str, dict[str, Any]]] = {
    "exponential_decay": ("decay", {"decay_rate": 0.5}),
    "step_decay": ("decay", {"decay_rate": 0.5}),
    "inverse_time_decay": ("decay", {"decay_rate": 2}),
    "inverse_sqrt": ("timescale", {}),
    "linear_decay": ("decay", {}),
    "polynomial_decay": ("decay", {"power": 5}),
    "cosine_decay": ("decay", {}),
    "rex": ("decay", {}),
}


@pytest.mark.parametrize("family", DECAYING)
def test_an_extreme_duration_is_over_at_once_or_never(family: str) -> None:
    duration, parameters = DECAYING[family]
    at_once, soon, late, never = (
        curve_of(family, {"peak_lr": 1.0, **parameters, f"{duration}_steps": extreme})
        for extreme in EXTREMES
    )
    assert at_once[0] == 1
    assert soon[0] == 1
    assert max(at_once[1:]) <= 1e-9
    assert max(soon[1:]) <= 1e-4
    assert min(late) >= 0.999
    assert min(never) == 1


@pytest.mark.parametrize("family", ["cosine_restarts", "cyclic"])
@pytest.mark.parametrize("extreme", EXTREMES)
def test_a_cycle_of_extreme_length_stays_between_0_and_the_peak(
    family: str, extreme: float
) -> None:
    ours = curve_of(family, {"peak_lr": 1.0, "cycle_epochs": extreme})
    assert np.all((ours >= 0) & (ours <= 1))


@over_families
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_run_of_one_step_has_a_curve(family: str, data: st.DataObject) -> None:
    point = data.draw(points(family, Run(1, 1)))
    assert_within(curve(point), *BOUNDS[family](point.parameters))


@over_families
def test_a_rate_of_0_stays_0(family: str) -> None:
    @settings(max_examples=20, deadline=None)
    @given(points(family))
    def stays(point: Point) -> None:
        zero = {"peak_lr": 0, "init_lr": 0, "values": [0] * len(point.parameters.get("values", []))}
        parameters = {key: zero.get(key, value) for key, value in point.parameters.items()}
        assert not np.any(curve(point._replace(parameters=parameters)))

    stays()
