"""What a person sees while a sweep runs, here or in another terminal, and when it has ended."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from sweep.commands import command_for
from sweep.delivery import read_status, undelivered, without_password
from sweep.directory import open_ledger, read_sweep
from sweep.lease import current_holder, seconds_driven
from sweep.pace import pace_of
from sweep.records import ENDED, SweepRecord, TrialRecord, now_ms
from sweep.results import best_trial, larger_budget
from sweep.study import Ledger
from sweep.tables import chosen_text, headline
from sweep.view import Standing, view

_REFRESH_S = 0.5
_SHARE = 0.02  # of the driver's time that drawing may take
_LOOK_S = 0.25  # how often a sweep of another process is looked at


class Progress:
    """The live view of a running sweep; where there is no terminal, a line as trials end.

    `since_ms` is when its driver started, `hint` what Ctrl-C does.
    """

    def __init__(self, console: Console, *, since_ms: int, hint: str):
        self._console, self._since_ms, self._hint = console, since_ms, hint
        self._next, self._ended, self._told = 0.0, 0, False
        self._hours_driven: float | None = None  # by earlier drivers
        self._is_live = console.file.isatty() and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # its reader may be gone
            self._live.stop()

    def show(self, ledger: Ledger, *, driver: int | None = None, trouble: str = "") -> None:
        """Draw the sweep as it stands, unless that was done a moment ago."""
        begun = time.monotonic()
        if begun < self._next:
            return
        sweep, trials = ledger.sweep(), ledger.trials()
        self._tell_trouble(sweep)
        ended = sum(t.state != "running" for t in trials)
        if self._is_live:
            number = ledger.driver if driver is None else driver
            self._draw(sweep, trials, self._hours_left(sweep, number), trouble)
        elif ended > self._ended:
            self._ended = ended
            self._console.print(headline(sweep, trials).plain, soft_wrap=True, markup=False)
        now = time.monotonic()
        self._next = max(begun + _REFRESH_S, now + (now - begun) / _SHARE)

    def _draw(
        self,
        sweep: SweepRecord,
        trials: Sequence[TrialRecord],
        hours_left: float | None,
        trouble: str,
    ) -> None:
        pace = pace_of(
            sweep, trials, since_ms=self._since_ms, now_ms=now_ms(), hours_left=hours_left
        )
        width, height = self._console.size
        now = Standing(sweep, trials, pace, trouble)
        lines = view(now, width=width, height=height - 2, hint=self._hint)
        # The cursor rests in an empty line: a terminal that echoes ^C would break a full one.
        self._live.update(Group(*lines, ""), refresh=True)

    def _hours_left(self, sweep: SweepRecord, driver: int) -> float | None:
        """What a budget in hours had left when this driver started."""
        hours = sweep.config.search.hours
        if hours is None:
            return None
        if self._hours_driven is None:
            self._hours_driven = seconds_driven(sweep.directory, before=driver) / 3600
        return max(hours - self._hours_driven, 0)

    def _tell_trouble(self, sweep: SweepRecord) -> None:
        """Say once that MLflow cannot be reached; it changes nothing for the trials."""
        if self._told:
            return
        status = read_status(sweep.directory)
        error = status.error if status.updated_ms >= self._since_ms else None
        if error:
            self._told = True
            self._console.print(
                f"MLflow at {without_password(sweep.tracking_uri)} takes nothing at present "
                f"({error}); the sweep goes on, and delivers later",
                soft_wrap=True,
                markup=False,
            )


def follow(directory: Path, console: Console) -> tuple[SweepRecord, list[TrialRecord]]:
    """Show a sweep that another process runs until that ends; nothing is written."""
    holder = current_holder(directory)
    if holder:
        ledger, since_ms = open_ledger(directory), round(1000 * holder.started)
        with Progress(console, since_ms=since_ms, hint="Ctrl-C leaves the sweep alone") as shown:
            while holder and round(1000 * holder.started) == since_ms:
                trouble = f"not heard of for {_since(holder.beat)}" if holder.stale else ""
                shown.show(ledger, driver=holder.number, trouble=trouble)
                time.sleep(_LOOK_S)
                holder = current_holder(directory)
    return read_sweep(directory)


def conclusion(
    sweep: SweepRecord, trials: Sequence[TrialRecord], *, delivered: bool
) -> Iterator[str]:
    """What to read and to type once a launch has ended, or as a sweep stands."""
    best, place = best_trial(sweep.config, trials), sweep.directory
    if best:
        metric, family = sweep.config.search.metric, best.parameters["schedule"]
        word = "winner  " if sweep.state in ENDED else "so far  "
        yield f"{word} trial {best.number}: {family}, {metric} {best.value}"
        yield f"         {chosen_text(sweep.config, family, best.parameters)}"
    elif sweep.state == "failed":
        yield from _advice(trials)
    yield f"files    {sweep.directory}"
    yield f"MLflow   {without_password(sweep.tracking_uri)}"
    if not delivered:
        yield f"         not all of it is delivered; see: {command_for('status', place)}"
        yield f"deliver  {command_for('sync', place)}"
    if sweep.state not in ENDED:
        yield f"go on    {command_for('resume', place)}"
    if sweep.state in ("stopped", "cancelled"):
        if budget := larger_budget(sweep, trials):
            yield f"over     it was {sweep.state}; to go on, give it a budget, such as:"
            yield f"         {command_for('resume', place, budget)}"
        else:
            yield f"over     it was {sweep.state}, and has nothing left to search"
    yield f"look     {command_for('ui', place)}"
    if best:
        yield f"keep     {command_for('export', place, '-o best.yaml')}"
        yield "repeat   sweep train best.yaml"


def is_delivered(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> bool:
    """Whether MLflow holds all of it, as its shipper last said."""
    status = read_status(sweep.directory)
    return undelivered(status, trials) == (0, 0) and not status.error


def _advice(trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Why a sweep has no winner."""
    states = {trial.state for trial in trials}
    if states == {"diverged"}:
        yield "failed   every trial diverged; lower the upper end of peak_lr or lengthen the warmup"
        return
    yield "failed   no trial trained to its end"
    for trial in [t for t in trials if t.state == "failed"][:1]:
        yield f"         trial {trial.number}: {trial.message.strip().splitlines()[-1]}"


def _since(moment: float) -> str:
    return f"{time.time() - moment:.0f} s"
