"""Files that are whole after a crash at any instant: texts replaced, lines appended."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
    for line in lines:
        yield json.loads(line)


def append_line(path: Path, line: str) -> None:
    with path.open("ab+") as file:
        drop_partial_line(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def drop_partial_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)
