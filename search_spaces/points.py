"""Points of a search space: one family, and a value for each free parameter."""

from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces.distributions import (
    Choice,
    Distribution,
    IntUniform,
    Scalar,
    Uniform,
    canonical,
    contains,
    described,
    same_value,
)
from search_spaces.faults import Flaw, Path, hint, named, shown
from search_spaces.space import Space, Tree, children, families


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
    values |= _free_values(space.schedule[family], body, f"schedule.{family}")
    for key, tree in space.shared.items():
        values |= _free_values(tree, point.get(key), key)
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


def _value_flaws(tree: Tree, raw: Any, path: Path) -> Iterator[Flaw]:
    name = named(path)
    if isinstance(tree, Distribution):
        if raw is None:
            yield Flaw(path, f"{name} must be given, but is missing; it lies in {described(tree)}")
        elif not contains(tree, raw):
            yield Flaw(path, f"{name} must lie in {described(tree)}, but got {shown(raw)}")
    elif isinstance(tree, Mapping):
        yield from _group_flaws(tree, raw, path)
    elif not isinstance(tree, tuple):
        if raw is not None and not same_value(tree, raw):
            yield Flaw(path, f"{name} must be {shown(tree)} as in space, but got {shown(raw)}")
    elif isinstance(raw, list | tuple) and len(raw) == len(tree):
        for index, (entry, value) in enumerate(zip(tree, raw, strict=True)):
            yield from _value_flaws(entry, value, (*path, index))
    elif raw is not None or _is_free(tree):
        message = f"{name} must be a list of {len(tree)} entries, but got {shown(raw)}"
        yield Flaw(path, message)


def _group_flaws(tree: Mapping[str, Tree], raw: Any, path: Path) -> Iterator[Flaw]:
    if not isinstance(raw, Mapping | None):
        message = f"{named(path)} must be a mapping as in space, but got {shown(raw)}"
        yield Flaw(path, message)
        return
    for key in raw or {}:
        if key not in tree:
            message = f"the space has no {key!r} here{hint(key, tree, 'it has')}"
            yield Flaw((*path, key), message, at_key=True)
    for key, inner in tree.items():
        yield from _value_flaws(inner, (raw or {}).get(key), (*path, key))


def _is_free(tree: Tree) -> bool:
    if isinstance(tree, Uniform | IntUniform | Choice):
        return True
    return any(_is_free(inner) for _, inner in children(tree))


def _free_values(tree: Tree, raw: Any, name: str) -> dict[str, Scalar]:
    if isinstance(tree, Uniform | IntUniform | Choice):
        return {name: canonical(tree, raw)}
    values: dict[str, Scalar] = {}
    for key, inner in children(tree):
        if _is_free(inner):
            values |= _free_values(inner, raw[key], f"{name}.{key}")
    return values
