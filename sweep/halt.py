"""Why a command ends before its work is done: a signal, another terminal's word, or trouble."""

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from sweep.commands import command_for
from sweep.errors import CommandError
from sweep.files import write_text

GRACE_S = 20.0  # for running epochs, after Ctrl-C; ending Ray and delivering take up to 10 s more
DELIVERY_S = 5.0  # for what the tracking server lacks, after Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ANSWER_S = 1.0  # soon enough for who waits, late enough for an echo
_ECHO_S = 0.3  # `timeout` sends a signal to the process, and once more to its group
_CLEANING_S = 4.0
_AGAIN_S = 0.01
_last: list[Callable[[], str | None]] = []  # see at_last()
_SAID = {
    "pause": "paused: no new trials are started, and running ones train to their end",
    "stop": "stopped: no new trials are started, and running ones train to their end",
    "cancel": "cancelled: running trials are ended now",
}


class Interrupted(BaseException):
    """A signal ends this command; not an Exception, which a library might take for its own."""

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number


class Leave(BaseException):
    """Ends a Tune run at once; not an Exception, which Tune would take for a trial's."""


def interrupt(number: int, frame: Any = None) -> NoReturn:
    """Raise Interrupted; no signal disturbs what is cleaned up then, which gets 4 s."""
    set_handlers(signal.SIG_IGN)
    _thread.start_new_thread(_end_in, (_CLEANING_S, 128 + number))  # threading takes locks
    _throw(number)


def _throw(number: int) -> NoReturn:
    """Raise Interrupted; once more in a moment where nothing can be raised, as in `__del__`."""

    def again(told: Any) -> None:
        if isinstance(told.exc_value, Interrupted):
            signal.signal(signal.SIGALRM, lambda _, frame: _throw(number))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    sys.unraisablehook = again
    raise Interrupted(number)


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Around compiled code, which may make a SystemError of what a signal's handler raises."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise


@contextlib.contextmanager
def at_last(action: Callable[[], str | None]) -> Iterator[None]:
    """Within it `action` is called if the process is ended at once, in another thread.

    What it returns is told to who ended it.
    """
    _last.append(action)
    try:
        yield
    finally:
        _last.remove(action)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Around compiled code that hears no signal for long: one ends the process nevertheless.

    It does so after 20 s, or at once if another comes.
    """
    ours, its = socket.socketpair()
    its.setblocking(False)
    over = threading.Event()

    def listen() -> None:
        with ours:
            if not (number := _number(ours)) or over.wait(_ANSWER_S):
                return
            if number == signal.SIGTERM:  # its echo
                _drain(ours)
            say(f"stopping when Ray answers, in {GRACE_S:.0f} s at the latest; once more: at once")
            ours.settimeout(GRACE_S)
            with contextlib.suppress(TimeoutError):
                _number(ours)
            if not over.is_set():
                _end(128 + number)

    before = signal.set_wakeup_fd(its.fileno())
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        its.close()


def _number(told: socket.socket) -> int:
    """The next signal that asks for an end; 0 if no more come."""
    while (byte := told.recv(1)) and byte[0] not in SIGNALS:
        pass
    return byte[0] if byte else 0


def _drain(told: socket.socket) -> None:
    told.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while told.recv(100):
            pass


def set_handlers(handler: Any) -> None:
    """Let `handler` take Ctrl-C and SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, handler)


def _end_in(seconds: float, exit_code: int) -> None:
    time.sleep(seconds)
    _end(exit_code)


def _end(exit_code: int) -> NoReturn:
    """End the process here and now; a display that is cut off has hidden the cursor.

    It is written below sys.stderr, which the thread that hangs may have locked.
    """
    words = ["stopped at once"]
    for action in list(_last):
        with contextlib.suppress(OSError):
            words += filter(None, [action()])
    with contextlib.suppress(OSError):
        os.write(2, b"\x1b[?25h" * os.isatty(2) + "; ".join(words).encode() + b"\n")
    os._exit(exit_code)


def say(text: str) -> None:
    """Tell whoever reads standard error; nobody may."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Halt:
    """What has asked a sweep to end, and what that means for its trials.

    Ctrl-C or SIGTERM: no new trials, running ones stay open after their epoch, or after 20 s at the
    latest; a second time: at once. pause and stop: no new trials, running ones go on to their end.
    cancel: running ones are ended. Trouble, such as a full disk: all stay open, at once.
    """

    def __init__(self, directory: Path):
        self._control = directory / "control"
        self.signal, self._since = 0, 0.0
        self.command = ""
        self.trouble: CommandError | None = None
        self._driver: int | None = None  # whose first signal waits; None: nothing to wait for yet
        self._told = False

    @property
    def asked(self) -> bool:
        """Whether no new trial is to be started."""
        return bool(self.signal or self.command)

    @property
    def leaving(self) -> bool:
        """Whether running trials are to be left open after their epoch."""
        return bool(self.signal)

    def poll(self) -> None:
        """Look for a command, and Leave if it is time to; called all the time."""
        self._tell("stopping after the running epochs, in 30 s at the latest; once more: at once")
        self._hear()
        if self.command == "cancel":
            raise Leave
        if self.signal and time.monotonic() - self._since > GRACE_S:
            raise Leave

    def _hear(self) -> None:
        """Take the last command that was meant for this driver, not for one that died before."""
        with contextlib.suppress(FileNotFoundError):
            command, driver = self._control.read_text().split()
            if int(driver) == self._driver and command != self.command:
                self.command = command
                say(_SAID[command])

    def _tell(self, text: str) -> None:
        """Answer a first signal once; its handler may have come in the middle of other output."""
        if self.signal and not self._told:
            self._told = True
            say(text)

    def deadline(self) -> Callable[[], bool]:
        """Whether a delivery that begins now takes too long: 5 s if a signal came, or comes."""
        begun = time.monotonic()

        def late() -> bool:
            self._tell("delivering to MLflow for 5 s more; once more: at once")
            spent = time.monotonic() - max(self._since, begun)
            return bool(self.signal) and spent > DELIVERY_S

        return late

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Around what Tune calls: it would take an exception for a trial's, and go on."""
        try:
            yield
        except CommandError as error:
            self.trouble = error
            raise Leave from error
        except OSError as error:
            self.trouble = CommandError(told(error, self._control.parent))
            raise Leave from error

    @contextlib.contextmanager
    def patient(self, driver: int) -> Iterator[None]:
        """While this driver runs trials and delivers them, so that a first signal waits."""
        self._driver = driver
        try:
            yield
        finally:
            self._driver = None
            self._control.unlink(missing_ok=True)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes Ctrl-C and SIGTERM; one that does not wait raises Interrupted."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.signal and number == signal.SIGTERM and now - self._since < _ECHO_S:
            return
        if not self.signal and self._driver is not None:
            self.signal, self._since = number, now
            return
        interrupt(self.signal or number)


def send(directory: Path, driver: int, command: str) -> None:
    """Tell a driver of the sweep to pause, stop or cancel."""
    write_text(directory / "control", f"{command} {driver}\n")


def unwritable(error: OSError, directory: Path) -> CommandError:
    """The end of a sweep whose disk, or whose object store, takes nothing."""
    elsewhere = "://" in str(error.filename)
    return CommandError(told(error, directory), exit_code=5 if elsewhere else 1)


def told(error: OSError, directory: Path) -> str:
    """What a person needs to know of a file that could not be written."""
    return (
        f"{error.filename or directory} cannot be written: {error.strerror or error}; nothing that "
        f"was recorded is lost. Once that is mended, go on with: {command_for('resume', directory)}"
    )
