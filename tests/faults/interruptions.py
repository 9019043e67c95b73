"""Commands that are interrupted: by Ctrl-C in a terminal, by SIGTERM, alone or with their group."""

import contextlib
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.harness import SWEEP, Command, Site, until

ONCE_S, TWICE_S = 30, 5  # as promised
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
TINY: dict[str, Any] = {"images": 128, "epochs": 2, "trials": 2, "at_once": 1}
HOW = ("ctrl-c", "sigterm", "group")


class Terminal:
    """A `sweep` command in the foreground of a terminal of its own."""

    def __init__(self, here: Site, *arguments: str, **variables: str):
        self._keyboard, its = pty.openpty()
        self._log = here.folder / f"{len(list(here.folder.glob('*.log'))):03}.log"
        self.process = subprocess.Popen(
            ["setsid", "--ctty", SWEEP, *arguments],
            cwd=here.folder,
            env=os.environ | here.environment | {"TERM": "xterm-256color"} | variables,
            stdin=its,
            stdout=its,
            stderr=its,
        )
        os.close(its)
        with self._log.open("wb") as log:
            self._reader = subprocess.Popen(
                ["cat"], stdin=self._keyboard, stdout=log, stderr=subprocess.DEVNULL
            )

    def press_ctrl_c(self) -> None:
        os.write(self._keyboard, b"\x03")

    def wait(self, seconds: float = 280) -> int:
        code = self.process.wait(seconds)
        os.close(self._keyboard)
        self._reader.wait(30)  # until nobody holds the terminal
        return code

    def output(self) -> str:
        return self._log.read_text()


def started(here: Site, how: str, *arguments: str, **variables: str) -> Command | Terminal:
    """A command that can be interrupted in this way; without arguments launch or resume."""
    if how != "ctrl-c":
        return here.start(*arguments, **variables)
    begun = (here.directory / "sweep.json").exists()
    due = ("resume", "faults") if begun else ("launch", "faults.yaml")
    return Terminal(here, *(arguments or due), **variables)


def interrupt(command: Command | Terminal, how: str) -> float:
    """The time at which it is sent."""
    sent = time.monotonic()
    if how == "ctrl-c":
        assert isinstance(command, Terminal)
        command.press_ctrl_c()
        return sent
    command.process.terminate()
    if how == "group":  # as `timeout` does it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.process.pid, signal.SIGTERM)
    return sent


def interrupt_again(command: Command | Terminal, how: str) -> float:
    """Interrupt it once more when it has answered, if it still runs then."""

    def answered() -> bool:
        return "once more: at once" in command.output() or command.process.poll() is not None

    until(answered, command.output)
    time.sleep(0.4)  # sooner a SIGTERM counts as the same one
    return interrupt(command, how)


def wait_for(condition: Callable[[], object], command: Command | Terminal) -> None:
    """Wait until a condition holds, which must be before the command ends."""

    def over() -> bool:
        return bool(condition()) or command.process.poll() is not None

    until(over, command.output, 280)
    assert condition(), command.output()


def assert_ends(
    here: Site,
    command: Command | Terminal,
    how: str,
    sent: float,
    within: float,
    *,
    connecting: bool = False,
) -> str:
    """In that time since the signal it has ended with its code, and nothing of it runs on.

    `connecting`: it may have come in the third of a second in which Ray dumps its stack.
    """
    code = command.wait(max(sent + within - time.monotonic(), 0.01))
    output = command.output()
    assert code == (130 if how == "ctrl-c" else 143), output
    assert "Traceback" not in output
    assert connecting or "*** SIG" not in output  # the stack that Ray dumps
    until(lambda: not here.processes(), here.processes, max(sent + within - time.monotonic(), 1))
    assert partial_files(here) == []
    return output


def partial_files(here: Site) -> list[Path]:
    """What is half written, or was to be gone with its process."""
    files = [path for path in here.folder.rglob("*") if path.is_file()]
    return [path for path in files if path.suffix == ".part" or path.name.startswith(".")]


def runs(here: Site, name: str) -> bool:
    """Whether a process with that in its command line belongs to the site."""
    found = False
    for pid in here.processes():
        with contextlib.suppress(OSError):  # it has just ended
            found |= name in Path(f"/proc/{pid}/cmdline").read_text()
    return found
