"""Commands that look at sweeps: ls, status, best, export."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweep.errors import CommandError
from sweep.options import (
    SWEEPS_DIR,
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
    from sweep.progress import sweep_table
    from sweep.results import summary

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
        print(f"no sweeps in {sweeps_dir}; start one with: sweep launch quickstart")


def status(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR, as_json: Json = False) -> None:
    """Show where a sweep stands, and what the tracking server does not hold yet."""
    from sweep.delivery import read_status, undelivered
    from sweep.progress import headline
    from sweep.results import summary

    sweep, trials = read_sweep_of(sweep_directory(name, sweeps_dir))
    held = read_status(sweep.directory)
    late_trials, late_epochs = undelivered(held, trials)
    if as_json:
        delivery = {"trials": late_trials, "epochs": late_epochs, "error": held.error}
        delivery |= {"pictures": held.pictures}
        return print_json(summary(sweep, trials) | {"undelivered": delivery})
    console_for().print(headline(sweep, trials), soft_wrap=True)
    print(f"{sweep.state}; MLflow: {_delivery_text(late_trials, late_epochs, held.error)}")
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
    from sweep.progress import trial_table
    from sweep.results import leaderboard, trial_summary

    sweep, trials = read_sweep_of(sweep_directory(name, sweeps_dir))
    top = [t for t in leaderboard(sweep.config, trials) if t.state == "complete"][:number]
    if as_json:
        print_json([trial_summary(trial) for trial in top])
    elif top:
        console_for().print(trial_table(sweep, top))
    else:
        raise CommandError(f"no trial of {name} is complete; see: sweep status {name}")


def export(
    name: Name,
    trial: Annotated[int | None, typer.Option(help="A trial other than the best.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file.")
    ] = None,
    format_: Annotated[Literal["yaml", "json"], typer.Option("--format")] = "yaml",
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Print the config that trains the best trial again."""
    from sweep.files import write_text
    from sweep.results import best_config, best_config_yaml, exportable_trial

    sweep, trials = read_sweep_of(sweep_directory(name, sweeps_dir))
    chosen = exportable_trial(sweep, trials, trial)
    if format_ == "yaml":
        text = best_config_yaml(sweep, chosen)
    else:
        config = best_config(sweep, chosen)
        text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    if output:
        try:
            if output.exists() and not output.is_file():  # /dev/stdout, a pipe
                output.write_text(text)
            else:
                write_text(output.resolve(), text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}") from error
        print(f"wrote {output}; train it with: sweep train {output}", file=sys.stderr)
    else:
        sys.stdout.write(text)


def _delivery_text(trials: int, epochs: int, error: str | None) -> str:
    if not trials and not error:
        return "everything delivered"
    what = f"{trials} trials ({epochs} epochs)" if trials else "the sweep's own run is"
    return f"{what} not yet delivered" + (f": {error}" if error else "")
