"""Every schedule family, described from its own function: docstring, signature, default space."""

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import numpy as np

from search_spaces import Distribution, Scalar, Uniform, value_at
from search_spaces.defaults import DEFAULT_SPACES
from search_spaces.keys import parameter_kind
from search_spaces.space import filled, parse_space
from sweep.drawing import sparkline
from sweep.errors import CommandError
from trainers.schedules import (
    MOMENTA,
    SCHEDULES,
    Family,
    config_keys,
    learning_rate_curve,
    momentum_curve,
    parameters_of,
    plateau_rule,
    takes_anything,
)

EPOCHS, STEPS_PER_EPOCH = 10, 60  # of every drawing
# What the families of the momentum are shown with; they have no default space.
_MOMENTUM_EXAMPLES: dict[str, dict[str, Any]] = {
    "mirror": {"low": 0.85, "high": 0.95},
    "interpolate": {"values": [0.95, 0.85, 0.95], "knots_fraction": [0, 0.3, 1]},
    "piecewise_constant": {"values": [0.5, 0.9], "boundaries_fraction": [0.2]},
    "custom": {"function": "schedules.py:momentum", "interval": "epoch"},
}
_RISE_AND_FALL = {"peak_lr": 0.1, "rise_fraction": 0.3}  # what `mirror` is shown on
# Where the middle of a default space shows little of the family.
_CLEARER: dict[str, dict[str, Any]] = {"piecewise_constant": {"values": [0.1, 0.05, 0.01]}}
# The letters of the formulas, unless a formula says what its own letters are.
LETTERS = {
    "t": "the tick: an optimizer step, or an epoch with interval: epoch",
    "d": "decay, a duration",
    "x": "min(t / d, 1), the share of decay that has passed",
    "f": "final_fraction",
}


Table = Literal["schedule", "momentum_schedule"]  # where in a sweep file a family may stand


class Parameter(NamedTuple):
    """One key that may stand under a family in a sweep file."""

    key: str
    meaning: str
    default: str  # "" for another spelling of the key before it


class Entry(NamedTuple):
    """A family as its function describes it."""

    name: str
    table: Table
    summary: str
    formula: str
    where: str  # what the formula says of its own letters
    letters: dict[str, str]
    notes: str
    parameters: tuple[Parameter, ...]
    names: tuple[str, ...]  # the same in short, a duration without its unit
    default_space: dict[str, Any] | None  # what `family: default` stands for; none for momenta
    example: dict[str, Any]  # a point of it


def find_entries(name: str | None = None) -> list[Entry]:
    """The schedule family of that name, then the momentum's; all of them without a name."""
    every = [_entry(family, "schedule") for family in SCHEDULES.values()]
    every += [_entry(family, "momentum_schedule") for family in MOMENTA.values()]
    if name is None:
        return every
    found = [entry for entry in every if entry.name == name]
    if not found:
        names = list(dict.fromkeys(entry.name for entry in every))
        near = [one for one in names if one.startswith(name)] or get_close_matches(name, names)
        way_out = f"did you mean {' or '.join(near)}?" if near else "list them: sweep schedules"
        raise CommandError(f"there is no schedule {name}; {way_out}", exit_code=2)
    return found


def markdown_table() -> str:
    """The table of the README."""
    lines = ["| family | shape | learning rate at tick t | parameters |", "|---|---|---|---|"]
    for entry in find_entries():
        curve = example_curve(entry)
        if entry.table != "schedule" or curve is None:
            continue
        where = f", {entry.where}" if entry.where else ""
        cells = f"`{entry.name}`", f"`{sparkline(curve, 12)}`", f"`{entry.formula}`{where}"
        lines.append(f"| {' | '.join(cells)} | `{' '.join(entry.names)}` |")
    return "\n".join(lines) + "\n"


def example_curve(entry: Entry) -> np.ndarray | None:
    """The curve of a family's example; None for a function that only its user has.

    Of `reduce_on_plateau` as if the loss never fell again.
    """
    if entry.table == "schedule":
        return _schedule_curve({"schedule": {entry.name: entry.example}})
    if entry.name == "custom":
        return None
    learning_rates = _schedule_curve({"schedule": {"one_cycle": _RISE_AND_FALL}})
    space = {"momentum_schedule": {entry.name: entry.example}}
    return momentum_curve(space, learning_rates, steps_per_epoch=STEPS_PER_EPOCH)


