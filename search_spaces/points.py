"""Points of a search space: one family, and a value for each free parameter."""

from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces.distributions import (
    Choice,
    Distribution,
    IntUniform,
    Leaf,
    Scalar,
    Uniform,
    canonical,
    contains,
    described,
    same_value,
)
from search_spaces.faults import Flaw, Path, hint, named, shown
from search_spaces.space import Space, families


def point_flaws(space: Space, raw: Any, path: Path = ()) -> Iterator[Flaw]:
    """What keeps `raw` from being a point of the space; fixed values may be left out."""
    if not isinstance(raw, Mapping):
        yield Flaw(path, f"a point must be a mapping, but got {shown(raw)}")
        return
    known = ("schedule", *space.shared)
    for key in raw:
        if key not in known:
            message = f"the space has no {key!r}{hint(key, known, 'it has')}"
            yield Flaw((*path, key), message, at_key=True)
    yield from _family_flaws(space, raw.get("schedule"), (*path, "schedule"))
    for key, leaf in space.shared.items():
        yield from _value_flaws(leaf, raw.get(key), (*path, key))


def point_values(space: Space, point: Mapping[str, Any]) -> dict[str, Scalar]:
    """The free parameters of a point without flaws, by their name in a study."""
    ((family, body),) = spelled_out(point)["schedule"].items()
    values: dict[str, Scalar] = {"schedule": family} if len(families(space)) > 1 else {}
    for key, leaf in space.schedule[family].items():
        values |= _free_values(leaf, body.get(key), f"schedule.{family}.{key}")
    for key, leaf in space.shared.items():
        values |= _free_values(leaf, point.get(key), key)
    return values


def spelled_out(point: Mapping[str, Any]) -> dict[str, Any]:
    """The point with its short forms written out: `constant` for `{constant: {}}`."""
    schedule = point.get("schedule")
    if isinstance(schedule, str):
        return {**point, "schedule": {schedule: {}}}
    if isinstance(schedule, Mapping):
        return {**point, "schedule": {family: body or {} for family, body in schedule.items()}}
    return dict(point)


def _family_flaws(space: Space, raw: Any, path: Path) -> Iterator[Flaw]:
    chosen = {raw: None} if isinstance(raw, str) else raw
    known = families(space)
    if not isinstance(chosen, Mapping) or len(chosen) != 1:
        yield Flaw(path, f"a point must have one of {', '.join(known)}, but got {shown(raw)}")
        return
    ((family, body),) = chosen.items()
    inner = (*path, family)
    if family not in known:
        message = f"the space has no schedule {family!r}{hint(family, known, 'it has')}"
        short = isinstance(raw, str)
        yield Flaw(path if short else inner, message, at_key=not short)
    elif not isinstance(body, Mapping | None):
        yield Flaw(inner, f"{family} must be a mapping of parameters, but got {shown(body)}")
    else:
        leaves = space.schedule[family]
        for key in body or {}:
            if key not in leaves:
                message = f"the space has no {key!r} for {family}{hint(key, leaves, 'it has')}"
                yield Flaw((*inner, key), message, at_key=True)
        for key, leaf in leaves.items():
            yield from _value_flaws(leaf, (body or {}).get(key), (*inner, key))


def _value_flaws(leaf: Leaf, raw: Any, path: Path) -> Iterator[Flaw]:
    name = named(path)
    if isinstance(leaf, Distribution):
        if raw is None:
            yield Flaw(path, f"{name} must be given, but is missing; it lies in {described(leaf)}")
        elif not contains(leaf, raw):
            yield Flaw(path, f"{name} must lie in {described(leaf)}, but got {shown(raw)}")
    elif not isinstance(leaf, tuple):
        if raw is not None and not same_value(leaf, raw):
            yield Flaw(path, f"{name} must be {shown(leaf)} as in space, but got {shown(raw)}")
    elif isinstance(raw, list | tuple) and len(raw) == len(leaf):
        for index, (entry, value) in enumerate(zip(leaf, raw, strict=True)):
            yield from _value_flaws(entry, value, (*path, index))
    elif raw is not None or _is_free(leaf):
        message = f"{name} must be a list of {len(leaf)} entries, but got {shown(raw)}"
        yield Flaw(path, message)


def _is_free(leaf: Leaf) -> bool:
    if isinstance(leaf, tuple):
        return any(_is_free(entry) for entry in leaf)
    return isinstance(leaf, Uniform | IntUniform | Choice)


def _free_values(leaf: Leaf, raw: Any, name: str) -> dict[str, Scalar]:
    if isinstance(leaf, Uniform | IntUniform | Choice):
        return {name: canonical(leaf, raw)}
    values: dict[str, Scalar] = {}
    if isinstance(leaf, tuple):
        for index, entry in enumerate(leaf):
            if _is_free(entry):
                values |= _free_values(entry, raw[index], f"{name}.{index}")
    return values
