"""A sweep's place in an object store: named, checked before anything is made, tidied at the end."""

import contextlib
import uuid

import ray

from sweep.errors import CommandError
from sweep.stores import StoreError, check_uri, drop, found, open_store, probe
from sweep.study import Ledger


def own_place(uri: str, name: str, sweep_id: str) -> str:
    """The folder of one sweep below `uri`; another sweep of that name has another."""
    check_uri(uri)
    return f"{uri.rstrip('/')}/{name}-{sweep_id[:8]}"


def check_store(place: str) -> None:
    """Raise CommandError unless a worker can write there what this process can read."""
    name = f"probe-{uuid.uuid4().hex[:8]}"
    write = ray.remote(num_cpus=0, max_retries=0)(_write_probe)
    try:
        found(open_store(place), name)  # keys and bucket, said of this machine first
        trouble = ray.get(write.remote(place, name))
        if trouble is None and found(open_store(place), name):
            return
        why = trouble or "what a worker wrote there is not to be found from here"
    except StoreError as error:
        why = str(error.strerror)
    raise CommandError(
        f"{place} must be a store that workers write and this command reads, but: {why}; see that "
        "its bucket exists, and that AWS_ENDPOINT_URL, region and keys are in the environment of "
        "every node",
        exit_code=5,
    )


def _write_probe(place: str, name: str) -> str | None:
    """Run on a worker; why it cannot write, if it cannot."""
    try:
        probe(open_store(place), name)
    except StoreError as error:
        return f"on {ray.util.get_node_ip_address()}: {error.strerror}"
    return None


def drop_unneeded(ledger: Ledger) -> None:
    """Remove the states of ended trials but for complete ones, which may be exported."""
    if ledger.checkpoints is None:
        return
    with contextlib.suppress(StoreError):
        store = open_store(ledger.checkpoints)
        for trial in ledger.trials():
            if trial.state not in ("running", "complete"):
                drop(store, trial.number)
