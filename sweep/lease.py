"""The right to write a sweep: one driver at a time, each with a number above all before it.

    drivers/0003.json    locked while its driver lives, and touched every 5 s

The system frees the lock when its process ends, however it ends. A driver that is frozen keeps it,
and after 30 s may be taken over from: the next number is claimed, the frozen one finds that out
before its next write, and a line it still writes counts no more (see lines.py). A study in a shared
database, which may be driven from copies of the directory, holds the claim as well.
"""

import contextlib
import fcntl
import getpass
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from sweep.commands import command_for
from sweep.errors import CommandError
from sweep.files import make_directory
from sweep.lines import sealed, unsealed
from trainers.crashes import reach
from trainers.files import sync_directory

BEAT_S = 5.0
STALE_S = 30.0
_SETTLE_S = 1.0  # within which two claims in a database see each other
_CLAIM = "driver"  # the study's attribute


class LeaseLostError(CommandError):
    """Another driver has taken over; nothing more may be written."""


class Holder(NamedTuple):
    """A driver as its record tells it."""

    number: int
    host: str
    pid: int
    user: str
    started: float  # seconds since 1970, by the clock of its machine
    beat: float  # when it was last heard of

    @property
    def stale(self) -> bool:
        """Whether it has not been heard of for long."""
        return time.time() - self.beat > STALE_S

    def __str__(self) -> str:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        text = f"process {self.pid} of {self.user} on {self.host}, since {started}"
        return text + (f", not heard of for {time.time() - self.beat:.0f} s" if self.stale else "")


class Lease:
    """What a driver holds; `number` goes into every line it writes."""

    def __init__(self, directory: Path, number: int):
        self.directory, self.number = directory, number
        self._over = threading.Event()
        self._studies: list[tuple[optuna.Study, str]] = []
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raise LeaseLostError if another driver has taken over."""
        latest = latest_number(self.directory)
        if latest > self.number:
            raise _lost(self.directory, str(_read(_record_path(self.directory, latest))))
        for study, identity in self._studies:
            claim = study.user_attrs.get(_CLAIM) or {}
            if claim.get("id") != identity:
                raise _lost(self.directory, f"process {claim.get('pid')} on {claim.get('host')}")

    def claim(self, study: optuna.Study, *, takeover: bool) -> None:
        """Claim a study in a database too; CommandError if another driver holds it."""
        held = study.user_attrs.get(_CLAIM) or {}
        if held and held["id"]:
            age = time.time() - held["beat"]
            who = f"process {held['pid']} on {held['host']}, heard of {age:.0f} s ago"
            if age <= STALE_S or not takeover:
                raise refusal(self.directory, who, stale=age > STALE_S)
        identity = uuid.uuid4().hex
        study.set_user_attr(_CLAIM, _claim(identity))
        time.sleep(_SETTLE_S)
        self._studies.append((study, identity))
        self.check()

    def end(self) -> None:
        """Free what was claimed."""
        self._over.set()
        self._beats.join()
        for study, identity in self._studies:
            with contextlib.suppress(Exception):  # a database that is gone frees itself by age
                if (study.user_attrs.get(_CLAIM) or {}).get("id") == identity:
                    study.set_user_attr(_CLAIM, _claim(""))

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(Exception):  # a beat that fails makes the lease stale
                os.utime(_record_path(self.directory, self.number))
                for study, identity in self._studies:
                    self.check()
                    study.set_user_attr(_CLAIM, _claim(identity))


@contextlib.contextmanager
def driving(directory: Path, *, takeover: bool = False, above: int = 0) -> Iterator[Lease]:
    """The lease on a sweep's directory, with a number greater than `above`.

    Raises CommandError, naming the holder, if another process has it. With `takeover` it is taken
    from a holder that has not been heard of for 30 s.
    """
    while True:
        latest = latest_number(directory)
        refuse_if_driven(directory, takeover=takeover)
        number, started = max(above, latest) + 1, time.time()
        try:
            file = _published(_record_path(directory, number), own_record(started, number))
            break
        except FileExistsError:
            continue  # somebody was faster
    lease = Lease(directory, number)
    try:
        yield lease
    finally:
        lease.end()
        reach("free lease")
        file.seek(0)
        file.write(own_record(started, number, ended=time.time()))
        file.truncate()
        file.close()
        reach("freed lease")


def current_holder(directory: Path) -> Holder | None:
    """The driver that has the lease now."""
    return _holder(_record_path(directory, latest_number(directory)))


def refuse_if_driven(directory: Path, *, takeover: bool = False) -> None:
    """CommandError, naming the holder, if another process has the lease and may keep it."""
    holder = current_holder(directory)
    if holder and not (takeover and holder.stale):
        raise refusal(directory, str(holder), stale=holder.stale)


def _holder(path: Path) -> Holder | None:
    """Who wrote that record, if the lock that goes with it is still held."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(path)
    return None


