"""Two sweeps side by side: in figures for people and programs, as a table, as a page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from rich.table import Table
from rich.text import Text

from search_spaces import changed_keys
from sweep.atlas import atlas_curves, atlas_traces, in_view
from sweep.drawing import short
from sweep.figure_page import Section, page
from sweep.figure_parts import (
    COLOURS,
    FAMILY_COLOURS,
    LEARNING_RATE,
    Spec,
    axis,
    empty,
    figure,
    metric_title,
)
from sweep.figures import family_axis, family_boxes
from sweep.records import SweepRecord, TrialRecord
from sweep.report import curve_text, summary_rows
from sweep.results import best_trial, leaderboard, summary

Sweep = tuple[SweepRecord, Sequence[TrialRecord]]


def comparison(a: Sweep, b: Sweep) -> dict[str, Any]:
    """Both summaries, the results by family, and the keys of the config that differ."""
    configs = [one[0].config.model_dump(mode="json") for one in (a, b)]
    keys = [key for key in changed_keys(a[0].config, b[0].config) if key != "name"]
    return {
        "sweeps": [summary(sweep, list(trials)) for sweep, trials in (a, b)],
        "comparable": _measure(a[0]) == _measure(b[0]),
        "families": [family_results(*one) for one in (a, b)],
        "differing_keys": {key: [_at(config, key) for config in configs] for key in keys},
    }


def family_results(
    sweep: SweepRecord, trials: Sequence[TrialRecord]
) -> dict[str, dict[str, float | int | None]]:
    """For each family, best first: its trials, its complete ones, its best value."""
    ranked = leaderboard(sweep.config, trials)
    found: dict[str, dict[str, float | int | None]] = {}
    for family in dict.fromkeys(t.parameters["schedule"] for t in [*ranked, *trials]):
        own = [trial for trial in trials if trial.parameters["schedule"] == family]
        best = best_trial(sweep.config, own)
        complete = sum(trial.state == "complete" for trial in own)
        found[family] = {
            "trials": len(own),
            "complete": complete,
            "best": None if best is None else best.value,
        }
    return found


def comparison_rows(a: Sweep, b: Sweep) -> list[tuple[str, str, str]]:
    """Label and both texts, in the order in which a person reads them."""
    facts, columns = comparison(a, b), [summary_rows(*one) for one in (a, b)]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [(label, *(column.get(label, "") for column in columns)) for label in labels]
    rows.append(("curve", *(_best_curve(*one) for one in (a, b))))
    rows += [
        (family, *(_family_text(found.get(family)) for found in facts["families"]))
        for family in dict.fromkeys(key for found in facts["families"] for key in found)
    ]
    rows += [(key, *map(_value_text, pair)) for key, pair in facts["differing_keys"].items()]
    return [(label, one, other) for label, one, other in rows]


def comparison_table(a: Sweep, b: Sweep) -> Table:
    """The rows for a terminal, texts that differ in bold."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for sweep, _ in (a, b):
        table.add_column(Text(sweep.name), overflow="fold", ratio=1)
    for label, one, other in comparison_rows(a, b):
        style = "bold" if one != other else ""
        table.add_row(Text(label, "cyan"), Text(one, style), Text(other, style))
    return table


def warning(a: Sweep, b: Sweep) -> str:
    """Why the results cannot be held against each other; empty where they can."""
    one, other = _measure(a[0]), _measure(b[0])
    if one == other:
        return ""
    return f"the results are of different things: {_words(one)} against {_words(other)}"


def compare_html(a: Sweep, b: Sweep) -> str:
    """Two sweeps as one page: the rows, then atlases and results on shared axes."""
    title = f"{a[0].name} and {b[0].name}"
    said = warning(a, b)
    lines = "".join(
        f"<tr{' class=differs' if one != other else ''}><th>{escape(label)}"
        f"<td>{escape(one)}<td>{escape(other)}\n"
        for label, one, other in comparison_rows(a, b)
    )
    names = f"<tr><th><th>{escape(a[0].name)}<th>{escape(b[0].name)}\n"
    text = (
        f"<h1>{escape(title)}</h1>\n<p>{escape(said)}</p>\n"
        f'<div class="wide"><table class="pair">{names}{lines}</table></div>\n'
    )
    figures = {"atlases": both_atlases(a, b), "results": both_results(a, b)}
    return page(title, [Section(text, figures)])


