"""What each key of a space may hold, and the JSON schema that tells editors so."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from search_spaces.distributions import Kind
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.schedules import (
    MOMENTA,
    SCHEDULES,
    WARMUP_KEYS,
    WARMUP_SHAPES,
    Family,
    config_keys,
    takes_anything,
)

DEFAULT = "default"  # in place of a family's parameters: the space in search_spaces.defaults
SPELLINGS = ("_steps", "_epochs", "_fraction")
SHARED_KEYS = (*WARMUP_KEYS, "warmup_shape", "warmup_init_fraction")
_CLOCK: dict[str, Kind] = {"interval": ("step", "epoch"), "first_tick": (0, 1)}


def parameter_kind(family: Family, key: str) -> Kind:
    """What a key of a family must be, read off the signature of its function."""
    if key in _CLOCK:
        return _CLOCK[key]
    parameters = inspect.signature(family).parameters
    stem = next((key.removesuffix(end) for end in SPELLINGS if key.endswith(end)), key)
    parameter = parameters.get(key) or parameters.get(f"{stem}_ticks")
    if parameter is None:
        return "any"
    if get_origin(parameter.annotation) is Literal:
        return get_args(parameter.annotation)
    kinds: dict[Any, Kind] = {float: "number", bool: (False, True), Sequence[float]: "numbers"}
    return kinds.get(parameter.annotation, "text")


def shared_kind(key: str) -> Kind:
    """What a key that all families share must be."""
    return WARMUP_SHAPES if key == "warmup_shape" else "number"


def space_json_schema() -> dict[str, Any]:
    """The JSON schema of `space`, for editors."""
    hyperparameters = {name for table in HYPERPARAMETERS.values() for name in table}
    shared = {
        key: _leaf_schema(_value_schema(shared_kind(key)))
        for key in (*SHARED_KEYS, *sorted(hyperparameters))
    }
    families = {
        name: {"anyOf": [{"const": DEFAULT}, _family_schema(family)]}
        for name, family in SCHEDULES.items()
    }
    momenta = {name: _family_schema(family) for name, family in MOMENTA.items()}
    return {
        "type": "object",
        "properties": {
            "schedule": _table_schema(families) | {"minProperties": 1},
            "momentum_schedule": _table_schema(momenta) | {"minProperties": 1, "maxProperties": 1},
        }
        | shared,
        "required": ["schedule"],
        "additionalProperties": False,
    }


def _table_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value_schema(kind: Kind) -> dict[str, Any]:
    simple: dict[Kind, dict[str, Any]] = {"number": {"type": "number"}, "text": {"type": "string"}}
    return {"enum": list(kind)} if isinstance(kind, tuple) else simple[kind]


def _family_schema(family: Family) -> dict[str, Any]:
    properties = {}
    for key in config_keys(family):
        kind = parameter_kind(family, key)
        if kind == "numbers":
            items = _leaf_schema(_value_schema("number"))
            properties[key] = {"type": "array", "items": items, "minItems": 1}
        else:
            properties[key] = _leaf_schema(_value_schema(kind))
    return {
        "type": ["object", "null"],
        "description": (inspect.getdoc(family) or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": takes_anything(family),
    }


def _leaf_schema(value: dict[str, Any]) -> dict[str, Any]:
    """A plain value or one range of it; the bounds of a range are checked on reading."""
    choice = {"type": "array", "items": value, "minItems": 1}
    ends = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    numeric = ("uniform", "log_uniform", "int_uniform") if value.get("type") == "number" else ()
    ranges = {"choice": choice} | dict.fromkeys(numeric, ends)
    options = [
        {
            "type": "object",
            "properties": {name: schema},
            "required": [name],
            "additionalProperties": False,
        }
        for name, schema in ranges.items()
    ]
    return {"anyOf": [value, *options]}
