"""How much a sweep may spend, and whether it is spent."""

import math
from collections.abc import Mapping

from optuna.trial import TrialState

from sweep.errors import CommandError
from sweep.lease import seconds_driven
from sweep.results import reaches_target
from sweep.study import Ledger

BUDGET = "budget"  # the study's attribute


def raise_budget(ledger: Ledger, budget: Mapping[str, float]) -> None:
    """Let a sweep take more trials or hours than before; CommandError for fewer."""
    search = ledger.config.search
    for key, value in budget.items():
        before = getattr(search, key)
        if before is None or not before <= value < math.inf:
            has = "unlimited" if before is None else before
            raise CommandError(
                f"a resume may only raise {key}, which is {has}, but got {value}; give more, or "
                "leave it out",
                exit_code=2,
            )
    points = search.num_trials or 0
    if search.algorithm == "grid" and budget.get("num_trials", 0) > points:
        raise CommandError(
            f"num_trials of a grid must be at most {points}, its points, but got "
            f"{budget['num_trials']}; give {points} to go on with a grid that was stopped",
            exit_code=2,
        )
    if budget:
        ledger.check()
        ledger.study.set_user_attr(BUDGET, ledger.study.user_attrs.get(BUDGET, {}) | budget)
        search = search.model_copy(update=dict(budget))
        ledger.config = ledger.config.model_copy(update={"search": search})


def is_spent(ledger: Ledger, seconds: float) -> bool:
    """Whether no new trial may be started, `seconds` after this driver's start."""
    search = ledger.config.search
    if search.num_trials is not None and ledger.asked() >= search.num_trials:
        return True
    if search.hours is not None:
        earlier = seconds_driven(ledger.directory, before=ledger.driver)
        if (earlier + seconds) / 3600 >= search.hours:
            return True
    return _target_reached(ledger)


def _target_reached(ledger: Ledger) -> bool:
    done = ledger.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return any(reaches_target(ledger.config, trial.values[0]) for trial in done)
