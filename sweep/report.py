"""A sweep as pages to keep and to send: all its figures with the facts, or one figure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape

import plotly.graph_objects as go

from search_spaces import config_to_yaml
from sweep.atlas_picture import atlas_png
from sweep.drawing import needs_log_axis, short, sparkline
from sweep.figure_page import Section, page
from sweep.figures import draw_all
from sweep.projection import applied_curve
from sweep.records import ENDED, SweepRecord, TrialRecord
from sweep.results import best_trial, leaderboard, shown_state, trial_name
from sweep.tables import chosen_text, counts

__all__ = ["atlas_png", "curve_text", "figure_html", "report_html", "summary_rows"]

_ROWS = 20  # of the leaderboard


def figure_html(name: str, sweep: SweepRecord, figure: go.Figure) -> str:
    """One figure as a page of its own."""
    return page(f"{sweep.name}: {name}", [Section("", {name: figure})], single=True)


def report_html(
    sweep: SweepRecord,
    trials: Sequence[TrialRecord],
    figures: Mapping[str, go.Figure] | None = None,
) -> str:
    """A sweep as one page: what was searched, what won, every figure, what to type next.

    The figures, in their order, are drawn unless they are given.
    """
    sections = [
        Section(_heading(sweep, trials), {}),
        Section(_leaderboard(sweep, trials), {}),
        Section("<h2>Figures</h2>\n", figures or draw_all(sweep, trials)),
        Section(_commands(sweep, trials) + _config(sweep), {}),
    ]
    return page(sweep.name, sections)


def summary_rows(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, str]:
    """What a sweep is and what came of it, a line of text for each aspect."""
    config = sweep.config
    data, training, search = config.data, config.training, config.search
    best = best_trial(config, trials)
    states = ", ".join(f"{number} {state}" for state, number in counts(sweep, trials).items())
    held_out = f"validated on {data.validation_examples:,} of its training examples"
    winner = "no trial is complete"
    if best:
        winner = f"{trial_name(best)}, {search.metric} {best.value!r}"
    return {
        "state": sweep.state,
        "started": datetime.fromtimestamp(sweep.created_ms / 1000).isoformat(" ", "minutes"),
        "data": f"{data.dataset}, "
        + ("validated on its test split" if data.validation_split == "test" else held_out),
        "training": f"{training.model} with {training.optimizer}, {training.num_epochs} epochs of "
        f"{sweep.steps_per_epoch} steps, batch size {training.batch_size}",
        "search": f"{search.algorithm}, to {search.goal} {search.metric}; "
        f"pruning {config.pruning.algorithm}",
        "trials": f"{len(trials)}: {states}" if trials else "none yet",
        "winner" if sweep.state in ENDED else "best so far": winner,
    } | ({"parameters": _chosen(sweep, best)} if best else {})


def table_of(rows: Mapping[str, str]) -> str:
    """Two columns of text as HTML."""
    lines = (f"<tr><th>{escape(label)}<td>{escape(text)}\n" for label, text in rows.items())
    return f"<table>{''.join(lines)}</table>\n"


def _heading(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    described = escape(sweep.config.description)
    return (
        f'<h1>{escape(sweep.name)}</h1>\n<p class="faint">{described}</p>\n'
        f"{table_of(summary_rows(sweep, trials))}"
    )


def _leaderboard(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    ranked = leaderboard(sweep.config, trials)
    if not ranked:
        return "<h2>Leaderboard</h2>\n<p>No trial has a value yet.</p>\n"
    left_out = len(ranked) - _ROWS
    note = f'<p class="faint">and {left_out} more</p>\n' if left_out > 0 else ""
    metric = escape(sweep.config.search.metric)
    return (
        '<h2>Leaderboard</h2>\n<div class="wide"><table>\n'
        f'<tr><th class="number">trial<th class="number">{metric}<th class="number">epochs'
        f"<th>state<th>schedule<th>learning rate<th>parameters\n"
        f"{''.join(_rows(sweep, ranked[:_ROWS]))}</table></div>\n{note}"
    )


def _rows(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> Iterator[str]:
    for trial in trials:
        epochs = f"{len(trial.reports)}/{sweep.config.training.num_epochs}"
        yield (
            f'<tr><td class="number">{trial.number}<td class="number">{short(trial.value)}'
            f'<td class="number">{epochs}<td class="whole">{shown_state(sweep, trial)}'
            f'<td class="whole">{escape(trial.parameters["schedule"])}'
            f'<td class="whole">{curve_text(sweep, trial, 16)}'
            f'<td class="words">{escape(_chosen(sweep, trial)).replace("=", "=<wbr>")}\n'
        )


def _chosen(sweep: SweepRecord, trial: TrialRecord) -> str:
    return chosen_text(sweep.config, trial.parameters["schedule"], trial.parameters)


def curve_text(sweep: SweepRecord, trial: TrialRecord, width: int) -> str:
    """A trial's whole learning-rate curve as blocks; empty where it cannot be rebuilt."""
    values = applied_curve(sweep, trial).values
    if values is None:
        return ""
    log = needs_log_axis(values)
    return sparkline(values, width, log=log) + (" log" if log else "")


def _commands(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    lines = {}
    if sweep.state not in (*ENDED, "running"):
        lines[f"sweep resume {sweep.name}"] = "go on with it"
    if best_trial(sweep.config, trials):
        lines[f"sweep export {sweep.name} -o best.yaml"] = "keep the winner's config"
        lines["sweep train best.yaml"] = "train it again, and test it"
    lines[f"sweep ui {sweep.name}"] = "browse every curve in MLflow"
    width = max(map(len, lines))
    text = "\n".join(f"{command:{width}}  # {what}" for command, what in lines.items())
    return f"<h2>What to do next</h2>\n<pre>{escape(text)}</pre>\n"


def _config(sweep: SweepRecord) -> str:
    text = escape(config_to_yaml(sweep.config))
    return f"<h2>The sweep file</h2>\n<pre>{text}</pre>\n"
