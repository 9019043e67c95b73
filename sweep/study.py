"""The ledger: one sweep is one Optuna study in durable storage, with a metric file for each trial.

Everything else (MLflow, the leaderboard, `best.yaml`) is derived from here and can be rebuilt. Only
the driver writes; any other process may read at any time. A sweep's directory holds

    sweep.json               format, name, where the study and the tracking server are
    config.yaml              the config, to be read; the study holds it
    study.journal            the study, unless `sweep.json` names another storage
    drivers/0001.json        who has run it, and who does
    trials/0007/             metrics.jsonl: one line per epoch; checkpoint: the training state
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search_spaces import (
    SweepConfig,
    flat_parameters,
    sample_space,
)
from sweep.errors import CommandError
from sweep.files import make_directory, write_text
from sweep.lease import Lease
from sweep.lines import append_lines
from sweep.metrics import checkpoint_path, finite, put_aside, read_reports, value_of
from sweep.proposals import is_proposed, suggest, traceback_of
from sweep.records import SweepRecord, TrialRecord, now_ms
from sweep.slots import Slots
from trainers.crashes import reach
from trainers.schedules import learning_rate_curve, momentum_curve

_SLOTS = "slots"  # the study's attribute
STARTED = tuple(state for state in TrialState if state != TrialState.WAITING)


class InvalidTrialError(ValueError):
    """Parameters that give no valid schedule; the ledger holds the trial as failed."""


class Ledger:
    """One sweep's study and metric files, opened."""

    def __init__(
        self,
        directory: Path,
        config: SweepConfig,
        header: dict,
        study: optuna.Study,
        lease: Lease | None,
    ):
        self.directory, self.config, self.study = directory, config, study
        # The sampler for a trial; a ledger that is only read has none.
        self.sampler_for: Callable[[int], optuna.samplers.BaseSampler] | None = None
        self._header, self._lease = header, lease
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
            experiment=self._header["experiment"],
            facts=attrs["facts"],
            slots=Slots(*attrs[_SLOTS]) if _SLOTS in attrs else None,
        )

    @property
    def checkpoints(self) -> str | None:
        """The store that training states go to, if not to the trials' own folders."""
        return self._header.get("checkpoints")

    def set_state(self, state: str) -> None:
        """Record where the sweep stands; see SweepRecord."""
        self.check()
        self.study.set_user_attr("state", state)

    def set_slots(self, slots: Slots) -> None:
        """Record what a trial takes and how many run at once, for whoever watches."""
        self.check()
        self.study.set_user_attr(_SLOTS, list(slots))

    def check(self) -> None:
        """Raise LeaseLostError if another driver has taken over."""
        if self._lease:
            self._lease.check()

    def free(self) -> None:
        """Let go of a claim in a database, which outlives a process that just ends."""
        if self._lease:
            self._lease.end()

    def trials(self) -> list[TrialRecord]:
        """Every trial that was ever started, by number."""
        records = []
        for frozen in self.study.get_trials(deepcopy=False):
            if not is_proposed(frozen):
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
        found, damage = read_reports(self.metrics_path(frozen.number))
        reports = tuple(found)
        outcome = frozen.user_attrs.get("outcome", {})
        if len(reports) < outcome.get("epochs", 0) and not damage:
            damage = (
                f"{self.metrics_path(frozen.number)} must hold {outcome['epochs']} epochs, but it "
                f"holds {len(reports)}"
            )
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
            damage=damage,
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

    def interrupted(self) -> list[int]:
        """The trials that were started and have no end."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial.number for trial in trials]

    def ask(self) -> int:
        """Start the next trial: an enqueued point if one waits, else what the sampler proposes."""
        self.check()
        reach("ask")
        self._use_sampler(self.asked())
        trial = self.study.ask()
        reach("asked")
        self._live[trial.number] = trial
        self._propose(trial)
        return trial.number

    def reopen(self, number: int) -> list[dict[str, Any]]:
        """Take up an interrupted trial, even one cut off while it was proposed or recorded.

        Returns the epochs that are recorded. A damaged metric file is put aside; what it lacks
        comes again from the checkpoint or is trained again, with the same result.
        """
        self.check()
        frozen = self._frozen(number)
        self._use_sampler(number)
        self._live[number] = optuna.trial.Trial(self.study, frozen._trial_id)
        if frozen.user_attrs.get("curve_sha256"):
            make_directory(self.trial_directory(number))
        else:
            self._propose(self._live[number])
        reports, damage = read_reports(self.metrics_path(number))
        if damage:
            put_aside(self.metrics_path(number), reports, self.driver)
        for report in reports:
            if report["epoch"] not in frozen.intermediate_values:
                self._report_value(number, report)
        self._recorded[number] = len(reports)
        return reports

    def check_curve(self, number: int) -> None:
        """Raise CommandError if a trial that goes on would follow another curve than before."""
        expected = self._frozen(number).user_attrs["curve_sha256"]
        try:
            found = hashlib.sha256(self.curve(self.space(number)).tobytes()).hexdigest()
        except ValueError as error:
            found = f"none: {error}"
        if found != expected:
            raise CommandError(
                f"the learning rates of trial {number} must be those it began with, sha256 "
                f"{expected}, but they are {found}; restore what has changed since, a file that "
                "its function imports or another NumPy, or launch under a new name"
            )

    def ended_again(self, number: int) -> bool:
        """Whether a reopened trial had been judged already, and is ended as it was judged."""
        outcome = self._frozen(number).user_attrs.get("outcome")
        if outcome:
            self.end(number, outcome["state"], outcome["message"])
        return bool(outcome)

    def _use_sampler(self, number: int) -> None:
        assert self.sampler_for is not None
        self.study.sampler = self.sampler_for(number)

    @property
    def driver(self) -> int:
        """The number of the driver that writes."""
        return self._lease.number if self._lease else 0

    def _propose(self, trial: optuna.Trial) -> None:
        space = sample_space(self.config, lambda name, d: suggest(trial, name, d))
        steps = self.study.user_attrs["steps_per_epoch"]
        try:
            curve = self.curve(space)
            momentum_curve(space, curve, steps_per_epoch=steps)
        except ValueError as error:
            trial.set_user_attr("curve_sha256", "")
            make_directory(self.trial_directory(trial.number))
            self.end(
                trial.number, "failed", f"{traceback_of(error)}the schedule is not valid: {error}"
            )
            raise InvalidTrialError(str(error)) from error
        trial.set_user_attr("curve_sha256", hashlib.sha256(curve.tobytes()).hexdigest())
        make_directory(self.trial_directory(trial.number))

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
        self.check()
        line = finite(report) | {"timestamp_ms": now_ms()}
        append_lines(self.metrics_path(number), [line], self.driver)
        self._recorded[number] = report["epoch"]
        reach("recorded")
        self._report_value(number, line)
        return True

    def _report_value(self, number: int, report: Mapping[str, Any]) -> None:
        value = value_of(report, self.config.search.metric)
        if value is not None:
            self._live[number].report(value, report["epoch"])

    def end(self, number: int, state: str, message: str) -> None:
        """Close a trial: complete, pruned, diverged, failed or cancelled."""
        self.check()
        trial = self._live[number]
        if state == "failed":
            write_text(self.trial_directory(number) / "error.txt", message + "\n")
        outcome = {"state": state, "message": message, "epochs": self._recorded.get(number, 0)}
        trial.set_user_attr("outcome", outcome)
        reach("end")
        if state == "complete":
            last = max(self._frozen(number).intermediate_values.items())
            self.study.tell(trial, last[1])
        else:
            # Without a value: a stopped trial's last value would count as a full-length result.
            failed = state in ("failed", "cancelled")
            self.study.tell(trial, state=TrialState.FAIL if failed else TrialState.PRUNED)
        reach("ended")
        del self._live[number]
        self._drop_checkpoints(number, keep_last=state == "complete")

    def _drop_checkpoints(self, number: int, *, keep_last: bool) -> None:
        path = checkpoint_path(self.trials_directory, number)
        for unneeded in (*path.parent.glob(path.name + ".*"), *([] if keep_last else [path])):
            with contextlib.suppress(OSError):  # it does no harm
                unneeded.unlink()

    def end_if_over(self, number: int, report: Mapping[str, Any]) -> bool:
        """End a trial whose last report is that of its last epoch, or diverged; whether it was."""
        if report["diverged"]:
            reason = f"the loss stopped being finite in epoch {report['epoch']}"
            self.end(number, "diverged", reason)
            return True
        if report["epoch"] == self.config.training.num_epochs:
            self.end(number, "complete", "")
            return True
        return False

    def cancel(self) -> None:
        """End all trials that are open; one that had only to be closed keeps its result."""
        for number in self.interrupted():
            with contextlib.suppress(InvalidTrialError):  # it is held as failed
                reports = self.reopen(number)
                over = self.ended_again(number)
                if not over and not (reports and self.end_if_over(number, reports[-1])):
                    self.end(number, "cancelled", "the sweep was cancelled")

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def _last_value(frozen: FrozenTrial, reports: Sequence[dict], metric: str) -> float | None:
    if frozen.state == TrialState.COMPLETE:
        return frozen.values[0]
    return value_of(reports[-1], metric) if reports else None


def _milliseconds(moment: datetime | None) -> int:
    return 0 if moment is None else round(moment.timestamp() * 1000)
