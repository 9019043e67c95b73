"""The figures of a sweep by name, each a function of its records alone."""

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from sweep.atlas import atlas, drawn_curve, rounded
from sweep.errors import CommandError
from sweep.figure_parts import (
    COLOURS,
    FAMILY_COLOURS,
    Spec,
    at_the_bottom,
    axis,
    by_state,
    empty,
    figure,
    hover,
    hover_all,
    legend_name,
    marker,
    metric_title,
)
from sweep.importances import importances
from sweep.parallel import parallel
from sweep.projection import FINISHED_STATES
from sweep.records import SweepRecord, TrialRecord
from sweep.results import leaderboard, shown_state, trial_name
from sweep.slices import slices

_BEST = 5

Draw = Callable[[SweepRecord, Sequence[TrialRecord]], go.Figure]


def draw(name: str, sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """The figure of that name; CommandError for a name that is none."""
    if name not in FIGURES:
        raise CommandError(f"a figure must be one of {', '.join(FIGURES)}, but got {name}", 2)
    return FIGURES[name](sweep, trials)


def draw_all(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, go.Figure]:
    """Every figure by its name, in the order of the report."""
    return {name: draw(name, sweep, trials) for name in FIGURES}


def best_trials(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """Validation accuracy, training loss and learning rate by epoch of the five best trials."""
    complete = [trial for trial in trials if trial.state == "complete"]
    best = leaderboard(sweep.config, complete)[:_BEST]
    title = f"The best {len(best)} trials by epoch" if len(best) > 1 else "The best trial by epoch"
    if not best:
        return empty("The best trials by epoch", "no trial is complete yet")
    data: list[Spec] = []
    values: dict[str, list[float | None]] = {"y": [], "y2": [], "y3": []}
    for rank, trial in enumerate(best):
        look = {"color": FAMILY_COLOURS[rank], "width": 2.5 if rank == 0 else 1.5}
        for place, (x, y) in _panels(sweep, trial).items():
            values[place] += y
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if place != "y3" and len(x) < 60 else "lines",
                    "marker": {"size": 4},
                    "name": trial_name(trial),
                    "legendgroup": str(trial.number),
                    "showlegend": place == "y",
                    "x": x,
                    "y": y,
                    "yaxis": place,
                    "line": look,
                    "hovertemplate": f"{hover(sweep, trial)}<br>epoch %{{x:.4~g}}: %{{y:.5~g}}"
                    "<extra></extra>",
                }
            )
    accuracy = metric_title(sweep.config, "val_accuracy").replace(" (", "<br>(")
    loss = metric_title(sweep.config, "train_loss").replace(" (", "<br>(")
    layout = {
        "xaxis": axis("epoch", anchor="y3", range=[0, sweep.config.training.num_epochs * 1.01]),
        "yaxis": axis(accuracy, domain=[0.7, 1.0]),
        "yaxis2": axis(loss, values["y2"], domain=[0.35, 0.65]),
        "yaxis3": axis("learning rate<br>(dimensionless)", values["y3"], domain=[0.0, 0.3]),
    }
    for place in values:  # no longer than its own panel
        layout[place.replace("y", "yaxis")]["title"]["font"] = {"size": 11}
    below = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.1, "yanchor": "top"}
    margin = {"l": 70, "r": 30, "t": 60, "b": 110}  # five names may take three lines
    return figure(data, title, height=710, margin=margin, legend=below, **layout)


def _panels(
    sweep: SweepRecord, trial: TrialRecord
) -> dict[str, tuple[list[float], list[float | None]]]:
    """The points of a trial's three lines, by the vertical axis they belong to."""
    epochs = [report["epoch"] for report in trial.reports]
    curve = drawn_curve(sweep, trial)
    _, rates = rounded(curve.steps, curve.values)
    ends = [round(step, 4) for step in (curve.steps / sweep.steps_per_epoch).tolist()]
    return {
        "y": (epochs, [report["val_accuracy"] for report in trial.reports]),
        "y2": (epochs, [report["train_loss"] for report in trial.reports]),
        "y3": (ends, list(rates)),
    }


