"""Ray Tune's two hooks over the ledger: which trial is next, and whether one goes on.

A trial never says that it is done: the scheduler decides every end, so each result passes through
one place, where it is recorded before anything is made of it.
"""

import contextlib
import time
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweep.budget import is_spent
from sweep.capacity import Capacity
from sweep.commands import command_for
from sweep.errors import CommandError
from sweep.halt import Halt, unwritable
from sweep.pruning import Standing, reason_to_stop
from sweep.records import TrialRecord
from sweep.study import InvalidTrialError, Ledger

_FAILURES_IN_A_ROW = 3


class Referee:
    """Decides whether a trial ends, from what the ledger holds of it and of the others."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self.failures: list[str] = []  # of the trials that failed last, one after the other
        self.losses: dict[int, str] = {}  # why a trial's workers were lost, the last time
        self._progress = {trial.number: self._of(trial) for trial in ledger.trials()}

    def judge(self, number: int, space: dict[str, Any], report: dict[str, Any]) -> bool:
        """End trial `number` in the ledger if its last report is a reason to; whether it was."""
        config, epoch = self._ledger.config, report["epoch"]
        if not self.given_up:
            self.failures = []
        own = self._progress.get(number) or self._new(space)
        if not report["diverged"]:
            own = own._replace(values={**own.values, epoch: report[config.search.metric]})
            self._progress[number] = own
        if self._ledger.end_if_over(number, report):
            return True
        others = [progress for key, progress in self._progress.items() if key != number]
        reason = reason_to_stop(config, own, epoch, others)
        if reason:
            self._ledger.end(number, "pruned", reason)
        return bool(reason)

    def fail(self, number: int, reason: str) -> None:
        """End a trial that an exception or the loss of its workers ended."""
        self._ledger.end(number, "failed", reason)
        self.failures = [*self.failures, reason]

    @property
    def given_up(self) -> bool:
        """Whether failures follow each other so closely that it is not the trials' fault."""
        return len(self.failures) >= _FAILURES_IN_A_ROW

    def _of(self, trial: TrialRecord) -> Standing:
        metric = self._ledger.config.search.metric
        values = {r["epoch"]: r[metric] for r in trial.reports if not r["diverged"]}
        return self._new(trial.space)._replace(values=values)

    def _new(self, space: dict[str, Any]) -> Standing:
        with contextlib.suppress(ValueError):  # a trial that was never run, for it has no curve
            curve = self._ledger.curve(space)
            # Nearly: the peak of a cycle may fall between two steps, and no two cycles alike.
            rise = int(np.argmax(curve >= 0.99 * curve.max()))
            rise_epochs = rise / self._ledger.sweep().steps_per_epoch
            return Standing(next(iter(space["schedule"])), rise_epochs, {})
        return Standing(next(iter(space["schedule"])), 0, {})


class LedgerSearcher(Searcher):
    """Hands out interrupted trials first, then new ones, until a budget is used up."""

    def __init__(self, ledger: Ledger, referee: Referee, halt: Halt, capacity: Capacity):
        super().__init__()
        self._ledger, self._referee, self._halt = ledger, referee, halt
        self._capacity = capacity
        self._unfinished = ledger.interrupted()
        self._numbers: dict[str, int] = {}  # of Tune's trials that are open
        self._started = time.monotonic()

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, None while as many as fit are open, or FINISHED."""
        with self._halt.guarding():
            while not self._halt.asked and (self._unfinished or not self._used_up()):
                if len(self._numbers) >= self._capacity.limit:
                    return None
                try:
                    job = self._reopened() if self._unfinished else self._new()
                except InvalidTrialError as error:  # the ledger holds it as failed
                    self._referee.failures = [*self._referee.failures, str(error)]
                    continue
                if job is not None:
                    self._numbers[trial_id] = job["number"]
                    return job
        return Searcher.FINISHED

    def _reopened(self) -> dict[str, Any] | None:
        number = self._unfinished.pop(0)
        recorded = self._ledger.reopen(number)
        space = self._ledger.space(number)
        if self._ledger.ended_again(number):
            return None  # its end was what had been cut off
        if recorded and self._referee.judge(number, space, recorded[-1]):
            return None  # so it was here, a moment before
        self._ledger.check_curve(number)
        return {"number": number, "space": space, "skip_epochs": len(recorded)}

    def _new(self) -> dict[str, Any]:
        number = self._ledger.ask()
        return {"number": number, "space": self._ledger.space(number), "skip_epochs": 0}

    def _used_up(self) -> bool:
        running = time.monotonic() - self._started
        return is_spent(self._ledger, running) or self._referee.given_up

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Close a trial whose workers were lost; any other end the scheduler has recorded."""
        number = self._numbers.pop(trial_id)
        if error:
            with self._halt.guarding():
                reason = self._referee.losses.get(number, "Ray does not say why")
                self._referee.fail(number, f"its workers died, again and again: {reason}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state, and no Tune run is ever restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerScheduler(FIFOScheduler):
    """Records every report and decides whether its trial goes on."""

    def __init__(self, ledger: Ledger, referee: Referee, halt: Halt):
        super().__init__()
        self._ledger, self._referee, self._halt = ledger, referee, halt

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the epochs of one step; STOP if it failed, diverged, is complete or falls behind.

        An interrupted sweep stops its trials too, but leaves them open in the ledger.
        """
        with self._halt.guarding():
            ended = self._take(trial.config["number"], trial.config["space"], result)
        return TrialScheduler.STOP if ended or self._halt.leaving else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note why a trial's workers were lost; it may still be taken up again."""
        told = [line.strip() for line in str(trial.get_error()).splitlines() if line.strip()]
        if told:
            self._referee.losses[trial.config["number"]] = told[-1]

    def _take(self, number: int, space: dict[str, Any], result: dict[str, Any]) -> bool:
        for report in result["reports"]:
            recorded = self._ledger.record(number, report)
            if recorded and self._referee.judge(number, space, report):
                return True
        if broken := result.get("broken"):  # so would the next trial be there
            raise CommandError(
                f"{broken.strip()}\nNothing that was recorded is lost. Once that is mended, or "
                f"that node is gone, go on with: {command_for('resume', self._ledger.directory)}"
            )
        if trouble := result["trouble"]:  # not the trial's fault: it stays open
            raise unwritable(OSError(*trouble), self._ledger.directory)
        if failure := result["failure"]:
            self._referee.fail(number, failure)
        return bool(result["failure"])

    def __getstate__(self) -> dict[str, Any]:
        return {}
