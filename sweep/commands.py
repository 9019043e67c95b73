"""The commands that a message names, so that they can be typed as they stand."""

import os
import shlex
from pathlib import Path

SWEEPS_DIR = Path("sweeps")  # the folder that holds the sweeps, where none is named


def command_for(verb: str, directory: Path, options: str = "") -> str:
    """`sweep VERB NAME OPTIONS` for the sweep in `directory`."""
    words = f"sweep {verb} {directory.name} {options}".rstrip()
    return words + folder_option(directory.parent)


def folder_option(sweeps_dir: Path) -> str:
    """` --sweeps-dir FOLDER`, or nothing where a command takes that folder without it."""
    usual = Path(os.environ.get("SWEEP_DIR") or SWEEPS_DIR)
    if sweeps_dir == usual or sweeps_dir.absolute() == usual.absolute():
        return ""
    return f" --sweeps-dir {shlex.quote(str(sweeps_dir))}"
