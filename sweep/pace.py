"""How fast a sweep goes, and how long it may still take."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

from sweep.records import SweepRecord, TrialRecord

_LEAST_SPREAD = 0.3  # of the length of a trial; the first few may all be alike


class Pace(NamedTuple):
    """What the trials since some moment tell; None where none has ended, or no end is known."""

    seconds: float  # since that moment
    trials_per_minute: float | None
    epochs_per_second: float | None
    left: tuple[float, float] | None  # seconds that two sweeps in three would end within


def pace_of(
    sweep: SweepRecord,
    trials: Sequence[TrialRecord],
    *,
    since_ms: int,
    now_ms: int,
    hours_left: float | None = None,
) -> Pace:
    """The pace since this driver started; `hours_left` of a budget in hours were left then."""
    epochs = _epochs_since(trials, since_ms)
    ended = [t for t in trials if t.ended_ms is not None and t.ended_ms >= since_ms]
    begun = [max(t.started_ms, since_ms) for t in trials if (t.ended_ms or now_ms) >= since_ms]
    active = (now_ms - min(begun, default=now_ms)) / 1000
    seconds = (now_ms - since_ms) / 1000
    if active <= 0 or not epochs:
        return Pace(seconds, None, None, _until(hours_left, seconds, None))
    left = _left(sweep, trials, ended, active)
    return Pace(
        seconds,
        60 * len(ended) / active if ended else None,
        epochs / active,
        _until(hours_left, seconds, left),
    )


def worker_records(trials: Sequence[TrialRecord], number: int) -> Iterator[dict]:
    """What the last epochs of the `number` trials that reported last tell of their workers."""
    last = [t.reports[-1] for t in trials if t.reports and "worker" in t.reports[-1]]
    last.sort(key=lambda report: report["timestamp_ms"])
    return (report["worker"] for report in last[-number:])


def _epochs_since(trials: Sequence[TrialRecord], since_ms: int) -> int:
    return sum(
        report["timestamp_ms"] >= since_ms
        for trial in trials
        if (trial.ended_ms or math.inf) >= since_ms
        for report in trial.reports
    )


def _left(
    sweep: SweepRecord, trials: Sequence[TrialRecord], ended: Sequence[TrialRecord], active: float
) -> tuple[float, float] | None:
    """The trials to come at the rate so far, where a trial that runs counts half.

    The range is one standard deviation of their sum to each side, from the lengths so far.
    """
    total = sweep.config.search.num_trials
    running = sum(trial.state == "running" for trial in trials)
    open_trials = 0 if total is None else total - (len(trials) - running)
    if open_trials <= 0 or not ended:
        return None
    mean = active / (len(ended) + running / 2) * max(open_trials - running / 2, 0.5)
    lengths = [t.ended_ms - t.started_ms for t in ended if t.ended_ms is not None]
    relative = max(pstdev(lengths) / max(fmean(lengths), 1), _LEAST_SPREAD)
    spread = min(relative * math.sqrt(1 / len(ended) + 1 / open_trials), 1)
    return mean * (1 - spread), mean * (1 + spread)


def _until(
    hours_left: float | None, seconds: float, left: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The time left where a budget in hours may end it earlier."""
    if hours_left is None:
        return left
    rest = max(3600 * hours_left - seconds, 0)
    return (rest, rest) if left is None else (min(left[0], rest), min(left[1], rest))


def best_so_far(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> list[float]:
    """The best complete trial's metric after each trial that ended, from the first complete one."""
    better = max if sweep.config.search.goal == "maximize" else min
    found: list[float] = []
    for trial in sorted((t for t in trials if t.ended_ms), key=lambda t: t.ended_ms or 0):
        values = found[-1:]
        if trial.state == "complete" and trial.value is not None:
            values = [*values, trial.value]
        if values:
            found.append(better(values))
    return found