def seconds_driven(directory: Path, *, before: int | None = None) -> float:
    """How long the sweep's drivers have run, those that were killed too; to some seconds."""
    records = [_read(path) for path in (directory / "drivers").glob("[0-9]*.json")]
    return sum(
        max(record.beat - record.started, 0.0)
        for record in records
        if before is None or record.number < before
    )


def _published(path: Path, record: str) -> Any:
    """The record of a new driver, locked before anyone can see it."""
    make_directory(path.parent)
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    file = temporary.open("w")
    try:
        file.write(record)
        file.flush()
        os.fsync(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX)
        reach("claim lease")
        os.link(temporary, path)
        sync_directory(path.parent)
        reach("claimed lease")
    except BaseException:
        file.close()
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return file


def own_record(started: float, number: int, ended: float | None = None) -> str:
    """Who this process is, as one sealed line."""
    facts = {"host": platform.node(), "pid": os.getpid(), "user": _user(), "started": started}
    return sealed(facts | ({"ended": ended} if ended else {}), number).decode() + "\n"


def read_holder(path: Path, number: int) -> Holder:
    """Who wrote that record; process 0 if it is damaged."""
    touched = path.stat().st_mtime
    try:
        facts = unsealed(path.read_bytes().removesuffix(b"\n"))
        beat = facts.get("ended", touched)
        found = facts["host"], facts["pid"], facts["user"], facts["started"], beat
    except (ValueError, LookupError):
        found = "?", 0, "?", touched, touched
    return Holder(number, *found)


def _read(path: Path) -> Holder:
    return read_holder(path, int(path.stem))


def latest_number(directory: Path) -> int:
    """The number of the latest driver of a sweep, 0 if there was none."""
    numbers = (path.stem for path in (directory / "drivers").glob("[0-9]*.json"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _record_path(directory: Path, number: int) -> Path:
    return directory / "drivers" / f"{number:04d}.json"


def _claim(identity: str) -> dict[str, Any]:
    return {"id": identity, "host": platform.node(), "pid": os.getpid(), "beat": time.time()}


def is_claimed(study: optuna.Study) -> bool:
    """Whether a driver holds a study in a database."""
    return bool((study.user_attrs.get(_CLAIM) or {}).get("id"))


def refusal(directory: Path, holder: str, *, stale: bool) -> CommandError:
    """That another process has the lease."""
    way = (
        f"if it is gone for good, take over with: {command_for('resume', directory, '--takeover')}"
        if stale
        else f"follow it with: {command_for('watch', directory)}"
    )
    return CommandError(f"{directory.name} is being run by {holder}; {way}", exit_code=4)


def _lost(directory: Path, holder: str) -> LeaseLostError:
    return LeaseLostError(
        f"{directory.name} was taken over by {holder}; this driver has stopped, and what it had "
        "not recorded is trained again there",
        exit_code=4,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"
