"""Sweeps and trials as plain values."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from search_spaces import SweepConfig
from sweep.slots import Slots

ENDED = ("finished", "stopped", "cancelled", "failed")  # states of a sweep that is over


class TrialRecord(NamedTuple):
    """One trial as the ledger knows it."""

    number: int
    state: str  # running | complete | pruned | diverged | failed | cancelled
    space: dict[str, Any]  # a concrete point of the search space
    parameters: dict[str, Any]  # the same, flat, only the active family's
    reports: tuple[dict[str, Any], ...]  # one per finished epoch; a number not finite is None
    value: float | None  # the sweep's metric at the last epoch, if finite
    curve_sha256: str
    started_ms: int
    ended_ms: int | None
    message: str  # why it ended
    damage: str = ""  # what is wrong with its metric file; `reports` are those before that


class SweepRecord(NamedTuple):
    """One sweep as the ledger knows it."""

    name: str
    directory: Path
    config: SweepConfig
    state: str  # running | interrupted | paused | finished | stopped | cancelled | failed
    steps_per_epoch: int
    created_ms: int
    tracking_uri: str
    experiment: str  # in MLflow
    facts: dict[str, str]  # user, git commit, versions, digests
    slots: Slots | None = None  # what its last driver found; None before the first trial


def now_ms() -> int:
    """The time now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
