"""What each key of a space may hold, and the JSON schema that tells editors so."""

import inspect
from typing import Any

from search_spaces.distributions import Kind
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.schedules import SCHEDULES, WARMUP_KEYS, schedule_keys

SPELLINGS = ("_steps", "_epochs", "_fraction")
_CLOCK: dict[str, Kind] = {"interval": ("step", "epoch"), "first_tick": (0, 1)}


def parameter_kind(family: str, key: str) -> Kind:
    """What a key of a schedule family must be, read off the schedule function's signature."""
    if key in _CLOCK:
        return _CLOCK[key]
    parameters = inspect.signature(SCHEDULES[family]).parameters
    stem = next((key.removesuffix(end) for end in SPELLINGS if key.endswith(end)), key)
    parameter = parameters.get(key) or parameters.get(f"{stem}_ticks")
    if parameter is None:
        return "any"
    if parameter.annotation is bool:
        return (False, True)
    if parameter.annotation is str:
        return "text"
    return "number" if parameter.annotation is float else "numbers"


def space_json_schema() -> dict[str, Any]:
    """The JSON schema of `space`, for editors."""
    number = _leaf_schema({"type": "number"})
    optimizer_keys = {name: number for table in HYPERPARAMETERS.values() for name in table}
    bodies = {family: _family_schema(family) for family in SCHEDULES}
    schedule = {
        "type": "object",
        "properties": bodies,
        "additionalProperties": False,
        "minProperties": 1,
    }
    shared = dict.fromkeys(WARMUP_KEYS, number) | optimizer_keys
    return {
        "type": "object",
        "properties": {"schedule": schedule} | shared,
        "required": ["schedule"],
        "additionalProperties": False,
    }


def _family_schema(family: str) -> dict[str, Any]:
    simple: dict[Kind, dict[str, Any]] = {"number": {"type": "number"}, "text": {"type": "string"}}
    properties = {}
    for key in schedule_keys(family):
        kind = parameter_kind(family, key)
        if kind == "numbers":
            items = _leaf_schema(simple["number"])
            properties[key] = {"type": "array", "items": items, "minItems": 1}
        else:
            value = {"enum": list(kind)} if isinstance(kind, tuple) else simple[kind]
            properties[key] = _leaf_schema(value)
    return {
        "type": ["object", "null"],
        "description": (inspect.getdoc(SCHEDULES[family]) or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": family == "custom",
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
