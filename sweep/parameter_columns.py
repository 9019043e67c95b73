"""The parameters that a sweep searches, by the names under which a trial's record has them."""

import math
from collections.abc import Sequence
from typing import Any

from search_spaces import Choice, Distribution, IntUniform, Uniform
from search_spaces.space import families, family_parameters
from sweep.records import SweepRecord, TrialRecord


def free_names(sweep: SweepRecord) -> dict[str, dict[str, Distribution]]:
    """The free parameters of each family, by their names in `TrialRecord.parameters`."""
    space = sweep.config.space
    found: dict[str, dict[str, Distribution]] = {}
    for family in families(space):
        found[family] = {}
        for name, spread in family_parameters(space, family).items():
            own = name.removeprefix(f"schedule.{family}.")
            shared = own.split(".")[0] in space.shared
            found[family][f"{family}.{own}" if own != name and shared else own] = spread
    return found


def columns_of(sweep: SweepRecord) -> dict[str, list[Distribution]]:
    """Every free parameter with its distributions, one for each family that has it."""
    columns: dict[str, list[Distribution]] = {}
    names = free_names(sweep)
    if len(names) > 1:
        columns["schedule"] = [Choice(tuple(names))]
    for spreads in names.values():
        for name, spread in spreads.items():
            columns.setdefault(name, []).append(spread)
    return columns


def is_log(spreads: Sequence[Distribution]) -> bool:
    """Whether a logarithmic axis suits the parameter."""
    return any(isinstance(spread, Uniform) and spread.log for spread in spreads)


def is_choice(spreads: Sequence[Distribution]) -> bool:
    """Whether the parameter has no order."""
    return any(isinstance(spread, Choice) for spread in spreads)


def chosen_by(sweep: SweepRecord, trials: Sequence[TrialRecord], name: str) -> dict[int, Any]:
    """What each trial that was free in this parameter chose, by the trial's number."""
    names = free_names(sweep)
    return {
        trial.number: trial.parameters[name]
        for trial in trials
        if name == "schedule" or name in names.get(trial.parameters["schedule"], {})
    }


def decades(spreads: Sequence[Distribution]) -> float:
    """How many powers of ten the ranges span; 0 where they reach down to 0."""
    ranges = [spread for spread in spreads if isinstance(spread, Uniform | IntUniform)]
    low, high = min(spread.low for spread in ranges), max(spread.high for spread in ranges)
    return math.log10(high / low) if low > 0 else 0.0


def unit_of(name: str, spreads: Sequence[Distribution]) -> str:
    """What a parameter is counted in: the unit that its name carries."""
    options = [o for s in spreads if isinstance(s, Choice) for o in s.options]
    if any(isinstance(option, str | bool) for option in options):
        return "option"
    stem = name.rstrip("0123456789").rstrip(".")
    units = {"_steps": "optimizer steps", "_epochs": "epochs", "_fraction": "fraction"}
    return next((unit for end, unit in units.items() if stem.endswith(end)), "dimensionless")


def label_of(name: str) -> str:
    """A parameter's name for people."""
    return "schedule family" if name == "schedule" else name
