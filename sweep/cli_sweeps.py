"""Commands that look at sweeps: ls, status, best."""

import sys
from typing import Annotated

import typer

from sweep.commands import SWEEPS_DIR, command_for, folder_option
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


def list_sweeps(sweeps_dir: SweepsDir = SWEEPS_DIR, as_json: Json = False) -> None:
    """List the sweeps."""
    from sweep.results import summary
    from sweep.tables import sweep_table

    rows = []
    for path in sorted(sweeps_dir.glob("*/sweep.json")):
        try:
            rows.append(summary(*read_sweep_of(path.parent)))
        except (CommandError, ValueError) as error:
            print(error, file=sys.stderr)
    if as_json:
        print_json(rows)
    elif rows:
        console_for().print(sweep_table(rows))
    else:
        start = f"sweep launch quickstart{folder_option(sweeps_dir)}"
        print(f"no sweeps in {sweeps_dir}; start one with: {start}")


def status(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR, as_json: Json = False) -> None:
    """Show where a sweep stands, and what the tracking server does not hold yet."""
    from sweep.delivery import lost_records, read_status, undelivered
    from sweep.results import summary

    sweep, trials = read_sweep_of(sweep_directory(name, sweeps_dir))
    held = read_status(sweep.directory)
    late_trials, late_epochs = undelivered(held, trials)
    lost = lost_records(sweep.directory, sweep.tracking_uri)
    if as_json:
        delivery = {"trials": late_trials, "epochs": late_epochs, "error": lost or held.error}
        delivery |= {"pictures": held.pictures}
        return print_json(summary(sweep, trials) | {"undelivered": delivery})
    from sweep.view import still

    console = console_for()
    for line in still(sweep, trials, console.width):
        console.print(line, soft_wrap=True)
    print(f"MLflow   {lost or _delivery_text(late_trials, late_epochs, held.error)}")
    if held.pictures:
        print(f"the pictures in MLflow could not be drawn: {held.pictures}")
    for trial in trials:
        if trial.damage:
            print(f"trial {trial.number} has lost figures of its epochs: {trial.damage}")
    return None


def best(
    name: Name,
    number: Annotated[int, typer.Option("-n", help="How many trials.", min=1)] = 5,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
    as_json: Json = False,
) -> None:
    """Show a sweep's best trials."""
    from sweep.results import leaderboard, trial_summary
    from sweep.tables import trial_table

    sweep, trials = read_sweep_of(sweep_directory(name, sweeps_dir))
    top = [t for t in leaderboard(sweep.config, trials) if t.state == "complete"][:number]
    if as_json:
        print_json([trial_summary(trial) for trial in top])
    elif top:
        console = console_for()
        for line in trial_table(sweep, top, console.width):
            console.print(line, soft_wrap=True)
    else:
        see = command_for("status", sweep.directory)
        raise CommandError(f"no trial of {name} is complete; see: {see}")


def _delivery_text(trials: int, epochs: int, error: str | None) -> str:
    from sweep.drawing import count

    if not trials and not error:
        return "everything delivered"
    what = (
        f"{count(trials, 'trial')} ({count(epochs, 'epoch')})"
        if trials
        else "the sweep's own run is"
    )
    return f"{what} not yet delivered" + (f": {error}" if error else "")
