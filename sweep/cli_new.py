"""Commands for a new sweep file: init and schema."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sweep.errors import CommandError

_SCHEMA = "sweep.schema.json"


def init(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="The file to write; its name names the sweep.")
    ] = Path("sweep.yaml"),
) -> None:
    """Write a first sweep file, with comments, and the schema for editors beside it."""
    from search_spaces.schema import first_file

    if not file.name:  # the folder here, or the root
        raise CommandError(f"{file} must be the name of a file, but it is a folder", exit_code=2)
    schema, argument = file.with_name(_SCHEMA), shlex.quote(str(file))
    if file.exists():
        raise CommandError(
            f"{file} must not exist yet, but it does; name another: "
            f"sweep init {shlex.quote(str(_free(file)))}",
            exit_code=4,
        )
    if schema.exists() and not _is_ours(schema):
        raise CommandError(
            f"{schema} must be a schema that sweep has written, but it is not; move it away, or "
            "write the sweep file in another folder",
            exit_code=4,
        )
    try:
        with file.open("x") as stream:
            stream.write(first_file(argument, stem=file.stem, schema=_SCHEMA))
        schema.write_text(_schema_text())
    except OSError as error:
        raise CommandError(
            f"{error.filename or file} cannot be written: {error.strerror}; name a file in a "
            "folder that exists and can be written to"
        ) from error
    print(f"wrote    {file}, and {schema} for editors")
    for word, command in (("check", "check"), ("look", "preview"), ("run", "launch")):
        print(f"{word:8} sweep {command} {argument}")


def schema() -> None:
    """Print the JSON Schema of a sweep file, for editors."""
    sys.stdout.write(_schema_text())


def _schema_text() -> str:
    from search_spaces.schema import json_schema

    return json.dumps(json_schema(), indent=1) + "\n"


def _is_ours(path: Path) -> bool:
    from search_spaces.schema import TITLE

    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("title") == TITLE


def _free(file: Path) -> Path:
    names = (file.with_stem(f"{file.stem}-{number}") for number in range(2, 1_000_000))
    return next(name for name in names if not name.exists())
