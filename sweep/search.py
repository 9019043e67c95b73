"""Ray Tune's two hooks over the ledger: which trial is next, and whether one goes on.

A trial never says that it is done: the scheduler decides every end, so each result passes through
one place, where it is recorded before anything is made of it.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweep.pruning import Progress, reason_to_stop
from sweep.study import Ledger
from trainers.schedules import warmup_steps


class LedgerSearcher(Searcher):
    """Hands out interrupted trials first, then new ones, until a budget is used up."""

    def __init__(self, ledger: Ledger, interrupted: Callable[[], int]):
        super().__init__()
        self._ledger = ledger
        self._is_over = interrupted
        self._unfinished = ledger.interrupted()
        self._numbers: dict[str, int] = {}  # of Tune's trials
        self._started = time.monotonic()

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED."""
        while not self._is_over() and (self._unfinished or not self._used_up()):
            try:
                if self._unfinished:
                    number = self._unfinished.pop(0)
                    skip_epochs = self._ledger.reopen(number)
                else:
                    number, skip_epochs = self._ledger.ask(), 0
            except ValueError:
                continue  # not a valid schedule: the ledger holds it as failed, with the reason
            self._numbers[trial_id] = number
            space = self._ledger.space(number)
            return {"number": number, "space": space, "skip_epochs": skip_epochs}
        return Searcher.FINISHED

    def _used_up(self) -> bool:
        search = self._ledger.config.search
        hours = (time.monotonic() - self._started) / 3600
        return (
            (search.num_trials is not None and self._ledger.asked() >= search.num_trials)
            or (search.hours is not None and hours >= search.hours)
            or self._ledger.target_reached()
        )

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Close a trial whose workers were lost; any other end the scheduler has recorded."""
        if error:
            self._ledger.end(self._numbers[trial_id], "failed", "its workers died too often")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state, and no Tune run is ever restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerScheduler(FIFOScheduler):
    """Records every report and decides whether its trial goes on."""

    def __init__(self, ledger: Ledger, interrupted: Callable[[], int]):
        super().__init__()
        self._ledger, self._is_over = ledger, interrupted
        self._progress = {t.number: _progress(ledger, t.space, t.reports) for t in ledger.trials()}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the epochs of one step; STOP if it failed, diverged, is complete or falls behind.

        An interrupted sweep stops its trials too, but leaves them open in the ledger.
        """
        number = trial.config["number"]
        if failure := result.get("failure"):
            self._ledger.end(number, "failed", failure)
            return TrialScheduler.STOP
        for report in result["reports"]:
            if not self._ledger.record(number, report):
                continue
            if end := self._judge(trial.config, report):
                self._ledger.end(number, *end)
                return TrialScheduler.STOP
        return TrialScheduler.STOP if self._is_over() else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _judge(self, job: dict[str, Any], report: dict[str, Any]) -> tuple[str, str] | None:
        """The state and the reason with which a trial ends after this report; None: it goes on."""
        config, epoch = self._ledger.config, report["epoch"]
        if report["diverged"]:
            return "diverged", f"the loss stopped being finite in epoch {epoch}"
        own = self._progress.get(job["number"]) or _progress(self._ledger, job["space"], ())
        own = own._replace(values={**own.values, epoch: report[config.search.metric]})
        self._progress[job["number"]] = own
        if epoch == config.training.num_epochs:
            return "complete", ""
        others = [p for number, p in self._progress.items() if number != job["number"]]
        reason = reason_to_stop(config, own, epoch, others)
        return ("pruned", reason) if reason else None


def _progress(ledger: Ledger, space: dict[str, Any], reports: Sequence[dict]) -> Progress:
    metric, steps = ledger.config.search.metric, ledger.sweep().steps_per_epoch
    warmup = warmup_steps(
        space, num_epochs=ledger.config.training.num_epochs, steps_per_epoch=steps
    )
    values = {r["epoch"]: r[metric] for r in reports if not r["diverged"]}
    return Progress(next(iter(space["schedule"])), warmup / steps, values)
