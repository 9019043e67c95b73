"""A training state on disk: written atomically, verified when read, free of code.

One file: a line `sweep-checkpoint 1 <sha256 of the rest>`, then a safetensors image whose metadata
holds the run's fingerprint, the epoch and the reports so far. Beside it lies the one before.
safetensors is imported where a file is written or read: training without one needs JAX alone.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

_MAGIC = b"sweep-checkpoint 1 "
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
    """Write `path` so that it is whole after a crash at any instant, keeping the one before."""
    from safetensors.numpy import save

    metadata = {
        "fingerprint": checkpoint.fingerprint,
        "epoch": str(checkpoint.epoch),
        "reports": json.dumps(checkpoint.reports, allow_nan=False),
    }
    payload = save(_named_arrays(checkpoint.state), metadata=metadata)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(_MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        path.replace(previous_path(path))
    temporary.replace(path)


def load_checkpoint(path: Path, like: Any, fingerprint: str) -> Checkpoint:
    """Read `path` into the structure of `like`; CheckpointError unless every byte is as written."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    header, _, payload = path.read_bytes().partition(b"\n")
    if header != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
        raise CheckpointError(f"the checkpoint must match its sha256, but {path} does not")
    try:
        arrays = load(payload)
        metadata = _metadata(payload)
        epoch, reports = int(metadata["epoch"]), json.loads(metadata["reports"])
        owner = metadata["fingerprint"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint must be readable, but {path}: {error}") from error
    if owner != fingerprint:
        raise CheckpointError(f"the checkpoint must belong to this run, but {path} does not")
    return Checkpoint(fingerprint, epoch, _restored(arrays, like, path), reports)


def load_latest(path: Path, like: Any, fingerprint: str) -> Checkpoint | None:
    """The newest sound checkpoint of this run: at `path`, else the one before it, else None.

    One that is not sound is put aside, so that it never takes the place of a sound one.
    """
    for candidate in (path, previous_path(path)):
        if not candidate.exists():
            continue
        try:
            return load_checkpoint(candidate, like, fingerprint)
        except CheckpointError as error:
            aside = candidate.with_name(candidate.name + ".damaged")
            candidate.replace(aside)
            log.warning("%s; it is now %s, and an earlier state is taken", error, aside.name)
    return None


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the one at `path` lies."""
    return path.with_name(path.name + ".previous")


def _named_arrays(state: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(key): np.array(leaf, order="C") for key, leaf in leaves}


def _metadata(payload: bytes) -> dict[str, str]:
    """The metadata of a safetensors image: in a JSON header behind its length, a u64."""
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length])["__metadata__"]


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
    return jax.tree_util.tree_unflatten(structure, restored)
