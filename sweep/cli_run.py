"""The commands that run trials, and end with what came of them."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.commands import SWEEPS_DIR, command_for, folder_option
from sweep.errors import CommandError
from sweep.halt import say
from sweep.options import (
    Address,
    Detach,
    File,
    Insecure,
    ManualDir,
    Name,
    Set,
    SweepsDir,
    again,
    console_for,
    load_file,
    readers_may_leave,
    sweep_directory,
)

if TYPE_CHECKING:
    from sweep.driver import Outcome, Show
    from sweep.jobs import Job


def launch(
    file: File,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Call the sweep this instead.")] = None,
    address: Address = None,
    insecure: Insecure = False,
    detach: Detach = False,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="SWEEP_STORAGE", help="Optuna storage URL of the study (default: a file)."
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(help="Where nodes that share no folder keep checkpoints: s3://, gs://."),
    ] = None,
    manual_dir: ManualDir = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Run a new sweep and follow it to its end."""
    config = load_file(
        file, [*(set_ or []), *([] if name is None else [f"name={json.dumps(name)}"])]
    )
    from sweep.jobs import launch_detached, remove_left_config

    remove_left_config(Path(file), sweeps_dir)
    directory = sweeps_dir / config.name
    if directory.exists():
        command = f"sweep launch {shlex.quote(file)} --name {_free_name(directory)}"
        command += folder_option(sweeps_dir)
        new = f"  launch a new one:       {command}"
        raise CommandError(f"{_why_taken(directory)}\n{new}", exit_code=4)
    if detach:
        job = launch_detached(
            config,
            sweeps_dir,
            options=again({"--manual-dir": manual_dir}),
            storage=storage,
            checkpoints=checkpoints,
            address=address,
            insecure=insecure,
            warn=say,
        )
        return _submitted(directory, job)
    from sweep.driver import launch as run

    with _progress(config.name) as show:
        outcome = run(
            config,
            directory,
            address=address,
            insecure=insecure,
            storage=storage,
            checkpoints=checkpoints,
            manual_dir=manual_dir,
            show=show,
        )
    return _conclude(outcome)


def resume(
    name: Name,
    num_trials: Annotated[
        int | None, typer.Option(help="Raise the number of trials.", min=1)
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Raise the hours.", min=0)] = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Take over from a driver not heard of for 30 s.")
    ] = False,
    address: Address = None,
    insecure: Insecure = False,
    detach: Detach = False,
    manual_dir: ManualDir = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Go on with an interrupted sweep, its unfinished trials first."""
    directory = sweep_directory(name, sweeps_dir)
    from sweep.lease import refuse_if_driven

    refuse_if_driven(directory, takeover=takeover)  # before what takes long to import
    if detach:
        from sweep.jobs import resume_detached

        given = {"--num-trials": num_trials, "--hours": hours, "--takeover": takeover}
        options = again(given | {"--manual-dir": manual_dir})
        job = resume_detached(
            name, sweeps_dir, options=options, address=address, insecure=insecure, warn=say
        )
        return _submitted(directory, job)
    from sweep.driver import resume as run

    asked = {"num_trials": num_trials, "hours": hours}
    with _progress(name) as show:
        outcome = run(
            directory,
            budget={key: value for key, value in asked.items() if value is not None},
            takeover=takeover,
            address=address,
            insecure=insecure,
            manual_dir=manual_dir,
            show=show,
        )
    return _conclude(outcome)


def _why_taken(directory: Path) -> str:
    if (directory / "sweep.json").exists():
        from sweep.control import why_taken

        return why_taken(directory)
    resume = command_for("resume", directory)
    return f"the name {directory.name} is taken by {directory}\n  go on with that sweep:  {resume}"


def _free_name(directory: Path) -> str:
    numbers = range(2, 1_000_000)
    names = (f"{directory.name}-{number}" for number in numbers)
    return next(name for name in names if not (directory.parent / name).exists())


@contextmanager
def _progress(name: str) -> "Iterator[Show]":
    from sweep.progress import Progress
    from sweep.records import now_ms

    say(f"{name}: starting Ray; the first results take some seconds")
    hint = "Ctrl-C stops after the running epochs"
    with Progress(console_for(stderr=True), since_ms=now_ms(), hint=hint) as progress:
        yield progress.show


def _submitted(directory: Path, job: "Job") -> None:
    from sweep.jobs import what_next

    print(what_next(directory, job))


def _conclude(outcome: "Outcome") -> None:
    """The last lines of a launch, and its exit code."""
    from sweep.cli_watch import conclude

    with readers_may_leave():
        conclude(outcome.sweep, outcome.trials, delivered=outcome.delivered)
    raise typer.Exit(outcome.exit_code)
