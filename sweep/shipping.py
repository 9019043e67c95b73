"""The shipper's loop: when to deliver, how long to wait, when to give up; no MLflow here."""

import argparse
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from sweep import delivery
from sweep.delivery import Destination, Drawing, Status
from sweep.directory import open_ledger
from sweep.files import locked
from sweep.lease import current_holder, latest_number
from sweep.pictures import FIRST_S
from sweep.records import SweepRecord, TrialRecord

Connect = Callable[[SweepRecord], Destination]
Deliver = Callable[[Destination, SweepRecord, list[TrialRecord]], Iterator[Destination]]

PAUSE_S = 0.5  # between two passes
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0
PATIENCE_S = 5.0  # with a server that does not answer, after the driver's end
EXIT_UNDELIVERED = 3


def main(connect: Connect, deliver: Deliver, arguments: Sequence[str] | None = None) -> int:
    """Runs the shipper; 0 if everything is delivered, 3 if not, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m sweep.tracking", description="MLflow shipper")
    parser.add_argument("directory", type=Path, help="the directory of one sweep")
    parser.add_argument("--once", action="store_true", help="deliver once, reading no input")
    parser.add_argument("--driver", type=int, help="end when a driver after this one starts")
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        parser.error(f"DIRECTORY must be a sweep's directory, but got {options.directory}")
    os.nice(10)  # training goes first
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C reaches the whole process group, and the driver decides what it means.
    signal.signal(signal.SIGINT, (lambda *_: stop.set()) if options.once else signal.SIG_IGN)
    lock = delivery.status_path(options.directory).with_name("lock")
    try:
        with locked(lock, patience_s=2 * PATIENCE_S):
            stopped = partial(_stopped, stop, options.directory, options.driver)
            ways = partial(passes, connect, deliver, options.directory, stopped)
            status = ship(ways, options.directory, stopped, once=options.once)
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return EXIT_UNDELIVERED
    return EXIT_UNDELIVERED if status.error or status.undelivered_trials else 0


def _stopped(stop: threading.Event, directory: Path, driver: int | None) -> bool:
    return stop.is_set() or (driver is not None and latest_number(directory) > driver)


def ship(
    passes: Callable[[bool], Iterator[Status]],
    directory: Path,
    stopped: Callable[[], bool],
    *,
    once: bool,
) -> Status:
    """Delivers for as long as the driver lives, and one last time afterwards."""
    status = delivery.read_status(directory)
    if not once:
        status = follow(passes(False), directory, status, stopped)
    if stopped():
        return status
    driver_gone = not once or current_holder(directory) is None
    return finish(passes(driver_gone), directory, status, stopped)


def follow(
    statuses: Iterator[Status], directory: Path, status: Status, stopped: Callable[[], bool]
) -> Status:
    """Delivers until standard input ends: its writer, the driver, has finished or died."""
    wait, backoff = 0.0, FIRST_BACKOFF_S
    while not input_ends(wait, stopped):
        started, before = time.monotonic(), status.trials
        status = publish(directory, next(statuses), status)
        if status.error is None or status.trials != before:
            backoff = FIRST_BACKOFF_S
        if status.error is None:
            wait = max(PAUSE_S, time.monotonic() - started)
        else:
            wait, backoff = backoff, min(2 * backoff, LAST_BACKOFF_S)
    return status


def finish(
    statuses: Iterator[Status], directory: Path, status: Status, stopped: Callable[[], bool]
) -> Status:
    """The last delivery; no new attempt once nothing has come through for PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = status.trials
        status = publish(directory, next(statuses), status)
        if status.trials != before:
            deadline = time.monotonic() + PATIENCE_S
        if status.error is None or stopped() or time.monotonic() >= deadline:
            return status
        time.sleep(FIRST_BACKOFF_S)


def passes(
    connect: Connect,
    deliver: Deliver,
    directory: Path,
    stopped: Callable[[], bool],
    driver_gone: bool,
) -> Iterator[Status]:
    """One pass over the sweep for every status taken; never ends.

    Whatever goes wrong is told in the status, and the next pass reads and connects anew. With
    `driver_gone` a sweep that was left running is shown as interrupted.
    """
    ledger = destination = None
    status = delivery.read_status(directory)
    trials: list[TrialRecord] = []
    drawing = Drawing(due_s=time.monotonic() + FIRST_S)
    while True:
        error = None
        try:
            ledger = ledger or open_ledger(directory)
            sweep, trials = ledger.sweep(), ledger.trials()
            if driver_gone and sweep.state == "running":
                sweep = sweep._replace(state="interrupted")
            status = status._replace(uri=delivery.without_password(sweep.tracking_uri))
            destination = destination or connect(sweep)._replace(drawing=drawing)
            for sent in deliver(destination, sweep, trials):
                destination, drawing = sent, sent.drawing
                if stopped():
                    raise InterruptedError("stopped before everything was delivered")
            error = "; ".join(destination.refusals) or None
        except Exception as trouble:  # of any kind: a sweep must not lose its shipper
            error = delivery.one_line(trouble)
        status = advanced(status, destination, trials, error)
        if error is not None:
            ledger = destination = None
        yield status


def advanced(
    status: Status,
    destination: Destination | None,
    trials: list[TrialRecord],
    error: str | None,
) -> Status:
    """The delivery status after a pass that came as far as `destination`."""
    if destination is not None:
        status = status._replace(
            experiment_id=destination.experiment_id,
            parent_run_id=destination.parent.run_id,
            trials=destination.trials,
            pictures=destination.drawing.trouble,
        )
    late, epochs = delivery.undelivered(status, trials)
    return status._replace(undelivered_trials=late, undelivered_epochs=epochs, error=error)


def publish(directory: Path, status: Status, previous: Status) -> Status:
    """Writes the delivery status, and logs its error, if they have changed."""
    status = status._replace(updated_ms=previous.updated_ms)
    if status == previous:
        return status
    if status.error != previous.error:
        text = status.error or "delivering again"
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}", file=sys.stderr, flush=True)
    status = status._replace(updated_ms=time.time_ns() // 1_000_000)
    delivery.write_status(directory, status)
    return status


def input_ends(seconds: float, stopped: Callable[[], bool]) -> bool:
    """Waits for up to `seconds`; True once standard input has ended or a stop is asked for."""
    deadline = time.monotonic() + seconds
    while not stopped():
        # In slices: a signal handler that returns does not wake a select.
        left = deadline - time.monotonic()
        readable, _, _ = select.select([0], [], [], min(max(left, 0), PAUSE_S))
        if readable and not os.read(0, 4096):
            return True
        if left <= 0:
            return False
    return True
