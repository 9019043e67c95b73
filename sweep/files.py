"""Files that are whole after a crash at any instant: texts replaced, lines appended."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.errors import CommandError


def write_text(path: Path, text: str) -> None:
    """Replace a file so that it is whole after a crash at any instant."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_reports(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a metric file; a last line that was cut off is not one."""
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise CommandError(f"{path}:{number} is damaged: {error}") from error


def append_line(path: Path, line: str) -> None:
    with path.open("ab+") as file:
        drop_partial_line(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def drop_partial_line(file: Any) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


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
