"""The command that checks what a launch needs."""

import sys
from typing import Annotated

import typer

from sweep.commands import SWEEPS_DIR
from sweep.options import (
    Address,
    Insecure,
    Json,
    ManualDir,
    SweepsDir,
    fitted,
    load_file,
    print_json,
)


def doctor(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Check for this sweep file, or preset.")
    ] = None,
    address: Address = None,
    insecure: Insecure = False,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="SWEEP_STORAGE", help="The Optuna storage URL that the launch will get."
        ),
    ] = None,
    manual_dir: ManualDir = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
    as_json: Json = False,
) -> None:
    """Check what a launch needs: machine, packages, Ray, MLflow, data."""
    config = None if file is None else load_file(file, None)
    from sweep.doctor import examine, exit_code, line

    found = examine(
        config,
        address=address,
        insecure=insecure,
        storage=storage,
        manual_dir=manual_dir,
        sweeps_dir=sweeps_dir,
    )
    if as_json:
        print_json([check._asdict() for check in found])
    else:
        print(fitted("\n".join(map(line, found)), sys.stdout))
    raise typer.Exit(exit_code(found))
