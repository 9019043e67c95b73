"""Commands that turn sweeps into pages: report, compare."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.commands import SWEEPS_DIR
from sweep.errors import CommandError
from sweep.options import (
    Json,
    Name,
    SweepsDir,
    console_for,
    print_json,
    read_sweep_of,
    sweep_directory,
)


def report(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file (default: NAME.html, here).")
    ] = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Write a sweep's results and figures as one page that needs nothing but itself."""
    directory = sweep_directory(name, sweeps_dir)
    path = _page_path(output or Path(f"{directory.name}.html"))
    sweep, trials = read_sweep_of(directory)
    from sweep.report import report_html

    _write(path, report_html(sweep, trials))
    print(path)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A sweep's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another's.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a page with figures, too.")
    ] = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
    as_json: Json = False,
) -> None:
    """Show two sweeps side by side: results, families, and where their configs differ."""
    path = None if output is None else _page_path(output)
    a, b = (read_sweep_of(sweep_directory(name, sweeps_dir)) for name in (first, second))
    from sweep.comparison import compare_html, comparison, comparison_table, warning

    if path:
        _write(path, compare_html(a, b))
    if as_json:
        return print_json(comparison(a, b))
    console_for().print(comparison_table(a, b))
    said = warning(a, b)
    print(said, end="\n" if said else "")
    if path:
        print(f"wrote {path}")
    return None


def _page_path(path: Path) -> Path:
    if path.suffix not in (".html", ".htm"):
        raise CommandError(f"the name must end in .html, but got {path}", exit_code=2)
    return path


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", 2) from error
