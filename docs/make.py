"""The reference pages, written from the program itself: `python -m docs.make`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from search_spaces import SweepConfig
from search_spaces.keys import SHARED_KEYS
from sweep.catalogue import Entry, find_entries
from sweep.cli import app
from trainers.hyperparameters import HYPERPARAMETERS

FOLDER = Path(__file__).parent / "reference"
_GENERATED = "Written by `make docs` from the program itself; changes go there.\n"
_WORDS = {int: "whole number", float: "number", str: "text", Path: "path"}
_SHARED = {
    "warmup_steps": ("number", "none", "length of the warmup in optimizer steps"),
    "warmup_epochs": ("number", "none", "the same in epochs"),
    "warmup_fraction": ("number", "none", "the same as a share of the whole run"),
    "warmup_shape": ("`linear`, `cosine`, `exponential`", "`linear`", "how the warmup rises"),
    "warmup_init_fraction": ("number", "`0`", "its start, as a share of the family's first rate"),
}


def cli_reference() -> str:
    """Every command with its arguments and options."""
    commands = getattr(typer.main.get_command(app), "commands")  # noqa: B009  a group's alone
    texts = [_command_text(name, command) for name, command in commands.items()]
    intro = (
        "Every command takes `--help`, or `-h`. `sweep COMMAND --help` prints the same, "
        "`sweep --version` the version.\n"
    )
    return "\n".join(["# Commands\n", _GENERATED, intro, *texts])


def config_reference() -> str:
    """Every key of a sweep file."""
    schema = SweepConfig.model_json_schema()
    schema["properties"] = {
        key: schema["$defs"].get(value.get("$ref", "").rpartition("/")[2], {}) | value
        for key, value in schema["properties"].items()
    }
    parts = ["# The sweep file\n", _GENERATED, _intro(), _table(_KEY_HEADER, _key_rows(schema))]
    for key, section in schema["properties"].items():
        if "properties" in section:
            parts += [f"## {key}\n", section["description"] + "\n"]
            tables = [_table(_KEY_HEADER, _key_rows(section))]
            parts += _space_parts() if key == "space" else tables
    return "\n".join(parts)


REFERENCES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_reference,
    "config.md": config_reference,
}


def _command_text(name: str, command: Any) -> str:
    """One command's section."""
    shown = [one for one in command.params if not one.hidden]
    arguments = [one for one in shown if not one.opts[0].startswith("-")]
    usage = " ".join(["sweep", name, *(one.metavar or one.name.upper() for one in arguments)])
    takes_options = len(arguments) < len(shown)
    rows = [
        (_spelling(one), _value(one), _default(one.default, one.required), one.help or "")
        for one in shown
    ]
    return "\n".join(
        [
            f"## sweep {name}\n",
            f"`{usage}{' [OPTIONS]' if takes_options else ''}`\n",
            f"{command.help}\n",
            _table(("argument, option", "value", "default", "meaning"), rows),
        ]
    )


def _spelling(parameter: Any) -> str:
    if not parameter.opts[0].startswith("-"):
        return f"`{(parameter.metavar or parameter.name.upper()).strip('[]')}`"
    spellings = ", ".join(f"`{spelling}`" for spelling in parameter.opts)
    return f"{spellings} or `{parameter.envvar}`" if parameter.envvar else spellings


def _value(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    if annotation is bool:
        return ""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is list:
        return f"`{parameter.metavar}`, as often as needed"
    least = "" if getattr(parameter, "min", None) is None else f", at least {parameter.min}"
    return _WORDS.get(annotation, "text") + least


def _default(value: Any, required: bool) -> str:
    if required:
        return "required"
    return "" if value is None or value is False else _code(value)


_KEY_HEADER = ("key", "value", "default", "meaning")


def _key_rows(section: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for key, value in section["properties"].items():
        required = key in section.get("required", ())
        nested = "properties" in value
        given = "required" if required else _code(value["default"]) if "default" in value else ""
        name = f"[`{key}`](#{key})" if nested else f"`{key}`"
        kind = "mapping" if nested else _kind(value)
        yield name, kind, given, value.get("description", "")


def _kind(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(option) for option in schema["anyOf"]))
    for key in ("enum", "const"):
        if key in schema:
            values = schema[key] if key == "enum" else [schema[key]]
            return ", ".join(_code(value) for value in values)
    words = {"integer": "whole number", "string": "text", "boolean": "`true`, `false`"}
    words |= {"null": "`null`", "array": "list", "object": "mapping", "number": "number"}
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<="}
    limits = [f"{sign} {schema[name]}" for name, sign in bounds.items() if name in schema]
    return ", ".join([words[schema["type"]], *limits])


def _code(value: Any) -> str:
    """A value as it is spelled in a sweep file."""
    if isinstance(value, bool) or value is None:
        return "`null`" if value is None else f"`{str(value).lower()}`"
    return "empty" if value in ("", [], ()) else f"`{value}`"


def _intro() -> str:
    return """\
YAML 1.2; unknown keys are refused. `sweep check FILE` names what is wrong, with its line, and
`--set search.num_trials=8` overrides a key for one launch. In `space`, a value may be a range:

| range | values |
|---|---|
| `{uniform: [low, high]}` | numbers, both ends included |
| `{log_uniform: [low, high]}` | the same, even in the logarithm |
| `{int_uniform: [low, high]}` | whole numbers, both ends included |
| `{choice: [a, b, c]}` | one of them |
"""


def _space_parts() -> Iterator[str]:
    names = [entry.name for entry in find_entries() if entry.table == "schedule"]
    momenta = [entry.name for entry in find_entries() if entry.table == "momentum_schedule"]
    optimizers = {
        name: ", ".join(f"{one} `{table[name]:g}`" for one, table in HYPERPARAMETERS.items()
                        if name in table)
        for name in sorted({name for table in HYPERPARAMETERS.values() for name in table})
    }  # fmt: skip
    rows = [("`schedule`", _linked(names, "schedule"), "required", "the families to search")]
    rows += [(f"`{key}`", *_SHARED[key]) for key in SHARED_KEYS]
    rows += [
        (f"`{name}`", "number", default, "hyperparameter of these optimizers")
        for name, default in optimizers.items()
    ]
    momentum = "moves the momentum, or b1 of adam and adamw, in its place"
    rows.append(("`momentum_schedule`", _linked(momenta, "momentum_schedule"), "none", momentum))
    yield _table(_KEY_HEADER, rows)
    yield "A family is a mapping of its parameters, or `default` for a space that suits SGD.\n"
    for entry in find_entries():
        yield _family_text(entry)


def _linked(names: Sequence[str], table: str) -> str:
    return ", ".join(f"[`{name}`](#{table}{name})" for name in names)


def _family_text(entry: Entry) -> str:
    letters = "; ".join(f"{letter} = {meaning}" for letter, meaning in entry.letters.items())
    paragraphs = [f"### {entry.table}.{entry.name}", entry.summary]
    if entry.formula:
        paragraphs.append(f"`{entry.formula}`" + (f", where {letters}" if letters else ""))
    paragraphs += [entry.notes] if entry.notes else []
    rows = [
        (f"`{one.key}`" if one.key.isidentifier() else one.key.strip("()"), one.default,
         one.meaning.strip())
        for one in entry.parameters
    ]  # fmt: skip
    return "\n\n".join([*paragraphs, _table(("key", "default", "meaning"), rows)])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell or '-' for cell in line)} |\n" for line in lines)


def main() -> None:
    """Write every reference page."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in REFERENCES.items():
        (FOLDER / name).write_text(text())


if __name__ == "__main__":
    main()
