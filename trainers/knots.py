"""Schedules through given values: in steps, or interpolated from knot to knot."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from trainers.bounds import non_negative, numbers, one_of
from trainers.decays import half_cosine

Interpolation = Literal["linear", "cubic", "cosine"]


def piecewise_constant(
    ticks: np.ndarray, *, values: Sequence[float], boundaries_ticks: Sequence[float]
) -> np.ndarray:
    """One value up to and including each boundary, the next value after it.

    values[number of boundaries b with t > b]

    As in jax.example_libraries; optax and PyTorch move on at the boundary itself, one tick earlier.
    """
    boundaries = numbers("boundaries", boundaries_ticks, at_least=0)
    rates = numbers("values", values)
    if len(rates) != len(boundaries) + 1:
        raise ValueError(
            "values must hold one more entry than boundaries, "
            f"but got {len(rates)} values and {len(boundaries)} boundaries"
        )
    non_negative(**{f"values.{index}": rate for index, rate in enumerate(values)})
    _check_rising("boundaries", boundaries)
    return rates[np.sum(ticks[:, None] > boundaries, axis=1)]


def interpolate(
    ticks: np.ndarray,
    *,
    values: Sequence[float],
    knots_ticks: Sequence[float],
    interpolation: Interpolation = "linear",
) -> np.ndarray:
    """Through a value at each knot; flat before the first knot and after the last.

    values[i] at t = knots[i], between them a line, a monotone cubic or half a cosine

    The cubic never overshoots (Fritsch & Carlson 1980, slopes as in SciPy's PchipInterpolator).
    """
    knots, rates = numbers("knots", knots_ticks), numbers("values", values)
    if len(rates) != len(knots):
        raise ValueError(
            "values must hold one entry for each of the knots, "
            f"but got {len(rates)} values and {len(knots)} knots"
        )
    non_negative(**{f"values.{index}": rate for index, rate in enumerate(values)})
    _check_rising("knots", knots)
    one_of(get_args(Interpolation), interpolation=interpolation)
    return between_knots(ticks, knots, rates, interpolation)


def between_knots(
    ticks: np.ndarray, knots: np.ndarray, values: np.ndarray, interpolation: str
) -> np.ndarray:
    """The values at `ticks`; beyond the first and the last knot the curve is flat.

    knots, values: float64 (n,), the knots rising. Within the range of the values everywhere.
    """
    if interpolation == "linear" or len(knots) == 1:
        return np.interp(ticks, knots, values)
    left = np.clip(np.searchsorted(knots, ticks, side="right") - 1, 0, len(knots) - 2)
    x = np.clip((ticks - knots[left]) / (knots[left + 1] - knots[left]), 0, 1)
    if interpolation == "cosine":
        share = half_cosine(1 - x)
        return values[left] * (1 - share) + values[left + 1] * share
    widths, slopes = np.diff(knots)[left], _monotone_slopes(knots, values)
    curve = (
        values[left] * (1 + 2 * x) * (1 - x) ** 2
        + values[left + 1] * (3 - 2 * x) * x**2
        + widths * x * (1 - x) * (slopes[left] * (1 - x) - slopes[left + 1] * x)
    )
    low = np.minimum(values[left], values[left + 1])
    return np.clip(curve, low, np.maximum(values[left], values[left + 1]))


def _check_rising(name: str, places: np.ndarray) -> None:
    """Every place must lie after the one before."""
    if not np.all(np.diff(places) > 0):
        raise ValueError(f"{name} must rise, but got {places.tolist()}")


def _monotone_slopes(knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The slope at each knot: a weighted harmonic mean of its neighbours', 0 at a turn.

    Fritsch & Butland 1984; the ends as in Moler, Numerical Computing with MATLAB, chapter 3.
    """
    widths, rises = np.diff(knots), np.diff(values) / np.diff(knots)
    if len(knots) == 2:
        return np.repeat(rises, 2)
    before, after = 2 * widths[1:] + widths[:-1], widths[1:] + 2 * widths[:-1]
    straight = rises[:-1] * rises[1:] > 0
    inner = np.zeros(len(straight))
    inner[straight] = (before + after)[straight] / (
        before[straight] / rises[:-1][straight] + after[straight] / rises[1:][straight]
    )
    first = _end_slope(widths[0], widths[1], rises[0], rises[1])
    last = _end_slope(widths[-1], widths[-2], rises[-1], rises[-2])
    return np.concatenate([[first], inner, [last]])


def _end_slope(width: float, next_width: float, rise: float, next_rise: float) -> float:
    """A one-sided slope of three points that keeps the shape."""
    slope = ((2 * width + next_width) * rise - width * next_rise) / (width + next_width)
    if np.sign(slope) != np.sign(rise):
        return 0.0
    if np.sign(rise) != np.sign(next_rise) and abs(slope) > 3 * abs(rise):
        return 3 * rise
    return slope
