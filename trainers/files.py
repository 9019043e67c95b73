"""Files that are whole after a crash at any instant, by a rename of a temporary beside them."""

import contextlib
import fcntl
import glob
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def temporary_for(path: Path) -> Iterator[BinaryIO]:
    """A file to be renamed to `path`, removed unless it is.

    Its name is its own even among machines, whose process ids may be the same. A lock on it ends
    with this process, which is how others know a dead writer from one that is only frozen.
    """
    while True:
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # without locks none is taken for a dead writer's
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            break
        file.close()  # it was removed before it was locked
    try:
        with file:
            yield file
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporaries of dead writers of `path`, those that nobody holds a lock on."""
    for leftover in path.parent.glob(glob.escape(path.name) + ".*part"):
        with contextlib.suppress(OSError), leftover.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the one at `path` lies."""
    return path.with_name(path.name + ".previous")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a file's own fsync does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