def families(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """The results of each schedule family: boxes of complete trials, marks for all."""
    title = "Results by schedule family"
    if not trials:
        return empty(title, "no trial has been started yet")
    level = axis(
        metric_title(sweep.config, sweep.config.search.metric), [trial.value for trial in trials]
    )
    bottom = at_the_bottom([t.value for t in trials], log=level.get("type") == "log")
    level.pop("range", None)
    labels = family_labels(sweep, trials)
    data = [*family_boxes(trials, labels, COLOURS["complete"])]
    for state, found in by_state(sweep, trials).items():
        if state == "complete":
            continue
        lost = state == "diverged"
        shown = [trial for trial in found if lost or trial.value is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": legend_name(state, len(found)),
                "x": [bottom if lost else trial.value for trial in shown],
                "y": [labels[trial.parameters["schedule"]] for trial in shown],
                "marker": marker(state) | {"opacity": 0.8},
                "text": [hover(sweep, trial) for trial in shown],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    upright = family_axis(labels)
    return figure(data, title, height=170 + 44 * len(labels), xaxis=level, yaxis=upright)


def family_axis(labels: Mapping[str, str]) -> Spec:
    """The upright axis of families, the first of `labels` on top."""
    order = {"categoryorder": "array", "categoryarray": list(labels.values())[::-1]}
    return axis("schedule family (trials)", type="category", **order)


def family_labels(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, str]:
    """`cosine_decay (12)` for each family with its number of trials, the best family first."""
    ranked = leaderboard(sweep.config, trials)
    names = dict.fromkeys(trial.parameters["schedule"] for trial in [*ranked, *trials])
    counts = {name: sum(t.parameters["schedule"] == name for t in trials) for name in names}
    return {name: f"{name} ({count})" for name, count in counts.items()}


def family_boxes(
    trials: Sequence[TrialRecord], labels: Mapping[str, str], colour: str
) -> list[Spec]:
    """A box with all its points for each family, of complete trials."""
    boxes = []
    for family, label in labels.items():
        own = [t for t in trials if t.state == "complete" and t.parameters["schedule"] == family]
        boxes.append(
            {
                "type": "box",
                "orientation": "h",
                "name": label,
                "x": [trial.value for trial in own],
                "y": [label] * len(own),
                "boxpoints": "all",
                "jitter": 0.5,
                "pointpos": 0,
                "marker": {"color": colour, "size": 6, "opacity": 0.75},
                "line": {"color": colour, "width": 1},
                "fillcolor": "rgba(128,128,128,0.12)",
                "text": [trial_name(trial) for trial in own],
                "hovertemplate": "%{text}<br>%{x:.5~g}<extra></extra>",
                "hoveron": "points",
                "showlegend": False,
            }
        )
    return boxes


def history(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """Each trial's result in the order in which they ended, and the best so far."""
    title = "Results in the order in which trials ended"
    ended = [trial for trial in trials if shown_state(sweep, trial) in FINISHED_STATES]
    ended.sort(key=lambda trial: (trial.ended_ms or 0, trial.number))
    if not ended:
        return empty(title, "no trial has ended yet")
    places = {trial.number: place for place, trial in enumerate(ended, start=1)}
    upright = axis(
        metric_title(sweep.config, sweep.config.search.metric), [trial.value for trial in ended]
    )
    bottom = at_the_bottom([t.value for t in ended], log=upright.get("type") == "log")
    upright.pop("range", None)
    data = [_best_line(sweep, ended)]
    for state, found in by_state(sweep, ended).items():
        lost = state == "diverged"
        shown = [trial for trial in found if lost or trial.value is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": legend_name(state, len(found)),
                "x": [places[trial.number] for trial in shown],
                "y": [bottom if lost else trial.value for trial in shown],
                "marker": marker(state, size=7) | {"opacity": 0.85},
                "text": [hover_all(sweep, trial) for trial in shown],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    level = axis("ended trials (count)", range=[0.5 - 0.02 * len(ended), 1.02 * len(ended) + 0.5])
    return figure(data, title, xaxis=level, yaxis=upright)


def _best_line(sweep: SweepRecord, ended: Sequence[TrialRecord]) -> Spec:
    """The best result of a complete trial so far, from the first one on."""
    better = max if sweep.config.search.goal == "maximize" else min
    best: float | None = None
    x, y = [], []
    for place, trial in enumerate(ended, start=1):
        if trial.state == "complete" and trial.value is not None:
            best = trial.value if best is None else better(best, trial.value)
        if best is not None:
            x.append(place)
            y.append(best)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": x,
        "y": y,
        "line": {"shape": "hv", "color": COLOURS["running"], "width": 2},
        "hovertemplate": "best of %{x}: %{y:.5~g}<extra></extra>",
    }


FIGURES: Mapping[str, Draw] = {
    "atlas": atlas,
    "best_trials": best_trials,
    "families": families,
    "slices": slices,
    "importances": importances,
    "parallel": parallel,
    "history": history,
}
