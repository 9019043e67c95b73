"""Walks over a config's space: free parameters, samples, points, grids, concrete configs."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from search_spaces.config import SweepConfig
from search_spaces.crosschecks import grid_flaws
from search_spaces.distributions import Choice, Distribution, Scalar, Uniform
from search_spaces.faults import dotted
from search_spaces.points import point_flaws, point_values
from search_spaces.space import families, family_parameters, filled, space_parameters


def free_parameters(config: SweepConfig) -> dict[str, Distribution]:
    """Every free parameter by its name in a study, such as `schedule.cosine_decay.peak_lr`.

    The family itself is the parameter `schedule` where there is more than one.
    """
    return space_parameters(config.space)


def is_concrete(config: SweepConfig) -> bool:
    """Whether the config has no free parameter, so that it describes one training."""
    return not free_parameters(config)


def sample_space(
    config: SweepConfig, suggest: Callable[[str, Distribution], Scalar]
) -> dict[str, Any]:
    """A point in the shape of `space`: one family, and a plain value for every parameter.

    `suggest` is asked for the family, where there are several, and then only for its parameters.
    """
    names = families(config.space)
    (family, *others) = names
    if others:
        family = str(suggest("schedule", Choice(names)))
    return filled(config.space, family, suggest)


def point_to_parameters(config: SweepConfig, point: Mapping[str, Any]) -> dict[str, Scalar]:
    """The free parameters of an enqueued point or a sample, by their name in a study.

    Raises ValueError where the point is not one of the space.
    """
    flaws = list(point_flaws(config.space, point))
    if flaws:
        raise ValueError("\n".join(f"{dotted(flaw.path)}: {flaw.message}" for flaw in flaws))
    return point_values(config.space, point)


def custom_functions(config: SweepConfig) -> list[str]:
    """The names of the user's functions that the space may call, sorted."""
    momentum = config.space.shared.get("momentum_schedule")
    tables = [config.space.schedule, momentum if isinstance(momentum, Mapping) else {}]
    names: set[str] = set()
    for body in (table["custom"] for table in tables if "custom" in table):
        leaf = body["function"] if isinstance(body, Mapping) else None
        names |= {str(name) for name in (leaf.options if isinstance(leaf, Choice) else (leaf,))}
    return sorted(names)


def flat_parameters(concrete_space: Mapping[str, Any]) -> dict[str, Scalar]:
    """A sample for display: `{"schedule": "cosine_decay", "peak_lr": 0.3, "momentum": 0.9}`.

    Lists become `values.0`. A shared key goes by its own name; a key of the family that has the
    same name stands under `<family>.<key>`.
    """
    ((family, body),) = concrete_space["schedule"].items()
    flat: dict[str, Scalar] = {"schedule": family}
    for key, value in body.items():
        flat |= _flat(value, f"{family}.{key}" if key in concrete_space else key)
    for key, value in concrete_space.items():
        if key != "schedule":
            flat |= _flat(value, key)
    return flat


def grid_points(config: SweepConfig) -> list[dict[str, Scalar]]:
    """Every point of the space by its free parameters, family by family.

    Raises ValueError where a parameter has no end of values.
    """
    flaws = list(grid_flaws(config.space))
    if flaws:
        raise ValueError("\n".join(flaw.message for flaw in flaws))
    points: list[dict[str, Scalar]] = []
    names = families(config.space)
    for family in names:
        start: dict[str, Scalar] = {"schedule": family} if len(names) > 1 else {}
        free = family_parameters(config.space, family)
        for values in itertools.product(*map(_values, free.values())):
            points.append(start | dict(zip(free, values, strict=True)))
    return points


def concrete_config(
    config: SweepConfig,
    concrete_space: Mapping[str, Any],
    *,
    name: str | None = None,
    expected: Mapping[str, Scalar] | None = None,
) -> SweepConfig:
    """The config of one trial: a sweep of one trial, without free parameters or pruning."""
    data = config.model_dump(mode="json")
    search = data["search"] | {
        "algorithm": "random",
        "num_trials": 1,
        "hours": None,
        "target": None,
    }
    changes = {
        "name": name or config.name,
        "space": dict(concrete_space),
        "enqueue": [],
        "search": search,
        "pruning": {},
        "expected": None if expected is None else dict(expected),
    }
    return SweepConfig.model_validate(data | changes)


def _values(spread: Distribution) -> tuple[Scalar, ...]:
    assert not isinstance(spread, Uniform)
    if isinstance(spread, Choice):
        return spread.options
    return tuple(range(spread.low, spread.high + 1))


def _flat(value: Any, name: str) -> dict[str, Scalar]:
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list | tuple):
        inner = list(enumerate(value))
    else:
        return {name: value}
    flat: dict[str, Scalar] = {}
    for key, entry in inner:
        flat |= _flat(entry, f"{name}.{key}")
    return flat
