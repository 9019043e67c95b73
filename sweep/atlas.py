"""The atlas of a sweep: the learning-rate curves of all trials over each other."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from sweep.curves import thin_curve
from sweep.figure_parts import (
    COLOURS,
    GRID,
    LEARNING_RATE,
    SCALE,
    Spec,
    axis,
    empty,
    figure,
    finite,
    hover,
    legend_name,
    marker,
    on_scale,
)
from sweep.projection import applied_curve
from sweep.records import SweepRecord, TrialRecord
from sweep.results import leaderboard, shown_state, trial_name

_POINTS = 120  # of a curve
_DRAWN_FIRST = ("failed", "cancelled", "interrupted", "pruned", "diverged", "running", "complete")


class Curve(NamedTuple):
    """A trial's learning rates as they are drawn."""

    trial: TrialRecord
    state: str
    steps: np.ndarray  # int64, sorted; empty where the curve cannot be rebuilt
    values: np.ndarray  # float64, at those steps
    peak: float  # of the whole curve, 1 where that is 0
    planned: bool  # no epoch of it has been run


def atlas(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """The curve of every trial, one trace each, coloured by what came of it."""
    title = "Every learning-rate curve, coloured by its result"
    if not trials:
        return empty(title, "no trial has been started yet")
    curves = atlas_curves(sweep, trials)
    data = atlas_traces(sweep, curves)
    raw, normalised = (
        atlas_axes(curves, sweep, normal=False),
        atlas_axes(curves, sweep, normal=True),
    )
    buttons = [
        _button("steps and rates", data, raw),
        _button("share of training, share of peak", _normalised(sweep, curves, data), normalised),
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": True}
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "pad": {"b": 2, "t": 2}}
    # The chosen button is near white on every page, so that its text has to be dark.
    look = {"bgcolor": "#d5dae1", "bordercolor": GRID, "font": {"color": "#22262c"}}
    below = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.16, "yanchor": "top"}
    layout = {"margin": {"l": 70, "r": 110, "t": 110, "b": 90}, "legend": below}
    return figure(data, title, height=590, updatemenus=[menu | place | look], **layout, **raw)


