"""Parallel coordinates: parameters and result of each complete trial as one line."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from search_spaces import Choice, Distribution
from sweep.drawing import count, short
from sweep.figure_parts import SCALE, Spec, annotation, empty, figure, metric_title
from sweep.parameter_columns import chosen_by, columns_of, is_choice, is_log, label_of, unit_of
from sweep.records import SweepRecord, TrialRecord

_MOST_AXES = 10


def parallel(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """Every complete trial as a line through its parameters to its result."""
    complete = [t for t in trials if t.state == "complete" and t.value is not None]
    title = f"Parallel coordinates (full-length trials: {len(complete)})"
    if not complete:
        return empty(title, "no trial is complete yet")
    columns = columns_of(sweep)
    chosen = {name: chosen_by(sweep, complete, name) for name in columns}
    ranked = sorted(columns, key=lambda name: (name != "schedule", -len(chosen[name])))
    shown = [name for name in ranked if chosen[name]][:_MOST_AXES]
    dimensions = [_dimension(name, columns[name], chosen[name], complete) for name in shown]
    label = metric_title(sweep.config, sweep.config.search.metric)
    label = label.partition(" of ")[0].partition(",")[0].removesuffix(")") + ")"
    values = [trial.value for trial in complete]
    dimensions.append({"label": label, "values": values})
    best_is_high = sweep.config.search.goal == "maximize"
    scale = SCALE if best_is_high else [(1 - place, colour) for place, colour in reversed(SCALE)]
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {"color": values, "colorscale": [list(stop) for stop in scale]},
        "labelangle": -12,
        "labelside": "top",
    }
    left_out = len([name for name in ranked if chosen[name]]) - len(shown)
    notes = []
    if left_out:
        text = f"left out: {count(left_out, 'parameter')} that fewer trials have"
        notes = [annotation(text, x=0, y=-0.12, xanchor="left")]
    margin = {"l": 140, "r": 130, "t": 150, "b": 50}
    return figure([trace], title, height=520, margin=margin, annotations=notes)


def _dimension(
    name: str,
    spreads: Sequence[Distribution],
    chosen: Mapping[int, Any],
    trials: Sequence[TrialRecord],
) -> Spec:
    """One upright axis; trials without the parameter go through `none` below the others."""
    if is_choice(spreads):
        listed = [str(o) for s in spreads if isinstance(s, Choice) for o in s.options]
        options = list(dict.fromkeys([*listed, *map(str, chosen.values())]))
        places = {number: float(options.index(str(value))) for number, value in chosen.items()}
        ticks = {float(place): option for place, option in enumerate(options)}
    else:
        log = is_log(spreads) and min(chosen.values()) > 0
        places = {
            number: math.log10(value) if log else float(value) for number, value in chosen.items()
        }
        ticks = _ticks(min(places.values()), max(places.values()), log=log)
    low, high = min([*places.values(), *ticks]), max([*places.values(), *ticks])
    if len(chosen) < len(trials):
        low -= 0.15 * ((high - low) or 1.0)
        ticks[low] = "none"
    unit = "" if is_choice(spreads) else f" ({unit_of(name, spreads)})"
    log_note = ", log" if not is_choice(spreads) and is_log(spreads) else ""
    return {
        "label": label_of(name) + (unit[:-1] + log_note + ")" if unit else ""),
        "values": [round(places.get(trial.number, low), 5) for trial in trials],
        "range": [low, high if high > low else low + 1],
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
    }


def _ticks(low: float, high: float, *, log: bool) -> dict[float, str]:
    """Five places between both ends, with the values that stand there."""
    if high <= low:
        return {low: short(10.0**low if log else low)}
    places = [low + (high - low) * part / 4 for part in range(5)]
    return {place: short(float(f"{10**place if log else place:.2g}")) for place in places}
