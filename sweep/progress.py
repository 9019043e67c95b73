"""What a person sees in the terminal: a live leaderboard while a sweep runs, and its tables."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.delivery import read_status, without_password
from sweep.records import ENDED, SweepRecord, TrialRecord, now_ms
from sweep.results import best_trial, leaderboard, shown_state
from sweep.study import Ledger

if TYPE_CHECKING:
    from sweep.launch import Outcome

_REFRESH_S = 0.5
_TOP = 5
_STYLES = {
    "complete": "green",
    "pruned": "yellow",
    "diverged": "red",
    "failed": "bold red",
    "cancelled": "bright_black",
    "running": "cyan",
    "interrupted": "magenta",
}


class Progress:
    """The live display of a launch; where there is no terminal, a line for each trial that ends."""

    def __init__(self, console: Console):
        self._console, self._started = console, time.monotonic()
        self._drawn, self._ended, self._told = 0.0, 0, False
        self._started_ms = now_ms()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # its reader may be gone
            self._live.stop()

    def show(self, ledger: Ledger) -> None:
        """Draw the sweep as it stands, unless that was done a moment ago."""
        if time.monotonic() - self._drawn < _REFRESH_S:
            return
        self._drawn = time.monotonic()
        sweep, trials = ledger.sweep(), ledger.trials()
        self._tell_trouble(sweep)
        ended = sum(t.state != "running" for t in trials)
        line = headline(sweep, trials, time.monotonic() - self._started)
        if self._console.is_terminal:
            running = [t for t in trials if t.state == "running"]
            best = [t for t in leaderboard(sweep.config, trials) if t.state != "running"]
            table = trial_table(sweep, [*best[:_TOP], *running])
            self._live.update(Group(line, table), refresh=True)
        elif ended > self._ended:
            self._ended = ended
            self._console.print(line.plain, soft_wrap=True)

    def _tell_trouble(self, sweep: SweepRecord) -> None:
        """Say once that MLflow cannot be reached; it changes nothing for the trials."""
        if self._told:
            return
        status = read_status(sweep.directory)
        error = status.error if status.updated_ms >= self._started_ms else None
        if error:
            self._told = True
            self._console.print(
                f"MLflow at {without_password(sweep.tracking_uri)} takes nothing at present "
                f"({error}); the sweep goes on, and delivers later",
                soft_wrap=True,
                markup=False,
            )


def counts(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, int]:
    """How many trials are in each state that occurs, in a fixed order."""
    found = Counter(shown_state(sweep, trial) for trial in trials)
    return {state: found[state] for state in _STYLES if found[state]}


def trial_table(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> Table:
    """Trials in the order given, one row each."""
    config = sweep.config
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("trial", config.search.metric, "epochs"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("state", "schedule"):
        table.add_column(column, no_wrap=True)
    table.add_column("parameters")  # the one that gives way in a narrow terminal
    for trial in trials:
        table.add_row(
            str(trial.number),
            _metric(trial, config.search.metric),
            f"{len(trial.reports)}/{config.training.num_epochs}",
            Text(state := shown_state(sweep, trial), style=_STYLES[state]),
            trial.parameters["schedule"],
            Text(shown_parameters(trial.parameters), no_wrap=True, overflow="ellipsis"),
        )
    return table


def shown_parameters(parameters: Mapping[str, Any]) -> str:
    """A trial's parameters on one line, numbers to three figures."""
    return " ".join(f"{k}={_short(v)}" for k, v in parameters.items() if k != "schedule")


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Sweeps by their summaries, one row each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "state", "trials", "metric", "best", "created"):
        table.add_column(column)
    for row in rows:
        trials = f"{sum(row['trials'].values())}/{row['num_trials'] or '-'}"
        best = f"{row['best']['value']:.4f}" if row["best"] else ""
        table.add_row(row["name"], row["state"], trials, row["metric"], best, row["created"])
    return table


def headline(
    sweep: SweepRecord, trials: Sequence[TrialRecord], seconds: float | None = None
) -> Text:
    """A sweep in one line; with the `seconds` since this launch also the time it may still take."""
    total, ended = sweep.config.search.num_trials, [t for t in trials if t.state != "running"]
    line = Text.assemble((sweep.name, "bold"), f"  {len(ended)}")
    line.append(f" of {total} trials" if total else " trials")
    for state, number in counts(sweep, trials).items():
        line.append(f"  {number} ").append(state, _STYLES[state])
    if seconds is not None:
        line.append(f"  {clock(seconds)}")
        if total and ended and len(ended) < total:
            typical = median((t.ended_ms or t.started_ms) - t.started_ms for t in ended) / 1000
            at_once = max(len(trials) - len(ended), 1)
            line.append(f", about {clock(typical * (total - len(ended)) / at_once)} left")
    best = best_trial(sweep.config, trials)
    if best:
        line.append(f"  best {_metric(best, sweep.config.search.metric)} (trial {best.number})")
    return line


def conclusion(outcome: "Outcome") -> Iterator[str]:
    """What to read and to type once a launch has ended."""
    sweep = outcome.sweep
    best, name = best_trial(sweep.config, outcome.trials), sweep.name
    if best:
        metric = sweep.config.search.metric
        word = "winner  " if sweep.state in ENDED else "so far  "
        yield f"{word} trial {best.number}: {best.parameters['schedule']}, {metric} {best.value}"
        yield f"         {shown_parameters(best.parameters)}"
    elif sweep.state == "failed":
        yield from _advice(outcome)
    yield f"files    {sweep.directory}"
    yield f"MLflow   {without_password(sweep.tracking_uri)}"
    if not outcome.delivered:
        yield f"         not all of it is delivered; see: sweep status {name}"
        yield f"deliver  sweep sync {name}"
    if sweep.state not in ENDED:
        yield f"go on    sweep resume {name}"
    if sweep.state in ("stopped", "cancelled"):
        yield f"over     it was {sweep.state}; to go on, give it a budget:"
        yield f"         sweep resume {name} --num-trials N, or --hours H"
    yield f"look     sweep ui {name}"
    if best:
        yield f"keep     sweep export {name} -o best.yaml"
        yield "repeat   sweep train best.yaml"


def _advice(outcome: "Outcome") -> Iterator[str]:
    """Why a sweep has no winner."""
    states = {trial.state for trial in outcome.trials}
    if states == {"diverged"}:
        yield "failed   every trial diverged; lower the upper end of peak_lr or lengthen the warmup"
        return
    yield "failed   no trial trained to its end"
    for trial in [t for t in outcome.trials if t.state == "failed"][:1]:
        yield f"         trial {trial.number}: {trial.message.strip().splitlines()[-1]}"


def _metric(trial: TrialRecord, metric: str) -> str:
    value = trial.reports[-1][metric] if trial.reports and trial.state == "running" else trial.value
    return "" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, or hours and minutes: 0:42, 12:05, 3h07."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