def both_atlases(a: Sweep, b: Sweep) -> go.Figure:
    """The learning-rate curves of two sweeps beside each other, on the same axes."""
    title = "Every learning-rate curve"
    curves = [atlas_curves(*one) for one in (a, b)]
    values = [
        value for found in curves for curve in in_view(found) for value in curve.values.tolist()
    ]
    if not values:
        return empty(title, "neither sweep has a curve yet")
    data: list[Spec] = []
    for number, (one, found) in enumerate(zip((a, b), curves, strict=True)):
        for trace in atlas_traces(one[0], found):
            place = {"xaxis": "x2", "yaxis": "y2"} if number else {}
            bar = trace.get("marker", {}).get("colorbar")
            if bar:
                bar |= {"x": 1.0 if number else 0.43, "len": 0.9}
            data.append(trace | place | {"showlegend": False})
    end = max(one[0].steps_per_epoch * one[0].config.training.num_epochs for one in (a, b))
    level, upright = {"range": [-0.02 * end, 1.02 * end]}, axis(LEARNING_RATE, values)
    step = "optimizer step"
    layout = {
        "xaxis": axis(f"{step}<br>{escape(a[0].name)}", domain=[0, 0.42], **level),
        "xaxis2": axis(f"{step}<br>{escape(b[0].name)}", domain=[0.57, 0.99], anchor="y2", **level),
        "yaxis": upright,
        "yaxis2": upright | {"anchor": "x2", "matches": "y"},
    }
    margin = {"l": 70, "r": 90, "t": 60, "b": 80}
    return figure(data, title, height=520, margin=margin, **layout)


def both_results(a: Sweep, b: Sweep) -> go.Figure:
    """The results of two sweeps by schedule family, on one axis."""
    title = "Results of complete trials by schedule family"
    families = list(dict.fromkeys(name for one in (a, b) for name in family_results(*one)))
    if not families:
        return empty(title, "neither sweep has a trial yet")
    numbers = [family_results(*one) for one in (a, b)]
    labels = {
        family: f"{family} ({' and '.join(str(_trials_of(found, family)) for found in numbers)})"
        for family in families
    }
    data: list[Spec] = []
    for (sweep, trials), colour in zip(
        (a, b), (COLOURS["complete"], FAMILY_COLOURS[1]), strict=True
    ):
        boxes = family_boxes(trials, labels, colour)
        for number, box in enumerate(boxes):
            group = {"offsetgroup": sweep.name, "legendgroup": sweep.name, "name": sweep.name}
            data.append(box | group | {"showlegend": number == 0})
    metrics = dict.fromkeys(metric_title(one[0].config, _measure(one[0])[0]) for one in (a, b))
    values = [trial.value for one in (a, b) for trial in one[1] if trial.state == "complete"]
    level = axis(" and ".join(metrics), values)
    height = 170 + 64 * len(labels)
    upright = family_axis(labels)
    return figure(data, title, height=height, boxmode="group", xaxis=level, yaxis=upright)


def _trials_of(found: Mapping[str, Mapping[str, Any]], family: str) -> int:
    return found.get(family, {}).get("trials", 0)


def _measure(sweep: SweepRecord) -> tuple[str, str, str, int]:
    """What a result is a result of."""
    data = sweep.config.data
    return sweep.config.search.metric, data.dataset, data.validation_split, data.validation_examples


def _words(measure: tuple[str, str, str, int]) -> str:
    metric, dataset, split, examples = measure
    held_out = f"{examples:,} examples cut from training" if split == "train" else "the test split"
    return f"{metric} on {dataset}, {held_out}"


def _best_curve(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    best = best_trial(sweep.config, trials)
    return curve_text(sweep, best, 24) if best else ""


def _family_text(found: Mapping[str, float | int | None] | None) -> str:
    if found is None:
        return "not searched"
    best = found["best"]
    reached = "none complete" if best is None else f"best {best:.4f}"
    return f"{reached}, {found['complete']} of {found['trials']} complete"


def _at(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return str(value).replace("'", "")
    return "not set" if value is None else short(value)
