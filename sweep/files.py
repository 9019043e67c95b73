"""Files that are whole after a crash at any instant, and locks that end with their process."""

import contextlib
import fcntl
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path

from trainers.crashes import reach


def write_text(path: Path, text: str) -> None:
    """Replace a file so that it is whole after a crash at any instant."""
    _remove_leftovers(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with temporary.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with this process: so others know a leftover
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        reach(f"replace {path.name}")
        temporary.replace(path)
    reach(f"replaced {path.name}")


def _remove_leftovers(path: Path) -> None:
    """Remove the temporaries of writers that died."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), leftover.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


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
