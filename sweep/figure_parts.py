"""What the figures share: colours of outcomes, titles with units, axes that fit their values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from search_spaces import SweepConfig
from sweep.drawing import DECADES, needs_log_axis, short
from sweep.records import SweepRecord, TrialRecord
from sweep.results import shown_state, trial_name

# Each of them can be told from the others, on a light page and on a dark one.
COLOURS = {
    "complete": "#2b7bd4",
    "pruned": "#d99a1c",
    "diverged": "#e03131",
    "failed": "#8a5a5a",
    "cancelled": "#8d8d8d",
    "interrupted": "#9c6ade",
    "running": "#12a05c",
}
SYMBOLS = {"complete": "circle", "pruned": "triangle-down", "diverged": "x"}
FAMILY_COLOURS = ("#2b7bd4", "#d9681d", "#12a05c", "#c65a9b", "#d99a1c", "#45a9d8", "#8c6d31")
SCALE = ((0.0, "#b9a98b"), (0.5, "#58a4b0"), (1.0, "#1f5fe0"))  # of the metric, worst to best
GRID = "rgba(128,128,128,0.22)"
LEARNING_RATE = "learning rate (dimensionless)"
_UNITS = {
    "val_accuracy": "fraction of validation images",
    "val_loss": "nats per image, validation",
    "train_loss": "nats per image, training",
}

Spec = dict[str, Any]  # a figure, trace or layout as plotly's JSON has it


def on_scale(share: float) -> str:
    """The colour on SCALE at `share`, from 0, the worst, to 1, the best: `#rrggbb`."""
    places = [place for place, _ in SCALE]
    parts = zip(*(bytes.fromhex(colour[1:]) for _, colour in SCALE), strict=True)
    return "#" + bytes(round(float(np.interp(share, places, part))) for part in parts).hex()


def metric_title(config: SweepConfig, metric: str) -> str:
    """An axis title: the metric and its unit."""
    if metric == "train_loss" and config.training.loss_reduction == "sum":
        return "train_loss (nats per batch, training)"
    return f"{metric} ({_UNITS[metric]})"


def axis(title: str, values: Iterable[float | None] = (), **changes: Any) -> Spec:
    """An axis with a title; logarithmic where `values` span decades."""
    found = finite(values)
    log: Spec = {}
    if len(found) and found.min() >= 0 and needs_log_axis(found):
        log = {"type": "log", "dtick": 1, "exponentformat": "e"}
        low, high = found[found > 0].min(), found.max()
        low = max(low, high / 10**DECADES)
        log["range"] = [math.log10(low / 1.3), math.log10(high * 1.3)]
        if high < 30 * low:
            log.pop("dtick")
    base = {
        "title": {"text": title, "standoff": 12},
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
    }
    return base | log | changes


def finite(values: Iterable[float | None]) -> np.ndarray:
    """The finite numbers among `values`."""
    found = np.array([value for value in values if value is not None], np.float64)
    return found[np.isfinite(found)]


def figure(data: Sequence[Spec], title: str, *, height: int = 460, **layout: Any) -> go.Figure:
    """A figure on a transparent ground, whose text takes the colour of the page."""
    base = {
        "template": "none",
        "title": {
            "text": title,
            "font": {"size": 16},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 14},
        },
        "height": height,
        "margin": {"l": 70, "r": 30, "t": 80, "b": 60},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#777777"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    }
    return go.Figure({"data": list(data), "layout": base | layout})


def empty(title: str, message: str) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    note = annotation(message, x=0.5, y=0.5, size=14)
    hidden = {"visible": False}
    return figure([], title, height=150, xaxis=hidden, yaxis=hidden, annotations=[note])


def annotation(text: str, *, x: float, y: float, size: int = 12, **changes: Any) -> Spec:
    """A line of text at a place given in shares of the figure."""
    place = {"xref": "paper", "yref": "paper", "x": x, "y": y, "showarrow": False}
    return {"text": text, "font": {"size": size}} | place | changes


def hover(sweep: SweepRecord, trial: TrialRecord) -> str:
    """A trial's identity and result, for a pointer that rests on it."""
    metric, value = sweep.config.search.metric, trial.value
    result = "no value" if value is None else f"{metric} {value:.5g}"
    epochs = f"{len(trial.reports)} of {sweep.config.training.num_epochs} epochs"
    state = shown_state(sweep, trial)
    return escape(f"{trial_name(trial)}<br>{result}<br>{state}, {epochs}").replace(
        "&lt;br&gt;", "<br>"
    )


def hover_all(sweep: SweepRecord, trial: TrialRecord) -> str:
    """`hover`, with the parameters."""
    chosen = [f"{k} = {short(v)}" for k, v in trial.parameters.items() if k != "schedule"]
    return "<br>".join([hover(sweep, trial), *(escape(line[:80]) for line in chosen[:12])])


def by_state(
    sweep: SweepRecord, trials: Sequence[TrialRecord]
) -> Mapping[str, Sequence[TrialRecord]]:
    """The trials of each state that occurs, in the order of COLOURS."""
    found: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        found.setdefault(shown_state(sweep, trial), []).append(trial)
    return {state: found[state] for state in COLOURS if state in found}


def at_the_bottom(values: Iterable[float | None], *, log: bool) -> float:
    """Where trials without a value are drawn on the metric's axis: a little below all others."""
    found = finite(values)
    if not len(found):
        return 0.0
    low, high = float(found.min()), float(found.max())
    if log:
        return low / max(high / low, 1.0) ** 0.08 / 1.05
    return low - 0.08 * ((high - low) or abs(high) or 1.0)


def legend_name(state: str, number: int) -> str:
    """`pruned (12)`."""
    return f"{state} ({number})"


def marker(state: str, *, size: int = 8) -> Spec:
    """The mark of a trial in that state; of a pruned one it is hollow."""
    symbol = SYMBOLS.get(state, "diamond")
    if state == "pruned":
        symbol += "-open"
    return {"color": COLOURS[state], "symbol": symbol, "size": size}
