"""Sweeps from Python, as in a notebook: tables, curves and figures of them, and a launch."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search_spaces import SweepConfig, config_to_yaml, parse_config
from search_spaces.documents import write_document
from sweep.commands import command_for
from sweep.directory import read_sweep
from sweep.errors import CommandError
from sweep.options import load_file, sweep_directory
from sweep.projection import applied_curve
from sweep.records import TrialRecord
from sweep.results import exportable_trial, shown_state, trial_summary

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

_COMMAND = "from sweep.cli import main; main()"
_NO_WINNER, _UNDELIVERED = 1, 3  # exit codes of a sweep that has ended all the same


class Sweep(NamedTuple):
    """A sweep in `directory`, which is read again at each call."""

    directory: Path

    @property
    def state(self) -> str:
        """running, interrupted, paused, finished, stopped, cancelled or failed."""
        return read_sweep(self.directory)[0].state

    @property
    def config(self) -> SweepConfig:
        """The config it was launched with; a raised budget is in it."""
        return read_sweep(self.directory)[0].config

    def trials(self) -> "pandas.DataFrame":
        """A row for each trial by number: state, value, epochs, seconds, and its parameters.

        The value is the sweep's metric after the last epoch, NaN if there is none; so is a
        parameter that the trial's family does not have.
        """
        import pandas as pd

        sweep, trials = read_sweep(self.directory)
        rows = [
            {
                "number": trial.number,
                "state": shown_state(sweep, trial),
                "value": np.nan if trial.value is None else trial.value,
                "epochs": len(trial.reports),
                "seconds": sum(report["seconds"] for report in trial.reports),
            }
            | trial.parameters
            for trial in trials
        ]
        columns = None if rows else ["number", "state", "value", "epochs", "seconds"]
        return pd.DataFrame(rows, columns=columns)

    def best(self) -> dict[str, Any]:
        """The best complete trial, as in `sweep best --json`; CommandError if there is none."""
        return trial_summary(exportable_trial(*read_sweep(self.directory), None))

    def curve(self, number: int) -> np.ndarray:
        """The learning rates that trial `number` was trained with, float32, one for each step.

        Only of finished epochs. They are rebuilt from the trial's parameters and compared, by hash,
        with what the program gave back; CommandError where they differ.
        """
        sweep, trials = read_sweep(self.directory)
        found = applied_curve(sweep, _numbered(trials, number))
        if found.values is None:
            raise CommandError(f"the curve of trial {number} cannot be built from its parameters")
        if found.mismatch is not None:
            raise CommandError(
                f"the curve of trial {number} must be the one it was trained with, but epoch "
                f"{found.mismatch} differs: a custom function has changed since"
            )
        return found.values[: found.verified_epochs * sweep.steps_per_epoch]

    def figure(self, name: str) -> "plotly.graph_objects.Figure":
        """One of the report's figures, by the name it has there."""
        from sweep.figures import FIGURES, draw

        if name not in FIGURES:
            raise CommandError(f"a figure is one of {', '.join(FIGURES)}, but got {name!r}")
        return draw(name, *read_sweep(self.directory))


def _numbered(trials: Sequence[TrialRecord], number: int) -> TrialRecord:
    for trial in trials:
        if trial.number == number:
            return trial
    raise CommandError(f"there is no trial {number}; there are {len(trials)}, from 0 on")


def load_sweep(name: str, sweeps_dir: Path) -> Sweep:
    """The sweep `name` in a folder of sweeps; CommandError if it is not there or damaged."""
    found = Sweep(sweep_directory(name, sweeps_dir))
    read_sweep(found.directory)
    return found


def launch_sweep(
    config: SweepConfig | Mapping[str, Any] | str | Path,
    name: str | None,
    overrides: Sequence[str],
    options: Mapping[str, object],
    sweeps_dir: Path,
) -> Sweep:
    """`sweep launch` in a process of its own: it takes signals, and must not take this one down."""
    if isinstance(config, str | Path):
        launched = load_file(str(config), list(overrides)).name
        return _run(str(config), name or launched, overrides, options, sweeps_dir)
    if isinstance(config, SweepConfig):
        text = config_to_yaml(config)
    else:
        text = write_document(dict(config))
    checked = parse_config(text, overrides=overrides, folder=Path.cwd(), samples=20)
    with tempfile.TemporaryDirectory(prefix="sweep-config-") as folder:
        file = Path(folder, "config.yaml")
        file.write_text(config_to_yaml(checked))
        return _run(str(file), name or checked.name, (), options, sweeps_dir)


def _run(
    file: str, name: str, overrides: Sequence[str], options: Mapping[str, object], sweeps_dir: Path
) -> Sweep:
    directory = sweeps_dir / name
    if directory.exists():
        raise CommandError(
            f"the name {name} is taken by {directory}; give another as name=..., or go on "
            f"with that sweep: {command_for('resume', directory)}",
            exit_code=4,
        )
    arguments = [file, "--name", name, "--sweeps-dir", str(sweeps_dir)]
    arguments += [word for override in overrides for word in ("--set", override)]
    for option, value in options.items():
        arguments += [] if value is None else [f"--{option}", str(value)]
    code, last = _follow([sys.executable, "-c", _COMMAND, "launch", *arguments])
    if code not in (0, _NO_WINNER, _UNDELIVERED) or not directory.exists():
        raise CommandError(f"the launch of {name} ended with exit code {code}: {last}", code)
    return load_sweep(name, sweeps_dir)


def _follow(command: Sequence[str]) -> tuple[int, str]:
    """Runs a command to its end, prints what it says; its exit code, and its last line.

    It has a session of its own: an interrupt, which a notebook sends to all processes of a group,
    must reach it once, as a second one ends it at once.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            return _print_all(process)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # its running epochs finish
            _print_all(process)
            raise
        finally:
            if process.poll() is None:  # interrupted once more
                process.send_signal(signal.SIGINT)


def _print_all(process: "subprocess.Popen[str]") -> tuple[int, str]:
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return process.wait(), last
