"""Every family of schedules against its twins in other libraries, or the published formula."""

from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from scipy.interpolate import PchipInterpolator

from tests.trainers.curves import (
    DIVIDED,
    TICKS,
    TORCH,
    assert_close,
    curve_of,
    evaluated,
    recorded,
    spelled,
)
from tests.trainers.twins import SHIFTED, TORCH_TWINS, TWINS, Twin
from trainers.schedules import SCHEDULES

over_twins = pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)


# Every step is compared, so the first, the boundaries, the middle and the last are.


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
    ours = curve_of(
        twin.family,
        spelled(twin.parameters, "steps"),
        num_epochs=1,
        steps_per_epoch=7 + TICKS,
        warmup_steps=7,
    )
    ramp = optax.linear_schedule(0.0, evaluated(twin.schedule, [0])[0], 7)
    joined = optax.join_schedules([ramp, twin.schedule], [7])
    assert_close(ours, evaluated(joined, range(7 + TICKS)))


@pytest.mark.parametrize("scheduler", TORCH_TWINS)
def test_a_family_equals_pytorch_at_every_step(scheduler: str) -> None:
    family, parameters = TORCH_TWINS[scheduler]
    assert_close(curve_of(family, spelled(parameters, "steps")), recorded(scheduler))


def test_every_recorded_scheduler_is_compared() -> None:
    assert set(TORCH["schedules"]) == TORCH_TWINS.keys() | SHIFTED


def test_every_family_is_compared() -> None:
    twins = {twin.family for twin in TWINS.values()} | {
        family for family, _ in TORCH_TWINS.values()
    }
    assert set(SCHEDULES) == twins | {"inverse_sqrt", "rex", "custom"}


# Where the libraries differ


def test_piecewise_constant_moves_on_after_the_boundary_and_optax_at_it() -> None:
    ours = curve_of("piecewise_constant", {"values": [0.4, 0.2], "boundaries_steps": [10]})
    theirs = evaluated(optax.piecewise_constant_schedule(0.4, {10: 0.5}), range(TICKS))
    assert ours[9:12].tolist() == np.array([0.4, 0.4, 0.2], np.float32).tolist()
    assert_close(theirs[9:12].astype(np.float32), np.array([0.4, 0.2, 0.2]))
    assert_close(np.delete(ours, 10), np.delete(theirs, 10))


def test_multisteplr_moves_on_at_the_milestone_so_ours_is_one_earlier() -> None:
    theirs = recorded("MultiStepLR")  # milestones 10 and 25
    assert theirs[[9, 10, 24, 25]] == pytest.approx([0.3, 0.03, 0.03, 0.003])
    values = [0.3, 0.03, 0.003]
    ours = curve_of("piecewise_constant", {"values": values, "boundaries_steps": [9, 24]})
    assert_close(ours, theirs)


