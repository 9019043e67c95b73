"""The storage of a study in a file of its own, for Optuna."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from sweep.lease import Lease
from sweep.lines import Lines, append_lines


class SealedJournal(BaseJournalBackend):
    """Optuna's log of operations as sealed lines; it needs no lock, for only the driver writes."""

    def __init__(self, path: Path, lease: Lease | None):
        self._path, self._lease = path, lease
        self._lines, self._logs = Lines(path), []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from a number on."""
        self._logs += self._lines.new()
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Record operations, unless another driver has taken over."""
        if self._lease:
            self._lease.check()
        append_lines(self._path, logs, self._lease.number if self._lease else 0)
