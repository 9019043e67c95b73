"""Append-only files of sealed JSON lines: the study's journal and the trials' metric files.

A line ends with the number of the driver that wrote it and a checksum of all before that:
`{"epoch": 3, ..., "driver": 2, "crc32": "9f3a01bc"}`. A last line that was cut off is none. Once a
driver has written, the lines of earlier drivers count no more: that is how the writes of a driver
that was frozen and taken over from are refused, whenever they arrive.
"""

import errno
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.errors import CommandError
from trainers.crashes import reach
from trainers.files import sync_directory

_SEAL = ', "crc32": "%08x"}'
_SEAL_LENGTH = len(_SEAL % 0)


class DamagedError(CommandError):
    """A file that is not as it was written; `sound` is what stands before the broken line."""

    def __init__(self, message: str, sound: list[dict[str, Any]]):
        super().__init__(message)
        self.sound = sound


class Lines:
    """Reads a file of sealed lines as it grows."""

    def __init__(self, path: Path):
        self._path, self._offset, self._number = path, 0, 0
        self.driver = 0  # the latest that wrote

    def new(self) -> list[dict[str, Any]]:
        """The lines since the last call, none for a missing file; DamagedError at a broken one."""
        documents: list[dict[str, Any]] = []
        if not self._path.exists():
            return documents
        with self._path.open("rb") as file:
            file.seek(self._offset)
            *lines, _ = file.read().split(b"\n")
        for line in lines:
            self._number += 1
            try:
                document = unsealed(line)
            except ValueError as error:
                where = f"{self._path}:{self._number}"
                raise DamagedError(f"{where} is damaged: {error}", documents) from error
            self._offset += len(line) + 1
            if document["driver"] >= self.driver:
                self.driver = document.pop("driver")
                documents.append(document)
        return documents


def append_lines(path: Path, documents: Sequence[dict[str, Any]], driver: int) -> None:
    """Append documents durably, or raise OSError and none; a cut-off last line is removed."""
    text = b"".join(sealed(document, driver) + b"\n" for document in documents)
    reach(f"append {path.name}")
    new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        _drop_torn_line(file)
        before, written = file.seek(0, os.SEEK_END), 0
        try:
            written = file.write(text)
            if written != len(text):  # a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            reach(f"appended {path.name}")
            os.fsync(file.fileno())
            if new:
                sync_directory(path.parent)
        except OSError as error:
            if file.seek(0, os.SEEK_END) == before + written:  # nobody has written behind it
                file.truncate(before)
            raise OSError(error.errno, error.strerror, str(path)) from error


def sealed(document: dict[str, Any], driver: int) -> bytes:
    """A document as a line."""
    body = json.dumps(document | {"driver": driver}, allow_nan=False)[:-1].encode()
    return body + (_SEAL % zlib.crc32(body)).encode()


def unsealed(line: bytes) -> dict[str, Any]:
    """The document of a line; ValueError unless every byte is as written."""
    body = line[:-_SEAL_LENGTH]
    if line[-_SEAL_LENGTH:] != (_SEAL % zlib.crc32(body)).encode():
        raise ValueError("its checksum does not match")
    return json.loads(body + b"}")


def _drop_torn_line(file: Any) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
