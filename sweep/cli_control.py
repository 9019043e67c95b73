"""The commands for a sweep that another process runs, and for what that has left."""

from pathlib import Path

import typer

from sweep.commands import SWEEPS_DIR
from sweep.options import Name, SweepsDir, sweep_directory


def pause(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Start no new trials; running ones train to their end. `sweep resume` goes on."""
    _control(name, "pause", sweeps_dir)


def stop(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Finish a sweep early: running trials train to their end, and it is over."""
    _control(name, "stop", sweeps_dir)


def cancel(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """End a sweep now, with its running trials."""
    _control(name, "cancel", sweeps_dir)


def _control(name: str, command: str, sweeps_dir: Path) -> None:
    from sweep.control import control

    message, exit_code = control(sweep_directory(name, sweeps_dir), command)
    print(message)
    raise typer.Exit(exit_code)


def sync(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Deliver what MLflow does not hold yet."""
    from sweep.control import deliver_now

    message, exit_code = deliver_now(sweep_directory(name, sweeps_dir))
    print(message)
    raise typer.Exit(exit_code)
