"""How fast a sweep goes, and how long it may still take."""

from pathlib import Path
from typing import Any

import pytest

from search_spaces import parse_config
from sweep.pace import best_so_far, pace_of, worker_records
from sweep.records import SweepRecord, TrialRecord
from tests.commands import CONFIG


def sweep(**search: Any) -> SweepRecord:
    config = parse_config(CONFIG)
    config = config.model_copy(update={"search": config.search.model_copy(update=search)})
    return SweepRecord("rates", Path("rates"), config, "running", 2, 0, "", "", {})


def trial(
    number: int,
    started_s: float,
    ended_s: float | None,
    epochs: tuple[float, ...] = (),
    value: float | None = None,
    state: str = "complete",
) -> TrialRecord:
    """A trial whose epochs were reported at these seconds."""
    reports = tuple(
        {"timestamp_ms": round(1000 * moment), "worker": {"node": "n", "pid": number}}
        for moment in epochs
    )
    ended_ms = None if ended_s is None else round(1000 * ended_s)
    state = "running" if ended_s is None else state
    started_ms = round(1000 * started_s)
    return TrialRecord(number, state, {}, {}, reports, value, "", started_ms, ended_ms, "")


def test_before_the_first_epoch_only_time_is_known() -> None:
    pace = pace_of(sweep(), [trial(0, 3, None)], since_ms=0, now_ms=5000)
    assert pace == (5.0, None, None, None)


def test_the_pace_counts_from_the_first_trial_of_this_driver() -> None:
    trials = [
        trial(0, 0, 50, (40, 50)),  # of an earlier driver
        trial(1, 110, 120, (115, 120)),
        trial(2, 120, 130, (125, 130)),
        trial(3, 130, None, (135,)),
    ]
    pace = pace_of(sweep(), trials, since_ms=100_000, now_ms=140_000)
    assert pace.seconds == 40
    assert pace.trials_per_minute == pytest.approx(2 / 30 * 60)
    assert pace.epochs_per_second == pytest.approx(5 / 30)
    # 8 trials, 3 ended: 4.5 to come at one in 12 s, for one that runs counts half.
    assert pace.left is not None
    assert sum(pace.left) / 2 == pytest.approx(4.5 * 30 / 2.5)


def left(lengths: list[float], **search: Any) -> tuple[float, float]:
    """The time left after trials one after the other."""
    trials, now = [], 0.0
    for number, length in enumerate(lengths):
        trials.append(trial(number, now, now + length, (now + length,)))
        now += length
    pace = pace_of(sweep(**search), trials, since_ms=0, now_ms=round(1000 * now))
    assert pace.left is not None
    return pace.left


def test_the_range_is_narrower_with_more_trials_and_wider_where_they_differ() -> None:
    few, many = left([10] * 4, num_trials=100), left([10] * 50, num_trials=146)
    mixed = left([1, 19] * 25, num_trials=146)
    for low, high in (few, many, mixed):
        assert 0 < low < 960 < high
    assert few[1] - few[0] > 2 * (many[1] - many[0])
    assert mixed[1] - mixed[0] > 2 * (many[1] - many[0])


def test_a_budget_in_hours_bounds_the_time_left() -> None:
    trials = [trial(0, 0, 10, (10,))]
    bounds: list[tuple[dict[str, Any], tuple[float, float]]] = [
        ({"num_trials": None}, (3590, 3590)),
        ({"num_trials": 10_000}, (3590, 3590)),
    ]
    for search, expected in bounds:
        pace = pace_of(sweep(**search), trials, since_ms=0, now_ms=10_000, hours_left=1)
        assert pace.left == expected
    assert pace_of(sweep(num_trials=None), trials, since_ms=0, now_ms=10_000).left is None


def test_the_best_so_far_follows_the_goal_and_complete_trials_alone() -> None:
    trials = [
        trial(0, 0, 40, value=0.25),
        trial(1, 0, 10, value=0.9, state="pruned"),
        trial(2, 0, 20, value=0.5),
        trial(3, 0, 30, value=0.75),
        trial(4, 0, None, value=0.99),
    ]
    assert best_so_far(sweep(), trials) == [0.5, 0.75, 0.75]
    assert best_so_far(sweep(goal="minimize"), trials) == [0.5, 0.5, 0.25]


def test_workers_are_those_that_were_heard_of_last() -> None:
    trials = [trial(number, 0, None, (10 - number,)) for number in range(4)]
    assert [worker["pid"] for worker in worker_records(trials, 2)] == [1, 0]
