"""The `sweep` command. Nothing heavy is imported before a command needs it."""

import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from sweep.cli_control import cancel, pause, stop, sync
from sweep.cli_doctor import doctor
from sweep.cli_export import export
from sweep.cli_files import check, preview, schedules, train
from sweep.cli_new import init, schema
from sweep.cli_report import compare, report
from sweep.cli_run import launch, resume
from sweep.cli_sweeps import best, list_sweeps, status
from sweep.cli_ui import ui
from sweep.cli_watch import watch
from sweep.errors import CommandError
from sweep.files import NO_ROOM
from sweep.halt import Interrupted, interrupt, say, set_handlers
from sweep.options import fitted, readers_may_leave, write_nowhere

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
    with readers_may_leave():
        print(fitted(message, sys.stderr), file=sys.stderr, flush=True)
    if exit_code > 128:  # a signal; with Ray loaded, the interpreter takes seconds to end
        with readers_may_leave():
            sys.stdout.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


for command in (launch, resume, pause, stop, cancel, sync, doctor):
    app.command()(command)
app.command(name="ls")(list_sweeps)
for command in (
    *(watch, status, best, export, report, compare, train),
    *(init, schema, check, preview, schedules, ui),
):
    app.command()(command)
