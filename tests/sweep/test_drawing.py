"""Curves as blocks."""

import numpy as np
import pytest

from sweep.drawing import area, needs_log_axis, short, sparkline

RISING = np.arange(1, 9) / 8


@pytest.mark.parametrize(
    ("curve", "width", "how", "expected"),
    [
        (np.full(100, 0.3), 5, {}, "█████"),
        (np.zeros(100), 5, {}, "▁▁▁▁▁"),
        (RISING - 1 / 16, 8, {}, "▁▂▃▄▅▆▇█"),
        (RISING[::-1] - 1 / 16, 4, {}, "▇▅▃▁"),
        (RISING, 16, {"foot": 1 / 8}, "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"),
        (np.full(10, 0.9), 3, {"foot": 0.9}, "███"),
        (np.array([1, 0.12, 0.012, 0.0012, 1e-4]), 5, {"log": True}, "█▇▅▃▁"),
        (np.array([1, 1e-3, 1e-4, 1e-12, 0]), 5, {"log": True}, "█▃▁▁▁"),
    ],
)
def test_a_sparkline_follows_its_curve(
    curve: np.ndarray, width: int, how: dict[str, float], expected: str
) -> None:
    log = bool(how.get("log", False))
    assert sparkline(curve, width, log=log, foot=how.get("foot", 0)) == expected


def test_an_area_has_a_line_of_blocks_for_each_eight_levels() -> None:
    assert area(np.array([0, 0.25, 0.5, 0.75, 1]), 5, 2) == ["  ▁▅█", "▁▅███"]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (np.zeros(10), False),
        (np.ones(10), False),
        (np.geomspace(1, 1e-3, 100), True),
        (np.geomspace(1, 1e-1, 100), False),
        (np.concatenate([np.linspace(0, 1, 9), np.ones(100)]), False),  # a warmup alone
    ],
)
def test_a_logarithmic_axis_is_for_curves_that_fall_far(curve: np.ndarray, expected: bool) -> None:
    assert needs_log_axis(curve) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.123456, "0.123"), (1e-5, "1e-05"), (3.0, "3"), (7, "7"), ("cosine", "cosine")],
)
def test_numbers_have_three_figures(value: object, expected: str) -> None:
    assert short(value) == expected
