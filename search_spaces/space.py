"""A search space: schedule families with their parameters, and what all of them share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import CoreSchema, core_schema

from search_spaces.defaults import DEFAULT_SPACES
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
from search_spaces.keys import (
    DEFAULT,
    SHARED_KEYS,
    SPELLINGS,
    parameter_kind,
    shared_kind,
    space_json_schema,
)
from trainers.hyperparameters import HYPERPARAMETERS, momentum_name
from trainers.schedules import (
    MOMENTA,
    SCHEDULES,
    Family,
    config_keys,
    parameters_of,
    required_keys,
    takes_anything,
)

Tree = Leaf | Mapping[str, "Tree"]


@dataclass(frozen=True, slots=True)
class Space:
    """`schedule`: family -> parameter -> leaf; `shared`: what stands beside it.

    That is the warmup, the optimizer's hyperparameters, and the one family of the momentum.
    """

    schedule: Mapping[str, Mapping[str, Leaf]]
    shared: Mapping[str, Tree]

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
        family: _parse_body(DEFAULT_SPACES[family] if body == DEFAULT else body or {})
        for family, body in raw["schedule"].items()
    }
    shared: dict[str, Tree] = {}
    for key, value in raw.items():
        if key == "momentum_schedule":
            shared[key] = {family: _parse_body(body or {}) for family, body in value.items()}
        elif key != "schedule":
            shared[key] = parse_leaf(value)
    return Space(schedule, shared)


def _parse_body(body: Mapping[str, Any]) -> dict[str, Leaf]:
    return {key: parse_leaf(value) for key, value in body.items()}


def space_to_plain(space: Space) -> dict[str, Any]:
    """The space as it is written in a config file; undoes `parse_space`."""
    return _to_plain({"schedule": space.schedule, **space.shared})


def _to_plain(tree: Tree) -> Any:
    if isinstance(tree, Mapping):
        return {key: _to_plain(inner) for key, inner in tree.items()}
    return leaf_to_plain(tree)


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
    known = ("schedule", "momentum_schedule", *SHARED_KEYS, *sorted(hyperparameters))
    for key, value in raw.items():
        if key not in known:
            yield Flaw((key,), f"unknown key {key!r}{hint(key, known)}", at_key=True)
        elif key == "momentum_schedule":
            yield from _momentum_flaws(value)
        elif key != "schedule":
            yield from leaf_flaws(value, (key,), shared_kind(key))
    yield from _spelling_flaws(raw, (), {"warmup"})


def optimizer_flaws(raw: Mapping[str, Any], optimizer: str) -> Iterator[Flaw]:
    """Hyperparameters in a space that this optimizer lacks, or that lie out of its bounds."""
    known = HYPERPARAMETERS[optimizer]
    driven = momentum_name(optimizer)
    if driven in raw and "momentum_schedule" in raw:
        message = (
            f"momentum_schedule drives {driven}, which must not be given too; drop one of them"
        )
        yield Flaw((driven,), message, at_key=True)
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
    found = _free(space.schedule[family], f"schedule.{family}")
    for key, tree in space.shared.items():
        found |= _free(tree, key)
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
    body = _filled(space.schedule[family], f"schedule.{family}", value)
    shared = {key: _filled(tree, key, value) for key, tree in space.shared.items()}
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
            yield from _family_flaws(SCHEDULES[family], body or {}, path)
        elif body != DEFAULT:
            message = f"{family} must be a mapping of parameters or {DEFAULT}"
            yield Flaw(path, f"{message}, but got {shown(body)}")


def _momentum_flaws(raw: Any) -> Iterator[Flaw]:
    path = ("momentum_schedule",)
    if not isinstance(raw, Mapping) or len(raw) != 1:
        message = f"momentum_schedule must have one of {', '.join(MOMENTA)}, but got {shown(raw)}"
        yield Flaw(path, message)
        return
    ((family, body),) = raw.items()
    if family not in MOMENTA:
        message = f"unknown momentum schedule {family!r}{hint(family, MOMENTA)}"
        yield Flaw((*path, family), message, at_key=True)
    elif not isinstance(body, Mapping | None):
        message = f"{family} must be a mapping of parameters, but got {shown(body)}"
        yield Flaw((*path, family), message)
    else:
        yield from _family_flaws(MOMENTA[family], body or {}, (*path, family))


def _family_flaws(family: Family, body: Mapping[str, Any], path: Path) -> Iterator[Flaw]:
    known, name = config_keys(family), family.__name__
    for key, value in body.items():
        if key in known or (takes_anything(family) and key.isidentifier()):
            yield from leaf_flaws(value, (*path, key), parameter_kind(family, key))
        elif takes_anything(family):
            message = f"a key must be a keyword argument of the function, but got {shown(key)}"
            yield Flaw((*path, key), message, at_key=True)
        else:
            message = f"{name} has no parameter {key!r}{hint(key, known, 'it takes')}"
            yield Flaw((*path, key), message, at_key=True)
    durations = {key.removesuffix("_ticks") for key in parameters_of(family) if "_ticks" in key}
    yield from _spelling_flaws(body, path, durations)
    for required in required_keys(family):
        spellings = [required + ending for ending in SPELLINGS if required in durations]
        if not any(key in body for key in (required, *spellings)):
            message = f"{name} must have {' or '.join(spellings or [required])}, but it is missing"
            yield Flaw(path, message, at_key=True)


def _spelling_flaws(body: Mapping[str, Any], path: Path, durations: set[str]) -> Iterator[Flaw]:
    """A duration may be spelled in one unit only."""
    stems: dict[str, str] = {}
    for key in body:
        stem = next((key.removesuffix(end) for end in SPELLINGS if key.endswith(end)), None)
        if stem not in durations:
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


def _free(tree: Tree, name: str) -> dict[str, Distribution]:
    if isinstance(tree, Uniform | IntUniform | Choice):
        return {name: tree}
    found: dict[str, Distribution] = {}
    for key, inner in children(tree):
        found |= _free(inner, f"{name}.{key}")
    return found


def children(tree: Tree) -> Iterable[tuple[str | int, Tree]]:
    """What a mapping or a list of a space holds, by key or index; nothing for all else."""
    if isinstance(tree, Mapping):
        return tree.items()
    return enumerate(tree) if isinstance(tree, tuple) else ()


def _filled(tree: Tree, name: str, value: Callable[[str, Distribution], Scalar]) -> Any:
    if isinstance(tree, Uniform | IntUniform | Choice):
        return value(name, tree)
    if isinstance(tree, Mapping):
        return {key: _filled(inner, f"{name}.{key}", value) for key, inner in tree.items()}
    if isinstance(tree, tuple):
        return [_filled(inner, f"{name}.{index}", value) for index, inner in enumerate(tree)]
    return tree
