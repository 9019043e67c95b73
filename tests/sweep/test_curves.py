"""Curves made fit to be shown."""

import numpy as np
import pytest

from sweep.curves import draw_curve, find_knots, thin_curve

STEP_COUNT = 20_000
TICKS = np.arange(STEP_COUNT)
PIECES = {
    "warmup": ([0, 1000, STEP_COUNT - 1], [0.001, 0.3, 0.0]),
    "plateau": ([0, 1234, 12_345, STEP_COUNT - 1], [0.0, 0.3, 0.3, 0.0]),
    "jump": ([0, 6999, 7000, STEP_COUNT - 1], [0.3, 0.3, 0.03, 0.03]),
    "restarts": ([0, 4999, 5000, 11_111, 11_112, STEP_COUNT - 1], [1, 0.1, 1, 0.1, 1, 0.1]),
    "small_bend_beside_a_jump": ([0, 9000, 9500, 9501, STEP_COUNT - 1], [0.01, 0.02, 0.02, 9, 9]),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_thinned_piecewise_linear_curve_is_exact(name: str) -> None:
    places, values = PIECES[name]
    curve = np.interp(TICKS, places, values).astype(np.float32)
    kept = thin_curve(curve)
    assert len(kept) <= 2500
    assert set(places) <= set(kept.tolist())
    drawn = np.interp(TICKS, kept, curve[kept])
    np.testing.assert_allclose(drawn, curve, rtol=1e-6, atol=1e-7 * curve.max())


@pytest.mark.parametrize(
    ("num_steps", "max_points"), [(0, 9), (1, 9), (2, 2), (9, 9), (10, 9), (2501, 2500)]
)
def test_thinning_keeps_the_ends_and_the_limit(num_steps: int, max_points: int) -> None:
    curve = np.linspace(1, 0, num_steps, dtype=np.float32) ** 2
    kept = thin_curve(curve, max_points)
    assert len(kept) == min(num_steps, max_points)
    assert np.all(np.diff(kept) > 0)
    assert num_steps == 0 or (kept[0], kept[-1]) == (0, num_steps - 1)


def test_thinning_with_more_knots_than_points_spaces_evenly() -> None:
    curve = (TICKS // 10 % 7).astype(np.float32)
    assert len(find_knots(curve)) > 2500
    assert set(np.diff(thin_curve(curve)).tolist()) == {8, 9}


def test_a_smooth_curve_has_no_knots_but_its_ends() -> None:
    curve = (0.5 + 0.5 * np.cos(np.pi * TICKS / STEP_COUNT)).astype(np.float32)
    assert find_knots(curve).tolist() == [0, STEP_COUNT - 1]


def test_thinning_to_one_point_is_refused() -> None:
    with pytest.raises(ValueError, match="max_points >= 2 must hold, but got 1"):
        thin_curve(np.ones(3, np.float32), 1)


@pytest.mark.parametrize("steps_run", [0, 1, 200])
@pytest.mark.parametrize("curve", [np.geomspace(1, 1e-3, 200), np.zeros(200)])
def test_the_picture_is_a_png(curve: np.ndarray, steps_run: int) -> None:
    assert draw_curve(curve, steps_run=steps_run, title="0007").startswith(b"\x89PNG")
