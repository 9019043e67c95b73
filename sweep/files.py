"""Files that are whole after a crash at any instant, and locks that end with their process."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from trainers.crashes import reach
from trainers.files import remove_leftovers, sync_directory, temporary_for

# Why a disk takes nothing; no fault of what is written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_text(path: Path, text: str) -> None:
    """Replace a file so that it is whole after a crash at any instant."""
    remove_leftovers(path)
    with temporary_for(path) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        reach(f"replace {path.name}")
        os.replace(file.name, path)
    sync_directory(path.parent)
    reach(f"replaced {path.name}")


def make_directory(path: Path) -> None:
    """Make a directory and those above it, durably, where they are missing."""
    if not path.exists():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


@contextlib.contextmanager
def locked(path: Path, *, patience_s: float = 60.0) -> Iterator[None]:
    """Holds a lock file; the system frees it when its holder dies. Raises TimeoutError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"{path} must be free, but another process holds it"
                    ) from None
            time.sleep(0.05)
        yield