def atlas_curves(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> list[Curve]:
    """Every trial's curve as far as it was run, thinned; the best complete trial comes last."""
    ranks = {trial.number: rank for rank, trial in enumerate(leaderboard(sweep.config, trials))}
    ordered = sorted(
        trials,
        key=lambda trial: (
            _DRAWN_FIRST.index(shown_state(sweep, trial)),
            -ranks.get(trial.number, len(trials)),
        ),
    )
    return [drawn_curve(sweep, trial) for trial in ordered]


def drawn_curve(sweep: SweepRecord, trial: TrialRecord) -> Curve:
    applied, state = applied_curve(sweep, trial), shown_state(sweep, trial)
    planned = not trial.reports
    if applied.values is None:
        return Curve(trial, state, np.array([], np.int64), np.array([]), 1.0, planned)
    whole = np.asarray(applied.values, np.float64)
    run = whole if planned else whole[: applied.verified_epochs * sweep.steps_per_epoch]
    steps = _without_level(run, thin_curve(run, _POINTS)) if len(run) else np.array([], np.int64)
    return Curve(trial, state, steps, run[steps], float(whole.max()) or 1.0, planned)


def _without_level(curve: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The steps but for most of those inside a stretch of equal values; a few are left to hover."""
    values, kept = curve[steps], np.arange(len(steps)) % 6 == 0
    kept[1:-1] |= (values[1:-1] != values[:-2]) | (values[1:-1] != values[2:])
    kept[-1] = True
    return steps[kept]


def atlas_traces(sweep: SweepRecord, curves: Sequence[Curve]) -> list[Spec]:
    """A line for each curve, then marks where trials were stopped, then the colour bar."""
    low, high = value_range(sweep, curves)
    lines = []
    for curve in curves:
        x, y = rounded(curve.steps, curve.values)
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": trial_name(curve.trial),
                "x": x,
                "y": y,
                "line": _line(sweep, curve, low, high),
                "opacity": 0.55 if curve.state in ("pruned", "failed", "cancelled") else 0.85,
                "hovertemplate": hover(sweep, curve.trial) + "<br>%{x}, %{y:.4g}<extra></extra>",
                "showlegend": False,
                "meta": curve.state,
            }
        )
    return [*lines, *_end_marks(curves), *_colour_bar(sweep, curves, low, high)]


def _line(sweep: SweepRecord, curve: Curve, low: float, high: float) -> Spec:
    width = 1.6 if curve.state == "complete" else 1.2
    line = {"color": colour_of(sweep, curve, low, high), "width": width}
    return line | ({"dash": "dot"} if curve.planned else {})


def value_range(sweep: SweepRecord, curves: Sequence[Curve]) -> tuple[float, float]:
    """The ends of the colour scale: the results of complete trials, the worst tenth left out."""
    values = finite(curve.trial.value for curve in curves if curve.state == "complete")
    if not len(values):
        return 0.0, 1.0
    if sweep.config.search.goal == "maximize":
        return float(np.quantile(values, 0.1)), float(values.max())
    return float(values.min()), float(np.quantile(values, 0.9))


def colour_of(sweep: SweepRecord, curve: Curve, low: float, high: float) -> str:
    """A complete trial's colour by its value, any other's by its state."""
    value = curve.trial.value
    if curve.state != "complete" or value is None:
        return COLOURS[curve.state]
    share = 1.0 if high <= low else min(max((value - low) / (high - low), 0.0), 1.0)
    if sweep.config.search.goal == "minimize" and high > low:
        share = 1 - share
    return on_scale(share)


def _end_marks(curves: Sequence[Curve]) -> list[Spec]:
    """Where trials were pruned, diverged or are running: one trace for each of these states."""
    traces = []
    for state in ("pruned", "diverged", "running"):
        found = [curve for curve in curves if curve.state == state]
        ended = [curve for curve in found if len(curve.steps) and not curve.planned]
        if found:
            ends = [rounded(curve.steps[-1:], curve.values[-1:]) for curve in ended]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": legend_name(state, len(found)),
                    "x": [x for (x,), _ in ends],
                    "y": [y for _, (y,) in ends],
                    "marker": marker(state, size=9 if state == "diverged" else 7),
                    "text": [trial_name(curve.trial) for curve in ended],
                    "hovertemplate": f"%{{text}}<br>{state} at %{{x}}<extra></extra>",
                    "meta": "ends",
                }
            )
    return traces


def _colour_bar(sweep: SweepRecord, curves: Sequence[Curve], low: float, high: float) -> list[Spec]:
    """A trace that draws nothing but the scale of the metric, where a trial is complete."""
    if not any(curve.state == "complete" for curve in curves):
        return []
    best_is_high = sweep.config.search.goal == "maximize"
    scale = SCALE if best_is_high else [(1 - place, colour) for place, colour in reversed(SCALE)]
    bar = {
        "title": {"text": sweep.config.search.metric, "side": "right"},
        "thickness": 12,
        "outlinewidth": 0,
        "tickformat": ".4~g",
    }
    shown = {
        "colorscale": [list(stop) for stop in scale],
        "cmin": low,
        "cmax": high if high > low else low + (abs(low) or 1.0) * 1e-3,
        "color": [low],
        "showscale": True,
        "colorbar": bar,
    }
    trace = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "marker": shown}
    return [trace | {"showlegend": False, "hoverinfo": "skip", "meta": "scale"}]


def _normalised(sweep: SweepRecord, curves: Sequence[Curve], data: list[Spec]) -> list[Spec]:
    """The coordinates of `data`, as a share of training and of each curve's own peak."""
    steps = max(sweep.steps_per_epoch * sweep.config.training.num_epochs - 1, 1)
    lines = [rounded(curve.steps / steps, curve.values / curve.peak) for curve in curves]
    moved = [{"x": x, "y": y} for x, y in lines]
    for trace in data[len(curves) :]:
        if trace["meta"] == "ends":
            state = trace["name"].split()[0]
            ends = [
                (x[-1], y[-1])
                for curve, (x, y) in zip(curves, lines, strict=True)
                if curve.state == state and x and not curve.planned
            ]
            moved.append({"x": [x for x, _ in ends], "y": [y for _, y in ends]})
        else:
            moved.append({"x": [None], "y": [None]})
    return moved


def _button(label: str, data: Sequence[Spec], axes: Spec) -> Spec:
    coordinates = {"x": [one["x"] for one in data], "y": [one["y"] for one in data]}
    return {"label": label, "method": "update", "args": [coordinates, axes]}


def atlas_axes(curves: Sequence[Curve], sweep: SweepRecord, *, normal: bool) -> Spec:
    """Both axes, the vertical one logarithmic where the curves span decades."""
    seen = in_view(curves)
    values = [curve.values / (curve.peak if normal else 1.0) for curve in seen]
    lows = [float(np.quantile(own[own > 0], 0.25)) for own in values if (own > 0).any()]
    stopped = zip(seen, values, strict=True)
    lows += [float(own[-1]) for curve, own in stopped if curve.state != "complete" and len(own)]
    together = np.concatenate(values) if values else np.array([])
    vertical = "learning rate / its peak (fraction)" if normal else LEARNING_RATE
    across = "fraction of training" if normal else "optimizer step"
    upright = axis(vertical, together.tolist())
    if "range" in upright:  # most of every curve is to be seen, and where trials were stopped
        low, high = upright["range"]
        floor = 10 ** (high - 6)
        upright["range"][0] = min(low, math.log10(max(min(lows), floor) / 1.3))
    else:
        upright |= {"type": "linear", "rangemode": "tozero", "autorange": True}
    end = 1.0 if normal else sweep.steps_per_epoch * sweep.config.training.num_epochs - 1
    level = axis(across, range=[-0.02 * end, max(1.02 * end, 1e-3)])
    return {"xaxis": level, "yaxis": upright}


def in_view(curves: Sequence[Curve]) -> Sequence[Curve]:
    """The curves that an axis shows: not those that diverged at rates far above all others."""
    peaks = [curve.peak for curve in curves if curve.state != "diverged" and len(curve.steps)]
    if not peaks:
        return curves
    return [curve for curve in curves if curve.state != "diverged" or curve.peak <= 30 * max(peaks)]


def rounded(x: np.ndarray, y: np.ndarray) -> tuple[list[Any], list[float]]:
    """Numbers short enough for a page: five figures."""
    across = x.tolist() if x.dtype.kind == "i" else [round(one, 4) for one in x.tolist()]
    return across, [float(f"{one:.4e}") for one in y.tolist()]
