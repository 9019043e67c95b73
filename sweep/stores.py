"""Checkpoints in an object store that all nodes reach, where they share no folder.

A trial's state after an epoch is one object, `0007/epoch-00003`, which is written once and never
changed; the last two are kept. So a worker that was frozen and thaws cannot replace a later state,
and a damaged object leaves the one before. A worker trains on a file of its own node.
"""

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pyarrow import fs

from sweep.errors import CommandError
from trainers.files import previous_path, sync_directory, temporary_for

SCHEMES = ("s3", "gs")
_PATIENCE_S = 60.0  # with a store that does not answer
_LAST_PAUSE_S = 8.0
Result = TypeVar("Result")


class StoreError(OSError):
    """A store that cannot be read or written; `filename` is its address."""


class Store(NamedTuple):
    """A place for the checkpoints of one sweep."""

    uri: str
    filesystem: fs.FileSystem
    root: str


def open_store(uri: str) -> Store:
    """The store at `s3://bucket/folder` or `gs://bucket/folder`; nothing is asked of it yet.

    Keys, region and endpoint are those of the environment or of the machine's own role, as
    AWS_ENDPOINT_URL for a store that speaks the protocol of S3.
    """
    check_uri(uri)
    with _naming(uri):
        filesystem, root = fs.FileSystem.from_uri(uri)
    return Store(uri, filesystem, root.rstrip("/"))


def check_uri(uri: str) -> None:
    """Raise CommandError unless `uri` names a bucket, and no keys."""
    scheme, _, rest = uri.partition("://")
    if scheme not in SCHEMES or not re.fullmatch(r"[\w.-]+(/[^?#@\s]*)?", rest):
        raise CommandError(
            "checkpoints must go to s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, without keys, which "
            f"the environment holds, but got {_without_keys(uri)}; leave --checkpoints out to keep "
            "them in the sweep's own folder",
            exit_code=2,
        )


def fetch(store: Store, number: int, path: Path) -> None:
    """Bring a trial's last two states to `path` and the place before it; none is no error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    states = _patiently(store, lambda: _newest(store, number))
    for content, place in zip(states, (path, previous_path(path)), strict=False):
        with temporary_for(place) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(place)
        sync_directory(path.parent)


def held(store: Store) -> set[int]:
    """The trials of which the store has a state."""
    # To the depth, for in gs:// a folder is listed by what lies in it, and not itself.
    everything = fs.FileSelector(store.root, recursive=True, allow_not_found=True)
    found = _patiently(store, lambda: store.filesystem.get_file_info(everything))
    folders = (Path(info.path).parent.name for info in found if info.type == fs.FileType.File)
    return {int(name) for name in folders if name.isdecimal()}


def keep(store: Store, number: int, epoch: int, path: Path) -> None:
    """Put the state at `path`, after `epoch` epochs, into the store; drop all but the last two."""
    content = path.read_bytes()
    _patiently(store, lambda: _write(store, _object(store, number, epoch), content))
    with contextlib.suppress(OSError):  # they do no harm
        for old in _epochs(store, number):
            if old < epoch - 1:
                store.filesystem.delete_file(_object(store, number, old))


def drop(store: Store, number: int) -> None:
    """Remove what the store holds of a trial, as far as it lets itself be removed."""
    with contextlib.suppress(OSError):
        store.filesystem.delete_dir(f"{store.root}/{number:04d}")


def probe(store: Store, name: str) -> None:
    """Write an object `name`; StoreError where that is refused."""
    with _naming(store.uri):
        _write(store, f"{store.root}/{name}", b"written to see that it can be\n")


def found(store: Store, name: str) -> bool:
    """Whether an object that `probe` wrote is there; it is removed."""
    with _naming(store.uri):
        place = f"{store.root}/{name}"
        if store.filesystem.get_file_info(place).type != fs.FileType.File:
            return False
        store.filesystem.delete_file(place)
    return True


def _epochs(store: Store, number: int) -> list[int]:
    folder = fs.FileSelector(f"{store.root}/{number:04d}", allow_not_found=True)
    names = (info.base_name for info in store.filesystem.get_file_info(folder))
    return [int(name[6:]) for name in names if re.fullmatch(r"epoch-\d{5}", name)]


def _object(store: Store, number: int, epoch: int) -> str:
    return f"{store.root}/{number:04d}/epoch-{epoch:05d}"


def _newest(store: Store, number: int) -> list[bytes]:
    """A trial's last two states, the last first; one may go while it is read."""
    states = []
    for epoch in sorted(_epochs(store, number), reverse=True)[:2]:
        with store.filesystem.open_input_stream(_object(store, number, epoch)) as stream:
            states.append(stream.read())
    return states


def _write(store: Store, place: str, content: bytes) -> None:
    with store.filesystem.open_output_stream(place) as stream:
        stream.write(content)


def _patiently(store: Store, call: Callable[[], Result]) -> Result:
    """What `call` gives; a store that is away for a moment is asked again."""
    deadline, pause = time.monotonic() + _PATIENCE_S, 0.5
    while True:
        try:
            with _naming(store.uri):
                return call()
        except StoreError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE_S)


@contextlib.contextmanager
def _naming(uri: str) -> Iterator[None]:
    """Errors of a store name it, in one line; for none of them its trial is to be blamed."""
    try:
        yield
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise StoreError(errno.EIO, text, uri) from error


def _without_keys(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", uri)
