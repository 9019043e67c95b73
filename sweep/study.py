"""The ledger: one sweep is one Optuna study in durable storage, with a metric file for each trial.

Everything else (MLflow, the leaderboard, `best.yaml`) is derived from here and can be rebuilt. Only
the driver writes; any other process may read at any time. A sweep's directory holds

    sweep.json               format, name, where the study and the tracking server are
    config.yaml              the frozen config
    study.journal            the study, unless `sweep.json` names another storage
    trials/0007/             metrics.jsonl: one line per epoch; checkpoint: the training state
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search_spaces import (
    Choice,
    Distribution,
    IntUniform,
    SweepConfig,
    Uniform,
    flat_parameters,
    sample_space,
)
from sweep.files import append_line, read_reports
from trainers.schedules import learning_rate_curve, momentum_curve

STARTED = tuple(state for state in TrialState if state != TrialState.WAITING)


class InvalidTrialError(ValueError):
    """Parameters that give no valid schedule; the ledger holds the trial as failed."""


class TrialRecord(NamedTuple):
    """One trial as the ledger knows it."""

    number: int
    state: str  # running | complete | pruned | diverged | failed
    space: dict[str, Any]  # a concrete point of the search space
    parameters: dict[str, Any]  # the same, flat, only the active family's
    reports: tuple[dict[str, Any], ...]  # one per finished epoch; a number not finite is None
    value: float | None  # the sweep's metric at the last epoch, if finite
    curve_sha256: str
    started_ms: int
    ended_ms: int | None
    message: str  # why it ended


class SweepRecord(NamedTuple):
    """One sweep as the ledger knows it."""

    name: str
    directory: Path
    config: SweepConfig
    state: str  # running | finished | failed | interrupted
    steps_per_epoch: int
    created_ms: int
    tracking_uri: str
    facts: dict[str, str]  # user, git commit, versions, digests


class Ledger:
    """One sweep's study and metric files, opened."""

    def __init__(self, directory: Path, config: SweepConfig, header: dict, study: optuna.Study):
        self.directory, self.config, self.study = directory, config, study
        self._header = header
        self._ended: dict[int, TrialRecord] = {}
        self._live: dict[int, optuna.Trial] = {}  # opening one again would sample again
        self._recorded: dict[int, int] = {}  # epochs of live trials

    def sweep(self) -> SweepRecord:
        """The sweep's own record."""
        attrs = self.study.user_attrs
        return SweepRecord(
            name=self._header["name"],
            directory=self.directory,
            config=self.config,
            state=attrs.get("state", "interrupted"),
            steps_per_epoch=attrs["steps_per_epoch"],
            created_ms=self._header["created_ms"],
            tracking_uri=self._header["tracking_uri"],
            facts=attrs["facts"],
        )

    def set_state(self, state: str) -> None:
        """Record whether the sweep is running, finished, failed or interrupted."""
        self.study.set_user_attr("state", state)

    def trials(self) -> list[TrialRecord]:
        """Every trial that was ever started, by number."""
        records = []
        for frozen in self.study.get_trials(deepcopy=False):
            if not _proposed(frozen):
                continue
            if frozen.number not in self._ended:
                record = self._record(frozen)
                if record.state == "running":
                    records.append(record)
                    continue
                self._ended[frozen.number] = record
            records.append(self._ended[frozen.number])
        return records

    def _record(self, frozen: FrozenTrial) -> TrialRecord:
        space = sample_space(self.config, lambda name, _: frozen.params[name])
        reports = tuple(read_reports(self.metrics_path(frozen.number)))
        outcome = frozen.user_attrs.get("outcome", {})
        state = outcome.get("state", "failed") if frozen.state.is_finished() else "running"
        return TrialRecord(
            number=frozen.number,
            state=state,
            space=space,
            parameters=flat_parameters(space),
            reports=reports,
            value=_last_value(frozen, reports, self.config.search.metric),
            curve_sha256=frozen.user_attrs.get("curve_sha256", ""),
            started_ms=_milliseconds(frozen.datetime_start),
            ended_ms=_milliseconds(frozen.datetime_complete)
            if frozen.state.is_finished()
            else None,
            message=outcome.get("message", ""),
        )

    @property
    def trials_directory(self) -> Path:
        """Where the trials' own directories lie."""
        return self.directory / "trials"

    def trial_directory(self, number: int) -> Path:
        """Where a trial's files lie."""
        return self.trials_directory / f"{number:04d}"

    def metrics_path(self, number: int) -> Path:
        """A trial's epoch reports, one JSON object per line."""
        return self.trial_directory(number) / "metrics.jsonl"

    def asked(self) -> int:
        """How many trials were ever started."""
        return len(self.study.get_trials(deepcopy=False, states=STARTED))

    def target_reached(self) -> bool:
        """Whether a complete trial is as good as the target asked for."""
        search = self.config.search
        if search.target is None:
            return False
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if search.goal == "maximize":
            return any(trial.values[0] >= search.target for trial in done)
        return any(trial.values[0] <= search.target for trial in done)

    def interrupted(self) -> list[int]:
        """The trials that were started and have no end."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial.number for trial in trials]

    def ask(self) -> int:
        """Start the next trial: an enqueued point if one waits, else what the sampler proposes."""
        trial = self.study.ask()
        self._live[trial.number] = trial
        self._propose(trial)
        return trial.number

    def reopen(self, number: int) -> int:
        """Take up an interrupted trial, even one cut off while it was proposed or recorded.

        Returns the number of epochs that are recorded.
        """
        frozen = self._frozen(number)
        self._live[number] = optuna.trial.Trial(self.study, frozen._trial_id)
        self._propose(self._live[number])
        reports = list(read_reports(self.metrics_path(number)))
        for report in reports[len(frozen.intermediate_values) :]:
            self._report_value(number, report)
        self._recorded[number] = len(reports)
        return len(reports)

    def _propose(self, trial: optuna.Trial) -> None:
        space = sample_space(self.config, lambda name, d: _suggest(trial, name, d))
        steps = self.study.user_attrs["steps_per_epoch"]
        try:
            curve = self.curve(space)
            momentum_curve(space, curve, steps_per_epoch=steps)
        except ValueError as error:
            self.trial_directory(trial.number).mkdir(parents=True, exist_ok=True)
            self.end(trial.number, "failed", f"the schedule is not valid: {error}")
            raise InvalidTrialError(str(error)) from error
        trial.set_user_attr("curve_sha256", hashlib.sha256(curve.tobytes()).hexdigest())
        self.trial_directory(trial.number).mkdir(parents=True, exist_ok=True)

    def curve(self, space: Mapping[str, Any]) -> np.ndarray:
        """The learning-rate curve of a concrete point of the search space."""
        return learning_rate_curve(
            space,
            num_epochs=self.config.training.num_epochs,
            steps_per_epoch=self.study.user_attrs["steps_per_epoch"],
        )

    def space(self, number: int) -> dict[str, Any]:
        """The concrete point that a trial trains."""
        params = self._frozen(number).params
        return sample_space(self.config, lambda name, _: params[name])

    def record(self, number: int, report: Mapping[str, Any]) -> bool:
        """Append an epoch's report, durably; False if that epoch was recorded before."""
        if report["epoch"] <= self._recorded.get(number, 0):
            return False
        line = {k: _finite(v) for k, v in report.items()} | {"timestamp_ms": now_ms()}
        append_line(self.metrics_path(number), json.dumps(line, allow_nan=False))
        self._recorded[number] = report["epoch"]
        self._report_value(number, line)
        return True

    def _report_value(self, number: int, report: Mapping[str, Any]) -> None:
        value = _value(report, self.config.search.metric)
        if value is not None:
            self._live[number].report(value, report["epoch"])

    def end(self, number: int, state: str, message: str) -> None:
        """Close a trial: complete, pruned, diverged or failed."""
        trial = self._live.pop(number)
        self._drop_checkpoints(number, keep_last=state == "complete")
        trial.set_user_attr("outcome", {"state": state, "message": message})
        if state == "complete":
            last = max(self._frozen(number).intermediate_values.items())
            self.study.tell(trial, last[1])
        else:
            # Without a value: a stopped trial's last value would count as a full-length result.
            told = TrialState.FAIL if state == "failed" else TrialState.PRUNED
            self.study.tell(trial, state=told)

    def _drop_checkpoints(self, number: int, *, keep_last: bool) -> None:
        path = checkpoint_path(self.trials_directory, number)
        for unneeded in (*path.parent.glob(path.name + ".*"), *([] if keep_last else [path])):
            unneeded.unlink(missing_ok=True)

    def seconds_used(self) -> float:
        """How long this sweep's drivers have run, as far as they came to say so."""
        return self.study.user_attrs.get("seconds_used", 0.0)

    def add_seconds(self, seconds: float) -> None:
        """Count the time of a driver that ends."""
        self.study.set_user_attr("seconds_used", self.seconds_used() + seconds)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def _suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
    match distribution:
        case Uniform(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case IntUniform(low, high):
            return trial.suggest_int(name, low, high)
        case Choice(options):
            return trial.suggest_categorical(name, options)


def _proposed(frozen: FrozenTrial) -> bool:
    """Whether all of a trial's parameters are chosen: not yet for one cut off while being asked."""
    if frozen.state == TrialState.WAITING:
        return False
    return frozen.state.is_finished() or "curve_sha256" in frozen.user_attrs


def _value(report: Mapping[str, Any], metric: str) -> float | None:
    """The metric of an epoch; None once the loss is not finite, whatever the metric then reads."""
    return None if report["diverged"] else report[metric]


def _last_value(frozen: FrozenTrial, reports: Sequence[dict], metric: str) -> float | None:
    if frozen.state == TrialState.COMPLETE:
        return frozen.values[0]
    return _value(reports[-1], metric) if reports else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def checkpoint_path(trials_directory: Path, number: int) -> Path:
    """Where a trial keeps its training state."""
    return trials_directory / f"{number:04d}" / "checkpoint"


def now_ms() -> int:
    """The time now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _milliseconds(moment: datetime | None) -> int:
    return 0 if moment is None else round(moment.timestamp() * 1000)
