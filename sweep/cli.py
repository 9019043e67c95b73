"""The `sweep` command. Nothing heavy is imported before a command needs it."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweep.cli_export import export
from sweep.cli_files import check, preview, schedules, train
from sweep.cli_new import init, schema
from sweep.cli_report import compare, report
from sweep.cli_sweeps import best, list_sweeps, status
from sweep.cli_ui import ui
from sweep.cli_watch import watch
from sweep.commands import SWEEPS_DIR, command_for, folder_option
from sweep.errors import CommandError
from sweep.files import NO_ROOM
from sweep.halt import Interrupted, interrupt, say, set_handlers
from sweep.options import (
    Address,
    Detach,
    File,
    Insecure,
    Json,
    ManualDir,
    Name,
    Set,
    SweepsDir,
    again,
    console_for,
    fitted,
    load_file,
    print_json,
    sweep_directory,
    write_nowhere,
)

if TYPE_CHECKING:
    from sweep.driver import Outcome, Show
    from sweep.jobs import Job

app = typer.Typer(
    help="Find the learning-rate schedule that trains a model best.",
    epilog="Start with: sweep launch quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; neither a person's mistake nor a signal ends in a traceback."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started this
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    set_handlers(interrupt)
    try:
        app()
    except Interrupted as stopped:
        _fail("stopped", stopped.exit_code)
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except ValueError as error:
        from search_spaces import ConfigError
        from trainers.data import DatasetError

        if not isinstance(error, ConfigError | DatasetError):
            raise
        _fail(str(error), 2)
    except OSError as error:
        if error.filename is None:
            if error.errno in NO_ROOM:
                _give_up_output(error)
            raise
        way_out = "make that possible, or name another folder with --sweeps-dir or SWEEP_DIR"
        _fail(f"{error.filename} must be usable, but: {error.strerror}; {way_out}", 1)
    finally:
        set_handlers(signal.SIG_DFL)  # nothing is left that a signal could harm
        _flush_output()


def _print_version(asked: bool) -> None:
    if asked:
        print(f"sweep {version('sweep')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


@app.command()
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


@app.command()
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


@app.command()
def pause(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Start no new trials; running ones train to their end. `sweep resume` goes on."""
    _control(name, "pause", sweeps_dir)


@app.command()
def stop(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Finish a sweep early: running trials train to their end, and it is over."""
    _control(name, "stop", sweeps_dir)


@app.command()
def cancel(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """End a sweep now, with its running trials."""
    _control(name, "cancel", sweeps_dir)


def _control(name: str, command: str, sweeps_dir: Path) -> None:
    from sweep.control import control

    message, exit_code = control(sweep_directory(name, sweeps_dir), command)
    print(message)
    raise typer.Exit(exit_code)


@app.command()
def sync(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Deliver what MLflow does not hold yet."""
    from sweep.control import deliver_now

    message, exit_code = deliver_now(sweep_directory(name, sweeps_dir))
    print(message)
    raise typer.Exit(exit_code)


@app.command()
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

    with _readers_may_leave():
        conclude(outcome.sweep, outcome.trials, delivered=outcome.delivered)
    raise typer.Exit(outcome.exit_code)


@contextmanager
def _readers_may_leave() -> "Iterator[None]":
    """Around output whose reader may be gone: the exit code stays that of the work."""
    try:
        yield
    except OSError:
        write_nowhere()


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        write_nowhere()
    except OSError as error:
        _give_up_output(error)


def _give_up_output(error: OSError) -> NoReturn:
    """End with what a person needs to know of output that a full disk did not take."""
    say(f"the output cannot be written: {error.strerror}; make room, or send it elsewhere")
    write_nowhere()  # or the interpreter would try once more
    sys.exit(1)


def _fail(message: str, exit_code: int) -> None:
    with _readers_may_leave():
        print(fitted(message, sys.stderr), file=sys.stderr, flush=True)
    if exit_code > 128:  # a signal; with Ray loaded, the interpreter takes seconds to end
        with _readers_may_leave():
            sys.stdout.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


app.command(name="ls")(list_sweeps)
for command in (
    *(watch, status, best, export, report, compare, train),
    *(init, schema, check, preview, schedules, ui),
):
    app.command()(command)
