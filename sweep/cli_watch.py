"""`sweep watch`, and the lines that it and a launch end with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from sweep.commands import SWEEPS_DIR, command_for
from sweep.halt import Interrupted, say
from sweep.options import Name, SweepsDir, console_for, sweep_directory

if TYPE_CHECKING:
    from sweep.records import SweepRecord, TrialRecord


def watch(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR) -> None:
    """Follow a sweep that runs elsewhere, to its end; Ctrl-C leaves the sweep alone."""
    directory = sweep_directory(name, sweeps_dir)
    from sweep.progress import follow, is_delivered

    try:
        sweep, trials = follow(directory, console_for(stderr=True))
    except Interrupted as stopped:
        say(f"{name} goes on by itself; look again with: {command_for('watch', directory)}")
        raise typer.Exit(stopped.exit_code) from None
    conclude(sweep, trials, delivered=is_delivered(sweep, trials))


def conclude(sweep: "SweepRecord", trials: "Sequence[TrialRecord]", *, delivered: bool) -> None:
    """Print how a sweep stands and its best trials, and then what to read and to type."""
    from sweep.progress import conclusion
    from sweep.results import leaderboard
    from sweep.tables import headline, trial_table

    console, top = console_for(stderr=True), leaderboard(sweep.config, trials)[:5]
    console.print(headline(sweep, trials), soft_wrap=True)
    for line in trial_table(sweep, top, console.width) if top else ():
        console.print(line, soft_wrap=True)
    print("\n".join(conclusion(sweep, trials, delivered=delivered)), flush=True)
