"""The figure of the metric against each parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from search_spaces import Choice, Distribution
from sweep.figure_parts import (
    Spec,
    at_the_bottom,
    axis,
    by_state,
    empty,
    figure,
    hover_all,
    legend_name,
    marker,
    metric_title,
)
from sweep.parameter_columns import chosen_by, columns_of, decades, is_choice, is_log, unit_of
from sweep.records import SweepRecord, TrialRecord

_ACROSS = 3  # panels in a row
_PANEL = 250  # pixels


def slices(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """The metric against each free parameter; diverged trials are crosses at the bottom."""
    title, columns = "The result against each parameter", columns_of(sweep)
    columns.pop("schedule", None)  # which `families` shows
    values = {name: chosen_by(sweep, trials, name) for name in columns}
    if not columns:
        return empty(title, "this sweep has no free parameter")
    if not trials:
        return empty(title, "no trial has been started yet")
    metric = sweep.config.search.metric
    upright = axis(metric_title(sweep.config, metric), [trial.value for trial in trials])
    log = upright.get("type") == "log"
    upright["title"]["text"] = upright["title"]["text"].replace(" (", "<br>(")
    upright.pop("range", None)  # the crosses lie below it
    bottom = at_the_bottom([trial.value for trial in trials], log=log)
    shown = [name for name in columns if values[name]]
    rows = math.ceil(len(shown) / _ACROSS)
    data: list[Spec] = []
    layout: Spec = {}
    for index, name in enumerate(shown):
        number = "" if index == 0 else str(index + 1)
        row, column = divmod(index, _ACROSS)
        data += _panel(sweep, trials, values[name], columns[name], bottom, number, name)
        layout |= _panel_axes(name, columns[name], upright, number, row, column, rows)
    _name_once(data, sweep, trials)
    height = 120 + _PANEL * rows
    return figure(data, title, height=height, margin={"l": 75, "r": 20, "t": 90, "b": 60}, **layout)


def _panel(
    sweep: SweepRecord,
    trials: Sequence[TrialRecord],
    values: Mapping[int, Any],
    spreads: Sequence[Distribution],
    bottom: float,
    number: str,
    name: str,
) -> list[Spec]:
    """The marks of one panel of the slices, a trace for each state."""
    traces = []
    for state, found in by_state(
        sweep, [trial for trial in trials if trial.number in values]
    ).items():
        lost = state == "diverged"
        shown = [trial for trial in found if lost or trial.value is not None]
        x = [values[trial.number] for trial in shown]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [str(value) for value in x] if is_choice(spreads) else x,
                "y": [bottom if lost else trial.value for trial in shown],
                "xaxis": f"x{number}",
                "yaxis": f"y{number}",
                "marker": marker(state, size=7) | {"opacity": 0.8},
                "text": [hover_all(sweep, trial) for trial in shown],
                "hovertemplate": "%{text}<extra></extra>",
                "legendgroup": state,
                "meta": {"state": state, "parameter": name},
            }
        )
    return traces


def _panel_axes(
    name: str,
    spreads: Sequence[Distribution],
    upright: Spec,
    number: str,
    row: int,
    column: int,
    rows: int,
) -> Spec:
    """The axes of one panel, in its place."""
    gap_across, gap_upright = 0.05, 75 / (_PANEL * rows)
    width, height = (1 - 2 * gap_across) / 3, (1 - (rows - 1) * gap_upright) / rows
    left, top = column * (width + gap_across), 1 - row * (height + gap_upright)
    level = axis(
        f"{name} ({unit_of(name, spreads)})",
        anchor=f"y{number}",
        domain=[left, min(left + width, 1)],
    )
    if is_choice(spreads):
        options = [str(o) for s in spreads if isinstance(s, Choice) for o in s.options]
        level |= {"type": "category", "categoryorder": "array", "categoryarray": options}
    elif is_log(spreads):
        level |= {"type": "log", "exponentformat": "e"}
        if decades(spreads) >= 2:
            level["dtick"] = max(1, round(decades(spreads) / 4))
    side = upright | {"anchor": f"x{number}", "domain": [max(top - height, 0), top]}
    if number:
        side["matches"] = "y"
    if column:
        side["title"] = {"text": ""}
        side["showticklabels"] = False
    return {f"xaxis{number}": level, f"yaxis{number}": side}


def _name_once(data: list[Spec], sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """Give each state one entry in the legend, with its number of trials."""
    numbers = {state: len(found) for state, found in by_state(sweep, trials).items()}
    for trace in data:
        state = trace["meta"]["state"]
        trace["showlegend"] = state in numbers
        trace["name"] = legend_name(state, numbers.pop(state)) if state in numbers else state
