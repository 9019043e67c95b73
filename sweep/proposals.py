"""How a trial's parameters come into the study."""

import traceback
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Distribution, IntUniform, Uniform


def traceback_of(error: ValueError) -> str:
    """Where a user's own function failed; nothing for parameters that are merely out of bounds."""
    cause = error.__cause__
    return "" if cause is None else "".join(traceback.format_exception(cause)) + "\n"


def suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
    """What the study's sampler proposes, or proposed before, for a parameter."""
    if name in trial.params:
        _draw_again(trial, name)
    match distribution:
        case Uniform(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case IntUniform(low, high):
            return trial.suggest_int(name, low, high)
        case Choice(options):
            return trial.suggest_categorical(name, options)


def _draw_again(trial: optuna.Trial, name: str) -> None:
    """Draw what a crash has cut a proposal off behind, so that the rest is as without the crash."""
    frozen = trial.study.get_trials(deepcopy=False)[trial.number]
    known, fixed = frozen.distributions[name], frozen.system_attrs.get("fixed_params", {})
    if not (name in fixed or known.single() or name in trial.relative_params):
        trial.study.sampler.sample_independent(trial.study, frozen, name, known)


def is_proposed(frozen: FrozenTrial) -> bool:
    """Whether all of a trial's parameters are chosen: not yet for one cut off while being asked.

    Only then it gets a folder.
    """
    if frozen.state == TrialState.WAITING:
        return False
    return frozen.state.is_finished() or "curve_sha256" in frozen.user_attrs
