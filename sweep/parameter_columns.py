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
    """Whether the parameter has no order: options that are not all numbers beside a range."""
    ranged = any(not isinstance(spread, Choice) for spread in spreads)
    return not (ranged and all(_is_number(option) for option in _options(spreads)))


def ends_of(spreads: Sequence[Distribution]) -> tuple[float, float]:
    """The lowest and the highest number that the ranges and the options beside them can give."""
    ranges = [spread for spread in spreads if isinstance(spread, Uniform | IntUniform)]
    numbers = [*_options(spreads), *(end for spread in ranges for end in (spread.low, spread.high))]
    return min(numbers), max(numbers)


def _options(spreads: Sequence[Distribution]) -> list[Any]:
    return [o for spread in spreads if isinstance(spread, Choice) for o in spread.options]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def chosen_by(sweep: SweepRecord, trials: Sequence[TrialRecord], name: str) -> dict[int, Any]:
    """What each trial that was free in this parameter chose, by the trial's number."""
    names = free_names(sweep)
    return {
        trial.number: trial.parameters[name]
        for trial in trials
        if name == "schedule" or name in names.get(trial.parameters["schedule"], {})
    }


def decades(spreads: Sequence[Distribution]) -> float:
    """How many powers of ten the parameter spans; 0 where it reaches down to 0."""
    low, high = ends_of(spreads)
    return math.log10(high / low) if low > 0 else 0.0


def unit_of(name: str, spreads: Sequence[Distribution]) -> str:
    """What a parameter is counted in: the unit that its name carries."""
    if any(isinstance(option, str | bool) for option in _options(spreads)):
        return "option"
    stem = name.rstrip("0123456789").rstrip(".")
    units = {"_steps": "optimizer steps", "_epochs": "epochs", "_fraction": "fraction"}
    return next((unit for end, unit in units.items() if stem.endswith(end)), "dimensionless")


def label_of(name: str) -> str:
    """A parameter's name for people."""
    return "schedule family" if name == "schedule" else name
