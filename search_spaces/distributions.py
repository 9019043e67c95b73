"""The leaves of a search space: plain values, ranges, and lists of both."""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from search_spaces.faults import Flaw, Path, hint, named, plain, shown, unquote_hint

Scalar = str | int | float | bool
Kind = Literal["number", "numbers", "text", "any"] | tuple[Scalar, ...]
"""What a value must be: a number, a list of numbers, a text, anything, or one of these."""

RANGES = ("uniform", "log_uniform", "int_uniform", "choice")
_EXACT = 2**53  # the whole numbers up to here are exact in a float


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every number from `low` to `high`, both included; `log`: even in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class IntUniform:
    """Every whole number from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some plain values, in no order."""

    options: tuple[Scalar, ...]


Distribution = Uniform | IntUniform | Choice
Leaf = Scalar | Distribution | tuple["Leaf", ...]


def same_value(one: Any, other: Any) -> bool:
    """Equal, and of one sort: 1 and 1.0 are the same, 1, true and "1" are not."""
    return _identity(one) == _identity(other)


def contains(distribution: Distribution, value: Any) -> bool:
    """Whether the distribution can give the value."""
    if isinstance(distribution, Choice):
        return any(same_value(value, option) for option in distribution.options)
    kinds = int if isinstance(distribution, IntUniform) else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    return distribution.low <= value <= distribution.high


def canonical(distribution: Distribution, value: Any) -> Scalar:
    """The distribution's own spelling of a value that it contains."""
    if isinstance(distribution, Choice):
        return next(option for option in distribution.options if same_value(value, option))
    return float(value) if isinstance(distribution, Uniform) else value


def leaf_flaws(raw: Any, path: Path, kind: Kind) -> Iterator[Flaw]:
    """What keeps `raw` from being a leaf of this kind."""
    if isinstance(raw, Mapping) and kind != "numbers":
        yield from _range_flaws(raw, path, kind)
    elif isinstance(raw, list | tuple) and kind in ("numbers", "any"):
        if not raw:
            yield Flaw(path, f"{_named(path)} must have at least one entry, but got []")
        for index, entry in enumerate(raw):
            yield from leaf_flaws(entry, (*path, index), "number" if kind == "numbers" else "any")
    else:
        yield from scalar_flaws(raw, path, kind)


def scalar_flaws(raw: Any, path: Path, kind: Kind) -> Iterator[Flaw]:
    """What keeps `raw` from being a plain value of this kind."""
    name = _named(path)
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if isinstance(kind, tuple):
        if not any(same_value(raw, option) for option in kind):
            names = ", ".join(map(plain, kind))
            close = hint(raw, kind) if isinstance(raw, str) else ""
            way_out = close if "did you mean" in close else ""
            yield Flaw(path, f"{name} must be one of {names}, but got {shown(raw)}{way_out}")
    elif kind == "numbers":
        yield Flaw(path, f"{name} must be a list of numbers or ranges, but got {shown(raw)}")
    elif number and not abs(raw) <= sys.float_info.max:
        yield Flaw(path, f"{name} must be finite, but got {raw}")
    elif kind == "number" and not number:
        way_out = unquote_hint(raw) if isinstance(raw, str) else ""
        yield Flaw(path, f"{name} must be a number, but got {shown(raw)}{way_out}")
    elif kind == "text" and not isinstance(raw, str):
        yield Flaw(path, f"{name} must be a text, but got {shown(raw)}")
    elif not isinstance(raw, str | int | float):
        yield Flaw(path, f"{name} must be a plain value, but got {shown(raw)}")


def parse_leaf(raw: Any) -> Leaf:
    """The leaf that a value without flaws stands for."""
    if isinstance(raw, list | tuple):
        return tuple(parse_leaf(entry) for entry in raw)
    if not isinstance(raw, Mapping):
        return raw
    ((kind, ends),) = raw.items()
    if kind == "choice":
        return Choice(tuple(ends))
    if kind == "int_uniform":
        return IntUniform(*ends)
    return Uniform(float(ends[0]), float(ends[1]), log=kind == "log_uniform")


def leaf_to_plain(leaf: Leaf) -> Any:
    """The leaf as it is written in a config file; undoes `parse_leaf`."""
    match leaf:
        case Uniform(low, high, log):
            return {"log_uniform" if log else "uniform": [low, high]}
        case IntUniform(low, high):
            return {"int_uniform": [low, high]}
        case Choice(options):
            return {"choice": list(options)}
        case tuple():
            return [leaf_to_plain(entry) for entry in leaf]
        case _:
            return leaf


def described(distribution: Distribution) -> str:
    """One line for people: `log_uniform [0.001, 1.0]`."""
    ((kind, ends),) = leaf_to_plain(distribution).items()
    return f"{kind} {shown(ends)}"


def _range_flaws(raw: Mapping[str, Any], path: Path, kind: Kind) -> Iterator[Flaw]:
    if len(raw) != 1:
        yield Flaw(path, f"a range must have one of {', '.join(RANGES)}, but got {shown(raw)}")
        return
    ((name, ends),) = raw.items()
    if name not in RANGES:
        yield Flaw((*path, name), f"unknown range {name!r}{hint(name, RANGES)}", at_key=True)
    elif name == "choice":
        yield from _choice_flaws(ends, path, kind)
    elif isinstance(kind, tuple) or kind == "text":
        yield Flaw((*path, name), f"{_named(path)} must be a choice, but got {name}", at_key=True)
    else:
        yield from _interval_flaws(name, ends, (*path, name))


def _choice_flaws(options: Any, path: Path, kind: Kind) -> Iterator[Flaw]:
    inner = (*path, "choice")
    if not isinstance(options, list | tuple) or not options:
        yield Flaw(inner, f"choice must list at least one option, but got {shown(options)}")
        return
    seen: set[tuple[bool, bool, Scalar]] = set()
    for index, option in enumerate(options):
        flaws = list(scalar_flaws(option, (*inner, index), kind))
        yield from flaws
        if flaws:
            continue
        if _identity(option) in seen:
            message = f"every option must differ, but got {plain(option)} again"
            yield Flaw((*inner, index), message)
        seen.add(_identity(option))


def _interval_flaws(name: str, ends: Any, path: Path) -> Iterator[Flaw]:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        yield Flaw(path, f"{name} must have two ends [low, high], but got {shown(ends)}")
        return
    flaws = [flaw for i, end in enumerate(ends) for flaw in scalar_flaws(end, (*path, i), "number")]
    yield from flaws
    if flaws:
        return
    low, high = ends
    if name == "int_uniform":
        for index, end in enumerate(ends):
            if not isinstance(end, int):
                yield Flaw((*path, index), f"an end must be a whole number, but got {shown(end)}")
            elif abs(end) > _EXACT:
                message = f"-2**53 <= end <= 2**53 must hold, but got {shown(end)}"
                yield Flaw((*path, index), message)
    if not low < high:
        yield Flaw(path, f"low < high must hold, but got {shown(ends)}")
    elif not math.isfinite(float(high) - float(low)):
        yield Flaw(path, f"high - low must be finite, but got {shown(ends)}")
    if name == "log_uniform" and low <= 0:
        yield Flaw((*path, 0), f"low > 0 must hold for log_uniform, but got {shown(low)}")


def _identity(value: Any) -> tuple[bool, bool, Any]:
    return isinstance(value, bool), isinstance(value, str), value


def _named(path: Path) -> str:
    """What to call the value at `path`; an end or option goes by the parameter's name."""
    keys = [index for index, part in enumerate(path) if part in RANGES and index]
    return named(path[: keys[-1]] if keys else path)