def _schedule_curve(space: Mapping[str, Any]) -> np.ndarray:
    curve = learning_rate_curve(space, num_epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    plateau = plateau_rule(space, num_epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    if plateau is None:
        return curve
    scales = plateau.scales([1.0] * (EPOCHS - 1))
    return curve * np.repeat(scales, STEPS_PER_EPOCH)


def entry_data(entry: Entry) -> dict[str, Any]:
    """An entry as plain values."""
    return entry._asdict() | {"parameters": [p._asdict() for p in entry.parameters]}


def _entry(family: Family, table: Table) -> Entry:
    name = family.__name__
    summary, formula, *notes = re.split(r"\n\s*\n", (inspect.getdoc(family) or "").strip())
    formula, _, where = re.sub(r", {2,}", "\n", _joined(formula)).partition("\n")
    default = DEFAULT_SPACES[name] if table == "schedule" else None
    return Entry(
        name=name,
        table=table,
        summary=_joined(summary),
        formula=formula,
        where=where,
        letters=_letters(family, table, formula, where),
        notes="\n\n".join(map(_joined, notes)),
        parameters=tuple(_parameters(family, table)),
        names=tuple(parameter.removesuffix("_ticks") for parameter in parameters_of(family)),
        default_space=default,
        example=_MOMENTUM_EXAMPLES[name] if default is None else _middle(name, default),
    )


def _joined(text: str) -> str:
    """Broken lines as one."""
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _letters(family: Family, table: Table, formula: str, where: str) -> dict[str, str]:
    """What the letters of a formula stand for, first those that it explains itself."""
    own = dict(part.split(" = ") for part in re.split(r", (?=\w = )", where) if where)
    tick = LETTERS["t"] if "interval" in config_keys(family) else "the optimizer step"
    start = "the end of the warmup" if table == "schedule" else "the first step of the run"
    known = LETTERS | {"t": f"{tick}, counted from {start}"}
    used = set(re.findall(r"\b[a-z]\b", formula))
    used |= {"d", "t"} if "x" in used and "x" not in own else set()
    return own | {k: text for k, text in known.items() if k in used and k not in own}


def _parameters(family: Family, table: Table) -> Iterator[Parameter]:
    for name, parameter in parameters_of(family).items():
        stem = name.removesuffix("_ticks")
        if stem != name:
            many = parameter.annotation is not float
            what = "durations, rising" if many else "duration"
            run = "the run after the warmup" if table == "schedule" else "the run"
            default = _default(parameter)
            yield Parameter(f"{stem}_fraction", f"{what}: share of {run}", default)
            yield Parameter(f"{stem}_epochs", "  or in epochs", "")
            yield Parameter(f"{stem}_steps", "  or in optimizer steps", "")
        else:
            yield Parameter(name, _meaning(family, name, table), _default(parameter))
    if takes_anything(family):
        yield Parameter("(any other)", "argument of the function", "")
    if "interval" in config_keys(family):
        yield Parameter("interval", "one of step, epoch: what a tick is", "step")
        yield Parameter("first_tick", "0 or 1: the number of the first tick", "0")


def _meaning(family: Family, name: str, table: Table) -> str:
    kind = parameter_kind(family, name)
    if kind == (False, True):
        return "true or false"
    if isinstance(kind, tuple):
        return f"one of {', '.join(map(str, kind))}"
    if kind == "numbers":
        return "list of learning rates" if table == "schedule" else "list of momenta"
    if kind == "text":
        return "module:function or file.py:function"
    if name in ("low", "high"):
        return "momentum"
    if name.endswith("_fraction"):
        return "share of peak_lr"
    return "learning rate" if name.endswith("_lr") else "number"


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    if value == math.inf:
        return "the whole run"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _middle(name: str, default: Mapping[str, Any]) -> dict[str, Any]:
    """A point in the middle of a family's space, its numbers to two figures."""
    space = parse_space({"schedule": {name: default}})

    def value(_: str, spread: Distribution) -> Scalar:
        middle = value_at(spread, 0.5)
        return float(f"{middle:.2g}") if isinstance(spread, Uniform) else middle

    return filled(space, name, value)["schedule"][name] | _CLEARER.get(name, {})