def test_step_decay_moves_on_at_the_boundary() -> None:
    ours = curve_of("step_decay", {"peak_lr": 1.0, "decay_rate": 0.5, "decay_steps": 7})
    assert ours[[6, 7, 13, 14]].tolist() == [1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("family", ["linear_decay", "cosine_decay", "rex", "polynomial_decay"])
def test_the_floor_of_a_decay_is_one_past_the_last_step(family: str) -> None:
    parameters = {"peak_lr": 1.0, "final_fraction": 0.25}
    assert curve_of(family, parameters)[-1] > 0.25
    assert curve_of(family, {**parameters, "first_tick": 1})[-1] == 0.25
    assert curve_of(family, {**parameters, "decay_steps": 39})[-2:].tolist() != [0.25, 0.25]
    assert curve_of(family, {**parameters, "decay_steps": 39})[-1] == 0.25
    assert np.all(curve_of(family, {**parameters, "decay_steps": 5})[5:] == 0.25)


@pytest.mark.parametrize(
    ("scheduler", "pct_start", "parameters"),
    [
        ("OneCycleLR", 0.3, {}),
        (
            "OneCycleLR, linear",
            0.25,
            {"anneal": "linear", "init_fraction": 0.1, "final_fraction": 0.001},
        ),
    ],
)
def test_onecyclelr_has_its_peak_and_its_floor_one_step_earlier_than_ours(
    scheduler: str, pct_start: float, parameters: dict[str, Any]
) -> None:
    theirs, rise = recorded(scheduler), round(pct_start * TICKS)
    one_cycle = {"peak_lr": 0.3, **parameters}
    shifted = {**one_cycle, "rise_steps": rise - 1, "cycle_steps": TICKS - 1}
    assert_close(curve_of("one_cycle", shifted), theirs)
    ours = curve_of("one_cycle", {**one_cycle, "rise_steps": rise})
    assert (int(theirs.argmax()), int(ours.argmax())) == (rise - 1, rise)
    floor = 0.3 * parameters.get("final_fraction", 4e-6)
    assert theirs[-1] == pytest.approx(floor)
    assert ours[-1] > 2 * floor


# Families without a twin: the formula as published, and values worked out by hand


def test_inverse_sqrt_and_a_warmup_are_the_schedule_of_vaswani_et_al() -> None:
    """lr = peak * min(step / W, sqrt(W / step)), their equation 3 with the constants drawn out."""
    ours = curve_of("inverse_sqrt", {"peak_lr": 0.3, "timescale_steps": 8}, warmup_steps=8)
    published = [0.3 * min(step / 8, (8 / step) ** 0.5 if step else 1) for step in range(TICKS)]
    assert_close(ours, np.array(published))
    assert ours[[0, 4, 8, 32]].tolist() == np.array([0, 0.15, 0.3, 0.15], np.float32).tolist()


def test_rex_is_the_formula_of_chen_et_al() -> None:
    """lr = peak * (1 - t/T) / (1/2 + 1/2 * (1 - t/T)), their equation 3."""
    left = [1 - t / TICKS for t in range(TICKS)]
    published = [0.3 * share / (0.5 + 0.5 * share) for share in left]
    assert_close(curve_of("rex", {"peak_lr": 0.3}), np.array(published))
    by_hand = curve_of("rex", {"peak_lr": 1.0, "final_fraction": 0.5})[[0, 10, 20, 30]]
    assert_close(by_hand, np.array([1, 13 / 14, 5 / 6, 0.7]))


@pytest.mark.parametrize(
    ("shape", "floor", "expected"),
    [
        ("linear", 0.0, [1, 1, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [1, 1, 0.875, 0.75, 0.625]),
        ("cosine", 0.0, [1, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
        ("1-sqrt", 0.0, [1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]),
        ("1-sqrt", 0.2, [1, 1, 0.6, 1 - 0.8 * 0.5**0.5, 1 - 0.8 * 0.75**0.5]),
        ("exponential", 0.0625, [1, 1, 0.5, 0.25, 0.125]),
    ],
)
def test_warmup_stable_decay_is_flat_and_falls_at_the_end_of_the_run(
    shape: str, floor: float, expected: list[float]
) -> None:
    wsd = {"peak_lr": 1.0, "decay_steps": 16, "shape": shape, "final_fraction": floor}
    ours = curve_of("warmup_stable_decay", wsd)
    assert np.all(ours[:25] == 1)
    assert_close(ours[[0, 24, 28, 32, 36]], np.array(expected))
    assert curve_of("warmup_stable_decay", {**wsd, "first_tick": 1})[-1] == np.float32(floor)
    after_a_warmup = curve_of("warmup_stable_decay", wsd, warmup_steps=10)
    assert after_a_warmup[10:].tolist() == ours[10:].tolist()


@pytest.mark.parametrize(
    ("knots", "values"),
    [
        ([0, 40], [0.1, 0.7]),
        ([5, 20], [0.4, 0.1]),
        ([0, 7, 40], [0.1, 0.8, 0.2]),
        ([0, 3, 40], [0.1, 0.8, 0.9]),
        ([2, 30, 39], [0.0, 0.01, 1.0]),
        ([0, 4.5, 11, 12.25, 30, 40], [0.1, 0.5, 0.4, 0.4, 0.9, 0.0]),
        ([0, 1, 2, 17, 36.5], [1.0, 0.9, 0.2, 0.15, 0.6]),
        ([0, 10, 11, 40], [0.5, 0.9, 0.1, 0.0]),
        ([0, 1, 30], [1.0, 0.2, 1.0]),
    ],
)
def test_interpolate_cubic_equals_scipy_between_the_knots(
    knots: list[float], values: list[float]
) -> None:
    parameters = {"values": values, "knots_steps": knots, "interpolation": "cubic"}
    inside = np.clip(np.arange(TICKS), knots[0], knots[-1])
    theirs = PchipInterpolator(np.array(knots, float), np.array(values))(inside)
    ours = curve_of("interpolate", parameters)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "cosine"])
def test_interpolate_is_flat_beyond_its_knots_and_through_each_of_them(interpolation: str) -> None:
    interpolated = {"values": [3, 1, 2], "knots_steps": [10, 20, 30]}
    ours = curve_of("interpolate", {**interpolated, "interpolation": interpolation})
    assert ours[[0, 10, 20, 30, 39]].tolist() == [3, 3, 1, 2, 2]
    alone = {"values": [3], "knots_steps": [10], "interpolation": interpolation}
    assert np.all(curve_of("interpolate", alone) == 3)


def test_cyclic_goes_straight_up_and_down() -> None:
    ours = curve_of("cyclic", {"peak_lr": 1.0, "cycle_steps": 8, "init_fraction": 0.5})
    assert ours[:10].tolist() == [0.5, 0.625, 0.75, 0.875, 1, 0.875, 0.75, 0.625, 0.5, 0.625]


def test_a_restart_is_the_first_tick_of_its_cycle_when_the_cycles_grow() -> None:
    growing = {"peak_lr": 1.0, "cycle_steps": 1, "cycle_growth": 3}
    ours = curve_of("cosine_restarts", growing, num_epochs=1, steps_per_epoch=3281)
    starts = [0, 1, 4, 13, 40, 121, 364, 1093, 3280]
    assert np.flatnonzero(ours == 1).tolist() == starts


@pytest.mark.parametrize(
    ("family", "parameters", "expected"),
    [
        ("exponential_decay", {"decay_rate": 0.25}, [1, 0.5**0.5, 0.5, 0.5**1.5]),
        ("inverse_time_decay", {"decay_rate": 4}, [1, 0.5, 1 / 3, 0.25]),
        ("linear_decay", {}, [1, 0.75, 0.5, 0.25]),
        ("polynomial_decay", {"power": 2}, [1, 0.5625, 0.25, 0.0625]),
        ("cosine_decay", {}, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
        ("rex", {}, [1, 6 / 7, 2 / 3, 0.4]),
        ("one_cycle", {"rise_fraction": 0.5, "init_fraction": 0.5}, [0.5, 0.75, 1, 0.500002]),
        (
            "cyclic",
            {"cycle_steps": 2, "init_fraction": 0.5, "mode": "exp_range", "decay_rate": 0.0625},
            [0.5, 0.75, 0.5, 0.5625],
        ),
    ],
)
def test_a_duration_left_out_spans_all_steps(
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


@pytest.mark.parametrize(
    ("parameters", "restart"),
    [
        ({"cycle_fraction": 1 / 22}, 20),
        ({"cycle_epochs": 2.2, "interval": "epoch"}, 33),
        ({"cycle_epochs": 2.2, "cycle_growth": 2, "interval": "epoch"}, 33),
    ],
)
def test_rounding_delays_no_restart(parameters: dict[str, Any], restart: int) -> None:
    """33 / 2.2 is 14.999999999999998 in float64."""
    ours = curve_of(
        "cosine_restarts", {"peak_lr": 1, **parameters}, num_epochs=40, steps_per_epoch=1
    )
    assert ours[restart] == 1


def test_rounding_delays_no_step() -> None:
    parameters = {"peak_lr": 1, "decay_rate": 0.5, "decay_epochs": 2.2, "interval": "epoch"}
    ours = curve_of("step_decay", parameters, num_epochs=40, steps_per_epoch=1)
    assert ours[32:34].tolist() == [0.5**14, 0.5**15]


def test_a_cycle_may_be_longer_than_any_run() -> None:
    parameters = {"peak_lr": 1, "rise_steps": 1e30, "cycle_steps": 1e31, "init_fraction": 0.5}
    assert_close(curve_of("one_cycle", parameters), np.full(TICKS, 0.5))
