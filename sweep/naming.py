"""The name of a new sweep: claimed by one launch at a time, in its folder and in a database.

    .NAME.launch    beside the sweep's directory; locked while a launch makes it
    .NAME.1234      what process 1234 has made of it so far

What a launch that was killed has left there blocks no other.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

import optuna
from optuna.exceptions import DuplicatedStudyError

from sweep.commands import command_for, folder_option
from sweep.errors import CommandError
from sweep.halt import at_last
from sweep.lease import current_holder, is_claimed, own_record, read_holder, refusal
from trainers.crashes import reach

Goal = Literal["minimize", "maximize"]
_MAKER = "made_by"  # the study's attribute
_PATIENCE_S = 2.0  # for another process to write who it is


@contextlib.contextmanager
def launching(directory: Path) -> Iterator[None]:
    """The right to make a sweep in `directory`; CommandError, naming the process that has it."""
    path = directory.with_name(f".{directory.name}.launch")
    new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    while (file := _locked(path)) is None:
        pass  # the one who had it has just removed it
    with file, at_last(lambda: path.unlink(missing_ok=True)):
        try:
            if holder := current_holder(directory):
                raise refusal(directory, str(holder), stale=holder.stale)
            if directory.exists():
                raise CommandError(
                    f"the name {directory.name} is taken by {directory}; go on with that sweep: "
                    f"{command_for('resume', directory)}",
                    exit_code=4,
                )
            _remove_leftovers(directory)
            yield
        finally:
            path.unlink(missing_ok=True)
            if new:
                with contextlib.suppress(OSError):  # it holds the sweep, or another
                    path.parent.rmdir()


def making_folder(directory: Path) -> Path:
    """Where this process makes a sweep, before it takes its place."""
    return directory.with_name(f".{directory.name}.{os.getpid()}")


def _locked(path: Path) -> TextIO | None:
    """The file at `path`, locked and telling who has it; None if another took its place."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        _refuse(path)
        return None
    if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
        reach("claim name")
        file.truncate(0)
        file.write(own_record(time.time(), 0))
        file.flush()
        reach("claimed name")
        return file
    file.close()
    return None


def _refuse(path: Path) -> None:
    """Say who holds the lock, once that is written; nothing if the file goes away."""
    deadline = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(FileNotFoundError):
        while (holder := read_holder(path, 0)).pid == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        raise CommandError(
            f"{path.name.split('.')[1]} is being launched by {holder}; follow it with: "
            f"sweep ls{folder_option(path.parent)}, or launch under another --name",
            exit_code=4,
        )


def _remove_leftovers(directory: Path) -> None:
    prefix = f".{directory.name}."
    for path in directory.parent.iterdir():
        if path.name.startswith(prefix) and path.name.removeprefix(prefix).isdecimal():
            shutil.rmtree(path, ignore_errors=True)


def create_study(name: str, storage: Any, goal: Goal, *, shared: bool) -> optuna.Study:
    """A new study; in a `shared` storage it takes the place of one that a dead launch has left."""
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=goal)
    except DuplicatedStudyError as error:
        if not (shared and _is_left_over(storage, name)):
            raise CommandError(
                f"the storage holds a study {name} already; launch under another --name",
                exit_code=4,
            ) from error
        optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(storage=storage, study_name=name, direction=goal)
    if shared:
        study.set_user_attr(_MAKER, {"host": platform.node(), "pid": os.getpid()})
    return study


def _is_left_over(storage: Any, name: str) -> bool:
    """Whether the process that made a study died before any driver ran it."""
    no_sampler = optuna.samplers.RandomSampler(0)
    study = optuna.load_study(study_name=name, storage=storage, sampler=no_sampler)
    if _MAKER not in study.user_attrs:
        time.sleep(_PATIENCE_S)
    attrs = study.user_attrs
    if "state" in attrs or is_claimed(study) or study.get_trials(deepcopy=False, states=_STARTED):
        return False
    maker = attrs.get(_MAKER)
    if maker is None:
        return not attrs and not study.get_trials(deepcopy=False)
    return maker["host"] == platform.node() and not _lives(maker["pid"])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_STARTED = tuple(
    state for state in optuna.trial.TrialState if state != optuna.trial.TrialState.WAITING
)
