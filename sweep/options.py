"""What the commands share: their options, and how they find and print things."""

import difflib
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from sweep.commands import folder_option
from sweep.completion import files_and_presets, names_of_sweeps
from sweep.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from search_spaces import SweepConfig
    from sweep.records import SweepRecord, TrialRecord

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A sweep file, or a preset's name.", autocompletion=files_and_presets
    ),
]
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A sweep's name.", autocompletion=names_of_sweeps),
]
SweepsDir = Annotated[
    Path, typer.Option(envvar="SWEEP_DIR", help="The folder that holds the sweeps.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: search.num_trials=8."),
]
ManualDir = Annotated[
    Path | None, typer.Option(help="Take the data set's files from here (SWEEP_MANUAL_DIR).")
]
Address = Annotated[
    str | None, typer.Option(help="The Ray cluster to run on (default: RAY_ADDRESS, or here).")
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Leave it to the cluster as a job, and return at once.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Run on a cluster that anyone who reaches it may use.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_file(file: str, overrides: list[str] | None) -> "SweepConfig":
    """A checked config, from a file or a preset."""
    from search_spaces import load_config, preset_path, presets

    path = Path(file)
    preset = None if path.exists() else preset_path(file)
    if not preset and not path.exists() and not path.suffix:
        near = difflib.get_close_matches(file, presets(), 1)
        hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(presets())}"
        raise CommandError(f"there is no file and no preset {file}; {hint}", exit_code=2)
    return load_config(preset or path, overrides or (), samples=20)


def again(options: "Mapping[str, object]") -> list[str]:
    """The words that give options once more: not those that are None or False; paths absolute."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    words: list[str] = []
    for name, value in given.items():
        path = value.resolve() if isinstance(value, Path) else value
        words += [name] if value is True else [name, str(path)]
    return words


def sweep_directory(name: str, sweeps_dir: Path) -> Path:
    """The directory of an existing sweep."""
    directory = sweeps_dir / name
    files = ("sweep.json", "config.yaml")  # one alone is a damaged sweep, which is said later
    if not any((directory / file).exists() for file in files):
        names = [path.parent.name for path in sweeps_dir.glob("*/sweep.json")]
        near = difflib.get_close_matches(name, names, 1)
        listing = f"list them with: sweep ls{folder_option(sweeps_dir)}"
        hint = f"did you mean {near[0]}?" if near else listing
        raise CommandError(f"no sweep {name} in {sweeps_dir}; {hint}", exit_code=2)
    return directory


def read_sweep_of(directory: Path) -> "tuple[SweepRecord, list[TrialRecord]]":
    from sweep.directory import read_sweep

    return read_sweep(directory)


def console_for(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    # A terminal knows its size; what a shell has exported may be that of another.
    variables = {k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")}
    console = Console(stderr=stderr, highlight=False, width=width, _environ=variables)
    console.on_broken_pipe = write_nowhere  # Rich would end the program
    return console


def fitted(text: str, stream: TextIO) -> str:
    """The text as it is, or on a terminal with its long lines broken between words."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal
        return text
    if width == 0:  # one that does not know its width
        return text
    wrap = partial(
        textwrap.wrap,
        width=max(width, 20),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return "\n".join("\n".join(wrap(line)) for line in text.split("\n"))


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Around output whose reader may be gone: the exit code stays that of the work."""
    try:
        yield
    except OSError:
        write_nowhere()


def write_nowhere() -> None:
    """Give up output whose reader is gone; or the interpreter would fail at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))
