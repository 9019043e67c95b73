"""A search space: schedule families with their parameters, and what all of them share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import CoreSchema, core_schema

from search_spaces.distributions import (
    RANGES,
    Choice,
    Distribution,
    IntUniform,
    Leaf,
    Scalar,
    Uniform,
    leaf_flaws,
    leaf_to_plain,
    parse_leaf,
)
from search_spaces.faults import Flaw, Path, hint, shown, validation_error
from search_spaces.keys import SPELLINGS, parameter_kind, space_json_schema
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.schedules import SCHEDULES, WARMUP_KEYS, required_keys, schedule_keys


@dataclass(frozen=True, slots=True)
class Space:
    """`schedule`: family -> parameter -> leaf; `shared`: warmup and optimizer hyperparameters."""

    schedule: Mapping[str, Mapping[str, Leaf]]
    shared: Mapping[str, Leaf]

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Lets a pydantic record hold a space in the form of a config file."""
        return core_schema.no_info_plain_validator_function(
            parse_space,
            serialization=core_schema.plain_serializer_function_ser_schema(space_to_plain),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return space_json_schema()


def parse_space(raw: Any) -> Space:
    """The space that a mapping in a config file stands for; a ValidationError names every flaw."""
    raw = space_to_plain(raw) if isinstance(raw, Space) else raw
    flaws = list(space_flaws(raw))
    if flaws:
        raise validation_error(flaws)
    schedule = {
        family: {key: parse_leaf(value) for key, value in (body or {}).items()}
        for family, body in raw["schedule"].items()
    }
    shared = {key: parse_leaf(value) for key, value in raw.items() if key != "schedule"}
    return Space(schedule, shared)


def space_to_plain(space: Space) -> dict[str, Any]:
    """The space as it is written in a config file; undoes `parse_space`."""
    schedule = {
        family: {key: leaf_to_plain(leaf) for key, leaf in body.items()}
        for family, body in space.schedule.items()
    }
    return {"schedule": schedule} | {k: leaf_to_plain(leaf) for k, leaf in space.shared.items()}


def space_flaws(raw: Any) -> Iterator[Flaw]:
    """Everything wrong with a space, its fit to the optimizer apart."""
    if not isinstance(raw, Mapping):
        yield Flaw((), f"space must be a mapping, but got {shown(raw)}")
        return
    if "schedule" not in raw:
        yield Flaw(("schedule",), "schedule must be given, but is missing; name its families")
    else:
        yield from _schedule_flaws(raw["schedule"])
    hyperparameters = {name for table in HYPERPARAMETERS.values() for name in table}
    known = ("schedule", *WARMUP_KEYS, *sorted(hyperparameters))
    for key, value in raw.items():
        if key not in known:
            yield Flaw((key,), f"unknown key {key!r}{hint(key, known)}", at_key=True)
        elif key != "schedule":
            yield from leaf_flaws(value, (key,), "number")
    yield from _spelling_flaws(raw, ())


def optimizer_flaws(raw: Mapping[str, Any], optimizer: str) -> Iterator[Flaw]:
    """Hyperparameters in a space that this optimizer lacks, or that lie out of its bounds."""
    known = HYPERPARAMETERS[optimizer]
    for key, value in raw.items():
        if key in known:
            yield from _bound_flaws(key, value)
        elif any(key in table for table in HYPERPARAMETERS.values()):
            message = f"{optimizer} has no {key}; it takes {', '.join(known)}"
            yield Flaw((key,), message, at_key=True)


def families(space: Space) -> tuple[str, ...]:
    """The schedule families, in the order of the file."""
    return tuple(space.schedule)


def family_parameters(space: Space, family: str) -> dict[str, Distribution]:
    """The free parameters of one family and the shared ones, by their name in a study."""
    found: dict[str, Distribution] = {}
    for key, leaf in space.schedule[family].items():
        found |= _free(leaf, f"schedule.{family}.{key}")
    for key, leaf in space.shared.items():
        found |= _free(leaf, key)
    return found


def space_parameters(space: Space) -> dict[str, Distribution]:
    """All free parameters by name; `schedule` is one where there are several families."""
    names = families(space)
    found: dict[str, Distribution] = {"schedule": Choice(names)} if len(names) > 1 else {}
    for family in names:
        found |= family_parameters(space, family)
    return found


def filled(
    space: Space, family: str, value: Callable[[str, Distribution], Scalar]
) -> dict[str, Any]:
    """The space with one family and a value for each of its free parameters, in config form."""
    body = {
        key: _filled(leaf, f"schedule.{family}.{key}", value)
        for key, leaf in space.schedule[family].items()
    }
    shared = {key: _filled(leaf, key, value) for key, leaf in space.shared.items()}
    return {"schedule": {family: body}} | shared


def _schedule_flaws(raw: Any) -> Iterator[Flaw]:
    if not isinstance(raw, Mapping) or not raw:
        message = f"schedule must map families to their parameters, but got {shown(raw)}"
        yield Flaw(("schedule",), message)
        return
    for family, body in raw.items():
        path = ("schedule", family)
        if family not in SCHEDULES:
            message = f"unknown schedule {family!r}{hint(family, SCHEDULES)}"
            yield Flaw(path, message, at_key=True)
        elif isinstance(body, Mapping | None):
            yield from _family_flaws(family, body or {}, path)
        else:
            yield Flaw(path, f"{family} must be a mapping of parameters, but got {shown(body)}")


def _family_flaws(family: str, body: Mapping[str, Any], path: Path) -> Iterator[Flaw]:
    known = schedule_keys(family)
    for key, value in body.items():
        if key in known or (family == "custom" and key.isidentifier()):
            yield from leaf_flaws(value, (*path, key), parameter_kind(family, key))
        elif family == "custom":
            message = f"a key must be a keyword argument of the function, but got {shown(key)}"
            yield Flaw((*path, key), message, at_key=True)
        else:
            message = f"{family} has no parameter {key!r}{hint(key, known, 'it takes')}"
            yield Flaw((*path, key), message, at_key=True)
    yield from _spelling_flaws(body, path)
    for name in required_keys(family):
        spellings = [name] if name in known else [name + ending for ending in SPELLINGS]
        if not any(key in body for key in spellings):
            message = f"{family} must have {' or '.join(spellings)}, but it is missing"
            yield Flaw(path, message, at_key=True)


def _spelling_flaws(body: Mapping[str, Any], path: Path) -> Iterator[Flaw]:
    """A duration may be spelled in one unit only."""
    stems: dict[str, str] = {}
    for key in body:
        stem = next((key.removesuffix(end) for end in SPELLINGS if key.endswith(end)), None)
        if stem is None or stem not in ("warmup", "decay", "boundaries"):
            continue
        first = stems.setdefault(stem, key)
        if first != key:
            message = f"a duration must be spelled once, but got {first} and {key}"
            yield Flaw((*path, key), message, at_key=True)


def _bound_flaws(key: str, raw: Any) -> Iterator[Flaw]:
    """Ends and values of a hyperparameter that no optimizer can work with."""
    below_one = key in ("momentum", "b1", "b2")
    rule = f"0 <= {key} < 1" if below_one else f"{key} >= 0"
    inner = raw if isinstance(raw, Mapping) else {None: [raw]}
    for kind, values in inner.items():
        for index, value in enumerate(values if isinstance(values, Sequence) else ()):
            if isinstance(value, str | bool) or not isinstance(value, int | float):
                continue
            if value < 0 or (below_one and value >= 1):
                path = (key, kind, index) if kind in RANGES else (key,)
                yield Flaw(path, f"{rule} must hold, but got {shown(value)}")


def _free(leaf: Leaf, name: str) -> dict[str, Distribution]:
    if isinstance(leaf, Uniform | IntUniform | Choice):
        return {name: leaf}
    found: dict[str, Distribution] = {}
    for index, entry in enumerate(leaf if isinstance(leaf, tuple) else ()):
        found |= _free(entry, f"{name}.{index}")
    return found


def _filled(leaf: Leaf, name: str, value: Callable[[str, Distribution], Scalar]) -> Any:
    if isinstance(leaf, Uniform | IntUniform | Choice):
        return value(name, leaf)
    if isinstance(leaf, tuple):
        return [_filled(entry, f"{name}.{index}", value) for index, entry in enumerate(leaf)]
    return leaf
