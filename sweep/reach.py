"""Whether all nodes of a cluster reach the folder of the sweeps: written there, and read here."""

import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from sweep.errors import CommandError
from sweep.nodes import ask_every_node

_VISIBLE_S = 5.0  # in which a file written elsewhere shows; NFS keeps directories for seconds


def check_reached(folder: Path) -> None:
    """Let a worker on each node write a file into `folder`, and read it; CommandError if not."""
    token = secrets.token_hex(8)
    probe = folder.resolve() / f".reach-{token}"
    try:
        probe.mkdir(parents=True)
        answers = ask_every_node(leave, str(probe), token)
        faults = {answer.address: answer.fault or answer.value for answer in answers}
        deadline = time.monotonic() + _VISIBLE_S
        missing = [address for address, fault in faults.items() if not fault]
        while missing := [address for address in missing if not _left(probe, address, token)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        faults |= dict.fromkeys(missing, "what it wrote there is not seen by the driver")
        _refuse(folder.resolve(), {address: fault for address, fault in faults.items() if fault})
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def leave(address: str, probe: str, token: str) -> str:
    """On a worker: leave a file in the driver's folder; why it could not, or ""."""
    folder = Path(probe)
    if not folder.is_dir():  # another disk may have a folder of the same name above it
        return "it does not see what the driver wrote there"
    try:
        (folder / address).write_text(f"{token} {address}")
    except OSError as error:
        return f"it cannot write there: {error.strerror}"
    return ""


def _left(probe: Path, address: str, token: str) -> bool:
    path = probe / address
    return path.is_file() and path.read_text() == f"{token} {address}"


def _refuse(folder: Path, faults: Mapping[str, str]) -> None:
    if faults:
        told = "; ".join(f"node {address}: {fault}" for address, fault in faults.items())
        raise CommandError(
            f"the folder {folder} must be the same on every node, but {told}; mount a shared "
            "folder at that path on all nodes, or name one that is with --sweeps-dir or SWEEP_DIR",
            exit_code=2,
        )
