"""Where a study is kept: a journal of the sweep's own, or a database that others may share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage

from sweep.commands import command_for
from sweep.databases import full_address, open_database
from sweep.delivery import without_password
from sweep.errors import CommandError
from sweep.journal import SealedJournal
from sweep.lease import Lease


def open_storage(
    directory: Path, url: str | None, lease: Lease | None, *, new: bool = False
) -> BaseStorage:
    """The storage of a sweep's study; under a `lease` it writes only while that is held.

    `new`: a study is to be made in it.

    A database that fails gives CommandError, with exit code 5.
    """
    if url is None:
        return JournalStorage(SealedJournal(directory / "study.journal", lease))
    way = "launch again" if new else f"go on with: {command_for('resume', directory)}"
    answering = functools.partial(_answering, without_password(url), way)
    storage = answering(
        lambda: open_database(full_address(url), keep_open=new or lease is not None)
    )()
    for name in BaseStorage.__dict__:
        method = getattr(storage, name, None)
        if not name.startswith("_") and callable(method):
            if lease and name.startswith(("set_", "create_", "delete_")):
                method = _fenced(lease, method)
            setattr(storage, name, answering(method))
    return storage


def _fenced(lease: Lease, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def write(*arguments: Any, **keywords: Any) -> Any:
        lease.check()
        return method(*arguments, **keywords)

    return write


def _answering(place: str, way: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def ask(*arguments: Any, **keywords: Any) -> Any:
        try:
            return method(*arguments, **keywords)
        except StorageInternalError as error:
            reason = without_password(str(error.__cause__ or error)).partition("\n")[0]
            raise CommandError(
                f"the storage {place} must answer, but: {reason}; once it does, {way}",
                exit_code=5,
            ) from error

    return ask
