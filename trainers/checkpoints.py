"""A training state on disk: written atomically, verified when read, free of code.

One file: a line `sweep-checkpoint 1 <sha256 of the rest>`, then a safetensors image whose metadata
holds the run's fingerprint, the epoch and the reports so far. Beside it lies the one before.
safetensors is imported where a file is written or read: training without one needs JAX alone.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import jax
import numpy as np

from trainers.crashes import reach
from trainers.files import previous_path, remove_leftovers, sync_directory, temporary_for

_MAGIC = b"sweep-checkpoint 1 "
_HEADER_BYTES = 100_000_000  # the longest header of an image that safetensors reads
log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A state after `epoch` finished epochs, with the reports of those epochs as plain dicts."""

    fingerprint: str
    epoch: int
    state: Any
    reports: list[dict[str, Any]]


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that belongs to another run."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` so that it is whole after a crash at any instant, keeping the one before.

    Between the two renames that one alone is there. Raises OSError, on a full disk for instance,
    and CheckpointError where a later epoch is kept; then the newest checkpoint still is that.
    """
    from safetensors.numpy import save

    epoch = f"{path.parent.name} {checkpoint.epoch}"
    reach("checkpoint", epoch)
    metadata = {
        "fingerprint": checkpoint.fingerprint,
        "epoch": str(checkpoint.epoch),
        "reports": json.dumps(checkpoint.reports, allow_nan=False),
    }
    payload = save(_named_arrays(checkpoint.state), metadata=metadata)
    remove_leftovers(path)
    for place in (path, previous_path(path)):
        if place.is_dir():  # which no file can be renamed to
            _put_aside(place)
    try:
        _replace(path, payload, checkpoint)
    except OSError as error:  # of a write it does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error
    reach("checkpoint replaced", epoch)


def _replace(path: Path, payload: bytes, checkpoint: Checkpoint) -> None:
    with temporary_for(path) as file:
        file.write(_seal(payload))
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
        reach("checkpoint written")
        if _is_ahead(path, checkpoint):  # this process was frozen, and taken over from
            raise CheckpointError(
                f"{path} must hold no later epoch than {checkpoint.epoch}, but it does: another "
                "process trains this run"
            )
        with contextlib.suppress(FileNotFoundError):
            path.replace(previous_path(path))
        reach("checkpoint set aside")
        os.replace(file.name, path)
    sync_directory(path.parent)


def load_checkpoint(path: Path, like: Any, fingerprint: str | None) -> Checkpoint:
    """Read `path` into the structure of `like`; CheckpointError unless every byte is as written.

    It must be of the run with this `fingerprint`; with None, of any. Raises FileNotFoundError where
    there is nothing.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    payload = _payload(path, like)
    try:
        arrays = load(payload)
        metadata = _metadata(payload)
        owner, reports = metadata["fingerprint"], _reports(metadata)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint must be readable, but {path}: {error}") from error
    if fingerprint is not None and owner != fingerprint:
        raise CheckpointError(f"the checkpoint must belong to this run, but {path} does not")
    return Checkpoint(owner, len(reports), _restored(arrays, like, path), reports)


def load_latest(path: Path, like: Any, fingerprint: str) -> Checkpoint | None:
    """The newest sound checkpoint of this run: at `path`, else the one before it, else None.

    One that is not sound is put aside, so that it never takes the place of a sound one.
    """
    remove_leftovers(path)
    for candidate in (path, previous_path(path)):
        try:
            return load_checkpoint(candidate, like, fingerprint)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            aside = _put_aside(candidate)
            log.warning("%s; it is now %s, and an earlier state is taken", error, aside.name)
    return None


def _is_ahead(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether `path` says of itself that it holds a later epoch of the same run."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        with path.open("rb") as file:
            file.seek(len(_seal(b"")))
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), _HEADER_BYTES))
        held = _metadata(length + header)
        return held["fingerprint"] == checkpoint.fingerprint and int(held["epoch"]) > (
            checkpoint.epoch
        )
    return False


def _put_aside(path: Path) -> Path:
    """Rename what lies at `path`, and say to what. A directory takes no other's place."""
    aside = path.with_name(path.name + ".damaged")
    while aside.is_dir() or (path.is_dir() and aside.exists()):
        aside = aside.with_name(aside.name + ".damaged")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.replace(aside)
    return aside


def _seal(payload: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def _payload(path: Path, like: Any) -> bytes:
    """What the seal of `path` vouches for; of a file too large for such a state nothing is read."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"the checkpoint must be a file, but {path} is none")
    leaves = jax.tree.leaves(like)
    most = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + _HEADER_BYTES
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise CheckpointError(
                    f"the checkpoint must hold at most {most} bytes, but {path} holds {size}"
                )
            seal = file.read(len(_seal(b"")))
            payload = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"the checkpoint must be readable, but {path}: {error}") from error
    if seal != _seal(payload):
        raise CheckpointError(f"the checkpoint must match its sha256, but {path} does not")
    return payload


def _named_arrays(state: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(key): np.array(leaf, order="C") for key, leaf in leaves}


def _metadata(payload: bytes) -> dict[str, str]:
    """The metadata of a safetensors image: in a JSON header behind its length, a u64."""
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length])["__metadata__"]


def _reports(metadata: dict[str, str]) -> list[dict[str, Any]]:
    """The reports of epochs 1, 2, ... up to the epoch that the metadata name; else ValueError."""
    reports = json.loads(metadata["reports"])
    if not isinstance(reports, list) or not reports or metadata["epoch"] != str(len(reports)):
        raise ValueError("it must hold one report for each of its epochs, but does not")
    for epoch, report in enumerate(reports, start=1):
        if not _is_report(report, epoch):
            raise ValueError(f"its report {epoch} must be one of epoch {epoch}, but is not")
    return reports


def _is_report(report: Any, epoch: int) -> bool:
    from trainers.training import EpochReport  # that module imports this one

    types = get_type_hints(EpochReport)
    needed = types.keys() - EpochReport._field_defaults.keys()
    if not isinstance(report, dict) or not needed <= report.keys() <= types.keys():
        return False
    if any(type(value) is not types[name] for name, value in report.items()):
        return False
    finite = all(math.isfinite(value) for value in report.values() if isinstance(value, float))
    return finite and report["epoch"] == epoch


def _restored(arrays: dict[str, np.ndarray], like: Any, path: Path) -> Any:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    restored = []
    for key, leaf in leaves:
        array = arrays.get(jax.tree_util.keystr(key))
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise CheckpointError(
                f"the checkpoint must hold {jax.tree_util.keystr(key)} {leaf.dtype}{leaf.shape}, "
                f"but {path} holds {None if array is None else (array.dtype, array.shape)}"
            )
        restored.append(jax.numpy.asarray(array))
    if len(arrays) > len(leaves):
        raise CheckpointError(
            f"the checkpoint must hold {len(leaves)} arrays, but {path} holds {len(arrays)}"
        )
    return jax.tree_util.tree_unflatten(structure, restored)
