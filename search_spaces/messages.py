"""Our own words for what pydantic finds: rule, value, way out."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from search_spaces.faults import (
    MAX_FAULTS,
    Flaw,
    Path,
    hint,
    named,
    plain,
    quoted,
    shown,
    unquote_hint,
)

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "dict_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("ge", ">="),
    "greater_than": ("gt", ">"),
    "less_than_equal": ("le", "<="),
}


def flaws_of(error: ValidationError, model: type[BaseModel]) -> list[Flaw]:
    """The faults in a pydantic error, in our own words; of very many the first, as they come."""
    details = (e for e in error.errors(include_url=False) if e["type"] != _FOLLOWS)
    return [_flaw(entry, model) for entry in islice(details, MAX_FAULTS + 1)]


_FOLLOWS = "default_factory_not_called"  # only says that another field of the section is wrong


def _flaw(detail: ErrorDetails, model: type[BaseModel]) -> Flaw:
    path, kind, value = detail["loc"], detail["type"], detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    name = named(path) if path else "a sweep file"
    if kind == "config":
        return Flaw(path, context["message"], context["at_key"])
    if kind == "extra_forbidden":
        known = _section(model, path[:-1]).model_fields
        key = str(path[-1])
        return Flaw(path, f"unknown key {quoted(key)}{hint(key, known)}", at_key=True)
    if kind == "missing":
        field = _section(model, path[:-1]).model_fields[name]
        return Flaw(path, f"{name} must be given, but is missing: {field.description}")
    if kind in _TYPES:
        way_out = unquote_hint(value) if isinstance(value, str) and "number" in _TYPES[kind] else ""
        return Flaw(path, f"{name} must be {_TYPES[kind]}, but got {shown(value)}{way_out}")
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        return Flaw(path, f"{name} {sign} {context[key]:.12g} must hold, but got {shown(value)}")
    return Flaw(path, _rule(kind, name, value, context, detail["msg"]))


def _rule(kind: str, name: str, value: Any, context: Mapping[str, Any], otherwise: str) -> str:
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        close = hint(value, options) if isinstance(value, str) else ""
        way_out = close if "did you mean" in close else ""
        names = ", ".join(map(plain, options))
        rule = f"be {names}" if len(options) == 1 else f"be one of {names}"
        return f"{name} must {rule}, but got {shown(value)}{way_out}"
    if kind == "finite_number":
        return f"{name} must be finite, but got {value}"
    if kind == "string_too_short":
        return f"{name} must not be empty, but got {shown(value)}"
    if kind == "string_pattern_mismatch":
        rule = "be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        return f"{name} must {rule}, but got {shown(value)}"
    return f"{name}: {otherwise}, but got {shown(value)}"


def _section(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """The record at a path of field names."""
    for key in path:
        annotation = model.model_fields[str(key)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return model
