"""Trials and sweeps as lines for a terminal, of any width."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from search_spaces import SweepConfig
from search_spaces.space import family_parameters
from sweep.drawing import needs_log_axis, short, sparkline
from sweep.records import SweepRecord, TrialRecord
from sweep.results import best_trial, shown_state
from trainers.schedules import learning_rate_curve, plateau_rule

STYLES = {
    "complete": "green",
    "pruned": "yellow",
    "diverged": "red",
    "failed": "bold red",
    "cancelled": "bright_black",
    "running": "cyan",
    "interrupted": "magenta",
}
_MOST_BLOCKS, _LEAST_BLOCKS = 32, 6
_LOG = " log"
_ROOM_BESIDE = 60  # columns that parameters need to stand behind their trial, not below it


class Column(NamedTuple):
    """A column of the table of trials."""

    title: str
    width: int
    right: bool  # whether its texts end at the same place


class Layout(NamedTuple):
    """What a table of trials shows at one width, the same for any trials of a sweep."""

    columns: tuple[Column, ...]
    blocks: int  # of a learning-rate curve; 0: there is no room for one
    beside: bool  # whether parameters follow on the same line
    width: int

    @property
    def lines(self) -> int:
        """The lines that a trial takes."""
        return 1 if self.beside else 2


def layout(config: SweepConfig, width: int) -> Layout:
    """The columns that fit; the trial, its metric and its schedule always stand."""
    epochs = len(str(config.training.num_epochs))
    metric = config.search.metric
    columns = (
        Column("trial", 5, right=True),
        Column(metric, max(len(metric), 6), right=True),
        Column("epochs", max(2 * epochs + 1, 6), right=True),
        Column("state", max(map(len, STYLES)), right=False),
        Column("schedule", max(map(len, (*config.space.schedule, "schedule"))), right=False),
    )
    for dropped in ("", "state", "epochs"):
        columns = tuple(column for column in columns if column.title != dropped)
        left = width - sum(column.width + 2 for column in columns)
        if left >= 0:
            break
    blocks = min(_MOST_BLOCKS, left - len(_LOG))
    if blocks < _LEAST_BLOCKS:
        return Layout(columns, 0, beside=False, width=width)
    beside = left - blocks - len(_LOG) - 2 >= _ROOM_BESIDE
    return Layout(columns, blocks, beside, width)


def trial_table(sweep: SweepRecord, trials: Sequence[TrialRecord], width: int) -> list[Text]:
    """A header, and a line or two for each trial in the order given."""
    form = layout(sweep.config, width)
    lines = [table_header(form)]
    for trial in trials:
        lines += trial_lines(sweep, trial, form)
    return lines


def table_header(form: Layout) -> Text:
    """The titles of the columns."""
    cells = [_cell(column.title, column) for column in form.columns]
    title = "learning rate" if form.blocks >= len("learning rate") else "rate"
    if form.blocks:
        cells.append(f"{title:{form.blocks + len(_LOG)}}")
    if form.beside:
        cells.append("parameters")
    return Text("  ".join(cells).rstrip(), "bold", no_wrap=True)


def trial_lines(sweep: SweepRecord, trial: TrialRecord, form: Layout) -> list[Text]:
    """One trial: its state and its curve, its parameters behind that or below."""
    state, schedule = shown_state(sweep, trial), str(trial.parameters["schedule"])
    values = {
        "trial": str(trial.number),
        sweep.config.search.metric: metric_text(trial, sweep.config.search.metric),
        "epochs": f"{len(trial.reports)}/{sweep.config.training.num_epochs}",
        "state": state,
        "schedule": schedule,
    }
    line = Text(no_wrap=True)
    for column in form.columns:
        style = STYLES[state] if column.title == "state" else ""
        line.append(_cell(values[column.title], column), style).append("  ")
    if form.blocks:
        curve = drawn_curve(sweep, trial, form.blocks)
        line.append(f"{curve:{form.blocks + len(_LOG)}}", "green")
    words = chosen_text(sweep.config, schedule, trial.parameters)
    if form.beside:
        line.append("  ").append(words)
    lines = [line] if form.beside else [line, Text(f"{'':7}{words}", "dim", no_wrap=True)]
    for each in lines:
        each.rstrip()
        each.truncate(form.width, overflow="ellipsis")
    return lines


def drawn_curve(sweep: SweepRecord, trial: TrialRecord, blocks: int) -> str:
    """A trial's learning rates as blocks, followed by `log` where drawn on a logarithmic axis.

    With feedback as far as it has come. Nothing where a function cannot be had any more.
    """
    num_epochs, steps = sweep.config.training.num_epochs, sweep.steps_per_epoch
    try:
        curve = learning_rate_curve(trial.space, num_epochs=num_epochs, steps_per_epoch=steps)
        plateau = plateau_rule(trial.space, num_epochs=num_epochs, steps_per_epoch=steps)
    except Exception:  # a person's own function may raise anything
        return ""
    if plateau:
        scales = plateau.scales([report["val_loss"] for report in trial.reports])
        scales += scales[-1:] * (num_epochs - len(scales))
        curve = curve * np.repeat(scales[:num_epochs], steps)
    log = needs_log_axis(curve)
    return sparkline(curve, blocks, log=log) + (_LOG if log else "")


def chosen_text(config: SweepConfig, family: str, parameters: Mapping[str, Any]) -> str:
    """What a trial chose, on one line, numbers to three figures; all if it had no choice."""
    free = {_stem(name) for name in family_parameters(config.space, family)}
    found: dict[str, list[str]] = {}
    for name, value in parameters.items():
        stem = _stem(name)
        own = f"schedule.{family}.{stem.removeprefix(f'{family}.')}"
        if name != "schedule" and (not free or stem in free or own in free):
            found.setdefault(stem, []).append(short(value))
    return " ".join(f"{stem}={','.join(values)}" for stem, values in found.items())


def counts(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, int]:
    """How many trials are in each state that occurs, in a fixed order."""
    found = Counter(shown_state(sweep, trial) for trial in trials)
    return {state: found[state] for state in STYLES if found[state]}


def counts_text(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> Text:
    """The counts, each state in its colour."""
    line = Text(no_wrap=True)
    for state, number in counts(sweep, trials).items():
        line.append(f"{'  ' if line else ''}{number} ").append(state, STYLES[state])
    return line


def headline(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> Text:
    """A sweep in one line."""
    ended, total = sum(t.state != "running" for t in trials), sweep.config.search.num_trials
    line = Text.assemble((sweep.name, "bold"), f"  {of_trials(ended, total)}  ")
    line.append(counts_text(sweep, trials))
    best = best_trial(sweep.config, trials)
    if best:
        line.append(f"  best {metric_text(best, sweep.config.search.metric)}")
        line.append(f" (trial {best.number})")
    return line


def of_trials(ended: int, total: int | None) -> str:
    """How many trials have ended."""
    if total is None:
        return f"{ended} trial{'' if ended == 1 else 's'}"
    return f"{ended} of {total} trial{'' if total == 1 else 's'}"


def metric_text(trial: TrialRecord, metric: str) -> str:
    """A trial's metric after its last epoch, to four places; nothing where there is none."""
    value = trial.reports[-1][metric] if trial.reports and trial.state == "running" else trial.value
    return "" if value is None else f"{value:.4f}"


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Sweeps by their summaries, one row each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)  # the last to be cut: other commands need it whole
    for column in ("state", "trials", "metric", "best", "created"):
        table.add_column(column)
    for row in rows:
        trials = f"{sum(row['trials'].values())}/{row['num_trials'] or '-'}"
        best = f"{row['best']['value']:.4f}" if row["best"] else ""
        table.add_row(row["name"], row["state"], trials, row["metric"], best, row["created"])
    return table


def _cell(text: str, column: Column) -> str:
    return f"{text:>{column.width}}" if column.right else f"{text:{column.width}}"


def _stem(name: str) -> str:
    """The name without the number of an entry of a list."""
    return re.sub(r"\.\d+$", "", name)
