"""How long a sweep may take, from what earlier ones of the same training took."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_spaces import SweepConfig, load_config
from sweep.errors import CommandError
from sweep.metrics import read_reports

_LOOKED_AT = 20  # the newest so many sweeps
_ENOUGH = 5  # of the same training


class Estimate(NamedTuple):
    """How long a sweep may take, in seconds."""

    low: float
    high: float
    epoch_low: float  # the quartiles of an epoch
    epoch_high: float
    sweeps: tuple[str, ...]  # that this is known from, the newest first


class _Past(NamedTuple):
    name: str
    seconds: list[float]  # of every epoch
    share: float | None  # of its epochs that a trial was trained for; None without pruning


def estimate_time(
    config: SweepConfig, *, num_trials: int, concurrent: int, sweeps_dir: Path
) -> Estimate | None:
    """The time that `num_trials` trials take, so many at once; None without an earlier sweep.

    Both ends are quartiles of the seconds of an epoch times the epochs to train; the lower one
    counts on as much pruning as there was. Ray's start comes on top.
    """
    past = list(_past_sweeps(config, sweeps_dir))
    if not past:
        return None
    seconds = [second for one in past for second in one.seconds]
    low, high = np.quantile(seconds, [0.25, 0.75]).tolist()
    epochs = config.training.num_epochs * num_trials / min(concurrent, num_trials)
    shares = [one.share for one in past if one.share is not None]
    prunes = config.pruning.algorithm != "none"
    share = float(np.mean(shares)) if prunes and shares else 1.0
    names = tuple(one.name for one in past)
    return Estimate(low * epochs * share, high * epochs, low, high, names)


def _past_sweeps(config: SweepConfig, sweeps_dir: Path) -> Iterator[_Past]:
    headers = sorted(sweeps_dir.glob("*/sweep.json"), key=lambda path: -path.stat().st_mtime)
    found = 0
    for header in headers[:_LOOKED_AT]:
        # A damaged sweep tells nothing.
        with suppress(ValueError, LookupError, CommandError, OSError):
            other = load_config(header.with_name("config.yaml"))
            past = _past(header.parent, other) if _training(other) == _training(config) else None
            if past and past.seconds:
                found += 1
                yield past
        if found == _ENOUGH:
            return


def _training(config: SweepConfig) -> tuple[object, dict[str, object]]:
    """What decides how long an epoch takes."""
    return config.data, config.training.model_dump(exclude={"num_epochs", "seed"})


def _past(directory: Path, config: SweepConfig) -> _Past | None:
    """What a sweep took; None for one whose files are damaged."""
    files = [read_reports(path) for path in directory.glob("trials/*/metrics.jsonl")]
    if any(damage for _, damage in files):
        return None
    trials = [reports for reports, _ in files]
    seconds = [report["seconds"] for reports in trials for report in reports]
    share = None
    if trials and config.pruning.algorithm != "none":
        share = len(seconds) / (len(trials) * config.training.num_epochs)
    return _Past(directory.name, seconds, share)
