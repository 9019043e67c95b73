"""What another terminal may do to a sweep: pause, stop or cancel it, deliver what is left."""

import subprocess
from pathlib import Path

from sweep.commands import command_for
from sweep.delivery import end_process, lost_records, read_status, shipper_command, undelivered
from sweep.directory import latest_driver, open_ledger, read_header, read_sweep
from sweep.drawing import count
from sweep.errors import CommandError
from sweep.halt import send
from sweep.lease import Holder, current_holder, driving
from sweep.records import ENDED
from sweep.results import larger_budget, write_best

_SAID = {
    "pause": "no new trials are started, and running ones train to their end; go on with: {resume}",
    "stop": "no new trials are started; it is over once the running ones have trained to their end",
    "cancel": "its running trials are ended now",
}


def control(directory: Path, command: str) -> tuple[str, int]:
    """Pause, stop or cancel a sweep; what to tell the person who asked, and the exit code.

    A running sweep is told; one that is not run by any process is stopped or cancelled here.
    """
    name = directory.name
    if holder := current_holder(directory):
        return _tell(directory, holder, command), 0
    with driving(directory, above=latest_driver(directory)) as lease:
        ledger = open_ledger(directory, lease=lease)
        state = ledger.sweep().state
        if state in ENDED:
            return f"{name} is over: {state}", 0
        if command == "pause":
            return f"{name} is not running; go on with: {command_for('resume', directory)}", 0
        ledger.cancel()
        if ledger.checkpoints:
            from sweep.storechecks import collect  # which imports Ray

            collect(ledger)
        ledger.set_state("stopped" if command == "stop" else "cancelled")
        trials = ledger.trials()
        write_best(ledger.sweep(), trials)
    message, exit_code = deliver_now(directory)
    return f"{name} is over, {len(trials)} trials; {message}", exit_code


def _tell(directory: Path, holder: Holder, command: str) -> str:
    """Tell the process that runs a sweep."""
    state = read_sweep(directory)[0].state
    if state in ENDED:
        return f"{directory.name} is over: {state}; {holder} delivers what MLflow lacks of it"
    if state == "paused":
        if command == "pause":
            return f"{directory.name} is paused; {holder} delivers what MLflow lacks of it"
        raise CommandError(
            f"{directory.name} is paused, and {holder} still delivers what MLflow lacks of it; "
            f"once that has ended: {command_for(command, directory)}",
            exit_code=4,
        )
    send(directory, holder.number, command)
    late = f", but {holder} must come back first" if holder.stale else ""
    said = _SAID[command].format(resume=command_for("resume", directory))
    return f"{directory.name}: {said}{late}"


def why_taken(directory: Path) -> str:
    """Why no sweep can be launched in a directory that exists, and what to do with the one there.

    One that cannot be read is told of by the command that is named for it.
    """
    name = directory.name
    resume = f"  go on with that sweep:  {command_for('resume', directory)}"
    if holder := current_holder(directory):
        return (
            f"the name {name} is taken by {directory}, which is being run by {holder}\n"
            f"  follow that sweep:      {command_for('watch', directory)}"
        )
    try:
        sweep, trials = read_sweep(directory)
    except (CommandError, ValueError):
        return f"the name {name} is taken by {directory}\n{resume}"
    if sweep.state in ENDED:
        if budget := larger_budget(sweep, trials):
            resume = f"  go on with that sweep:  {command_for('resume', directory, budget)}"
        else:
            resume = f"  see what came of it:    {command_for('best', directory)}"
    return f"the name {name} is taken by {directory}, which is {sweep.state}\n{resume}"


def deliver_now(directory: Path) -> tuple[str, int]:
    """Deliver what MLflow lacks of a sweep; what came of it, and the exit code."""
    if current_holder(directory):
        raise CommandError(
            f"{directory.name} is running and delivers by itself; see: "
            f"{command_for('status', directory)}",
            exit_code=4,
        )
    if lost := lost_records(directory, read_header(directory)["tracking_uri"]):
        return lost, 3
    shipper = subprocess.Popen([*shipper_command(directory), "--once"], start_new_session=True)
    try:
        code = shipper.wait()
    finally:
        end_process(shipper)
    _, trials = read_sweep(directory)
    status = read_status(directory)
    late, epochs = undelivered(status, trials)
    if code == 0:
        lacks = f", but no new pictures: {status.pictures}" if status.pictures else ""
        return f"MLflow holds all of {directory.name}: {len(trials)} trials{lacks}", 0
    reason = status.error or "the delivery was cut off"
    what = "the sweep's own run is"
    if late:
        what = f"{count(late, 'trial')} ({count(epochs, 'epoch')}) {'is' if late == 1 else 'are'}"
    return (
        f"{what} not delivered: {reason}; try again with: {command_for('sync', directory)}",
        3,
    )
