"""Curves and numbers as text, for a terminal."""

from typing import Any

import numpy as np

LEAST_WIDTH = 60  # columns that a table with drawings takes; a narrower terminal wraps it
_BLOCKS = " ▁▂▃▄▅▆▇█"
DECADES = 4  # below the peak; what a logarithmic drawing shows


def needs_log_axis(values: np.ndarray) -> bool:
    """Whether a logarithmic axis shows the values better than a linear one.

    A tenth of them may lie lower, so that a warmup alone asks for no logarithmic axis.
    """
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() >= 50 * np.quantile(positive, 0.1))


def sparkline(curve: np.ndarray, width: int, *, log: bool = False, foot: float = 0) -> str:
    """A curve in one line of `width` blocks, from `foot` (some decades with `log`) to its peak."""
    return area(curve, width, 1, log=log, foot=foot)[0]


def area(
    curve: np.ndarray, width: int, height: int, *, log: bool = False, foot: float = 0
) -> list[str]:
    """The area under a curve in `height` lines of `width` blocks, the peak in the first line."""
    places = ((np.arange(width) + 0.5) * len(curve) / width).astype(np.int64)
    shares = _shares(np.asarray(curve, np.float64), log, foot)[places]
    levels = 1 + np.minimum(shares * 8 * height, 8 * height - 1).astype(np.int64)
    lines = []
    for row in reversed(range(height)):
        filled = np.clip(levels - 8 * row, 0, 8)
        lines.append("".join(_BLOCKS[level] for level in filled))
    return lines


def short(value: Any) -> str:
    """A value for people; a number to three figures."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def span(low: float, high: float) -> str:
    """A range of seconds in a unit that fits: `12 to 15 min`."""
    sizes = {"h": 3600, "min": 60, "s": 1, "ms": 1e-3}
    unit = next((unit for unit, size in sizes.items() if high >= 2 * size), "ms")
    ends = [two_figures(seconds / sizes[unit]) for seconds in (low, high)]
    return f"{' to '.join(dict.fromkeys(ends))} {unit}"


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, or hours and minutes: 0:42, 12:05, 3h07."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def count(number: int, thing: str) -> str:
    """A number of things: `1 trial`, `24 trials`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def two_figures(value: float) -> str:
    """A number to two figures, or to a whole one: `0.31`, `4.2`, `310`."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _shares(curve: np.ndarray, log: bool, foot: float) -> np.ndarray:
    """How high each value lies between the foot of the drawing, 0, and the peak, 1."""
    peak = curve.max()
    if peak <= foot:
        return np.full(curve.shape, float(peak > 0))
    if not log:
        return (curve - foot) / (peak - foot)
    foot = max(curve[curve > 0].min(), peak / 10**DECADES)
    return np.log(np.maximum(curve, foot) / foot) / np.log(peak / foot)
