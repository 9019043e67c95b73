"""A sweep's place in an object store: named, checked before a launch, emptied at its end."""

import errno
import uuid
from collections.abc import Callable

from sweep.commands import command_for
from sweep.errors import CommandError
from sweep.halt import say
from sweep.metrics import checkpoint_path
from sweep.nodes import Answer, ask_every_node
from sweep.stores import StoreError, check_uri, drop, fetch, found, held, open_store, probe
from sweep.study import Ledger
from trainers.files import previous_path


def own_place(uri: str, name: str, sweep_id: str) -> str:
    """The folder of one sweep below `uri`; another sweep of that name has another."""
    check_uri(uri)
    return f"{uri.rstrip('/')}/{name}-{sweep_id[:8]}"


def check_store(place: str) -> None:
    """Raise CommandError unless workers on all nodes write there what this process reads."""
    name = f"probe-{uuid.uuid4().hex[:8]}"
    try:
        store = open_store(place)
        found(store, name)  # keys and region, said of this machine first
        answers = ask_every_node(_write_probe, place, name)
        told = [f"on {answer.address}: {why}" for answer in answers if (why := _why(answer))]
        told += [
            f"what {answer.address} wrote there is not to be found from here"
            for answer in answers
            if not told and not found(store, f"{name}-{answer.address}")
        ]
    except StoreError as error:
        told = [str(error.strerror)]
    if not told:
        return
    why = "; ".join(told)
    raise CommandError(
        f"{place} must be a store that workers write and this command reads, but: {why}; see that "
        "its bucket exists, and that AWS_ENDPOINT_URL, region and keys are in the environment of "
        "every node",
        exit_code=5,
    )


def _write_probe(address: str, place: str, name: str) -> str:
    """On a worker: write an object; why it cannot, or ""."""
    try:
        probe(open_store(place), f"{name}-{address}")
    except StoreError as error:
        return str(error.strerror)
    return ""


def _why(answer: Answer) -> str:
    return answer.fault or str(answer.value or "")


def collect(ledger: Ledger, late: Callable[[], bool] = lambda: False) -> None:
    """Bring the states of complete trials into the sweep's own folder; the store drops the ended.

    A store that does not answer, or not before it is `late`, keeps them: `sweep resume` collects
    them, of a sweep that is over as well.
    """
    if ledger.checkpoints is None:
        return
    try:
        store = open_store(ledger.checkpoints)
        numbers = set() if late() else held(store)
        for trial in ledger.trials():
            if late():
                raise StoreError(errno.EINTR, "a signal came", store.uri)
            if trial.number not in numbers or trial.state == "running":
                continue
            path = checkpoint_path(ledger.trials_directory, trial.number)
            if trial.state == "complete" and not path.exists():
                fetch(store, trial.number, path)
                previous_path(path).unlink(missing_ok=True)
            drop(store, trial.number)
    except StoreError as error:
        say(
            f"{ledger.checkpoints} may still hold states of trials that have ended: "
            f"{error.strerror}; they are brought here by: {command_for('resume', ledger.directory)}"
        )
