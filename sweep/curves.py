"""A learning-rate curve made fit to be shown: fewer points, or a picture."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sweep.drawing import needs_log_axis


def thin_curve(curve: np.ndarray, max_points: int = 2500) -> np.ndarray:
    """Sorted indices of at most `max_points` points that draw `curve`, shape (num_steps,).

    The first, the last and every knot are kept, where a knot is a step at which the slope changes
    abruptly (both sides of a jump); the others are evenly spaced. If the knots alone are too many,
    as in a staircase, all points are evenly spaced.
    """
    if max_points < 2:
        raise ValueError(f"max_points >= 2 must hold, but got {max_points}")
    if len(curve) <= max_points:
        return np.arange(len(curve))
    knots = find_knots(curve)
    if len(knots) > max_points:
        return _evenly(len(curve), max_points)
    spare = max_points - len(knots) + 2  # the two ends are among the evenly spaced already
    return np.union1d(knots, _evenly(len(curve), spare))


def find_knots(curve: np.ndarray) -> np.ndarray:
    """Indices where the slope of `curve` changes abruptly, with the first and the last one.

    Abruptly: by far more than it does at both neighbouring steps, and by more than the rounding
    of float32 explains. A smooth curve has none.
    """
    values = np.asarray(curve, np.float64)
    if len(values) < 3:
        return np.arange(len(values))
    bends = np.abs(np.diff(values, n=2))
    padded = np.pad(bends, 2, mode="edge")
    # Two steps to each side: a jump bends the curve at two adjacent steps, which must not hide
    # each other.
    calm = np.minimum(padded[:-4], padded[4:])
    sizes = np.abs(values)
    near = np.maximum(np.maximum(sizes[:-2], sizes[1:-1]), sizes[2:])
    rounding = 8 * np.finfo(np.float32).eps * near
    abrupt = (bends > 4 * calm) & (bends > rounding)
    return np.concatenate([[0], np.flatnonzero(abrupt) + 1, [len(values) - 1]])


def draw_curve(curve: np.ndarray, *, steps_run: int, title: str) -> bytes:
    """A PNG of learning rate against step: the first `steps_run` solid, the rest faint."""
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    shown = thin_curve(curve)
    done = shown[shown < steps_run]
    axes.plot(shown, curve[shown], color="C0", alpha=0.3, linewidth=1.5)
    axes.plot(done, curve[done], color="C0", linewidth=1.5)
    axes.set(xlabel="optimizer step", ylabel="learning rate", title=title)
    if needs_log_axis(curve):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def _evenly(num_steps: int, num_points: int) -> np.ndarray:
    return np.linspace(0, num_steps - 1, num_points).round().astype(np.int64)
