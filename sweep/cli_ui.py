"""The command that shows sweeps in a browser."""

from typing import Annotated

import typer

from sweep.commands import SWEEPS_DIR
from sweep.options import SweepsDir, sweep_directory


def ui(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Open on a sweep.")] = None,
    port: Annotated[
        int, typer.Option(help="0, or a port that is taken: any free one.", min=0, max=65535)
    ] = 5000,
    browser: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open", help="Open a browser (default: at a terminal with a screen)."
        ),
    ] = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Start the MLflow UI on this machine's loopback address; Ctrl-C ends it, with exit code 0."""
    from sweep.ui import serve

    directory = None if name is None else sweep_directory(name, sweeps_dir)
    serve(sweeps_dir, directory, port, browser=browser)
