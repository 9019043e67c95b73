"""Ctrl-C and SIGTERM, in every phase of a command: it ends soon, with its code, and cleanly."""

import contextlib
import itertools
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.counts import count
from tests.faults.harness import (
    SWEEP,
    Command,
    Site,
    assert_nothing_lost,
    projected,
    site,
    until,
)
from tests.faults.test_kills import training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
ONCE_S, TWICE_S = 30, 5  # as promised
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
LONG: dict[str, Any] = {"images": 256, "epochs": 200, "trials": 3, "at_once": count(1, 2)}
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
    here: Site, command: Command | Terminal, how: str, sent: float, within: float
) -> str:
    """In that time since the signal it has ended with its code, and nothing of it runs on."""
    code = command.wait(max(sent + within - time.monotonic(), 0.01))
    output = command.output()
    assert code == (130 if how == "ctrl-c" else 143), output
    assert "Traceback" not in output
    assert "*** SIG" not in output  # the stack that Ray dumps
    until(lambda: not here.processes(), here.processes, max(sent + within - time.monotonic(), 1))
    assert partial_files(here) == []
    return output


def partial_files(here: Site) -> list[Path]:
    """What is half written, or was to be gone with its process."""
    files = [path for path in here.folder.rglob("*") if path.is_file()]
    return [path for path in files if path.suffix == ".part" or path.name.startswith(".")]


def trains(here: Site) -> bool:
    return here.recorded() > 0


def runs(here: Site, name: str) -> bool:
    """Whether a process with that in its command line belongs to the site."""
    found = False
    for pid in here.processes():
        with contextlib.suppress(OSError):  # it has just ended
            found |= name in Path(f"/proc/{pid}/cmdline").read_text()
    return found


# Training


def test_each_after_the_other(tmp_path: Path) -> None:
    """Each resume is interrupted as well; what was accepted and trained stays."""
    dice = random.Random(0)
    cases = [(how, twice, dice.uniform(0, 1)) for twice in (False, True) for how in HOW[:2]]
    cases += [("group", False, 0.0)] * count(0, 1)
    with site(tmp_path, **LONG) as here:
        accepted: dict[int, dict[str, Any]] = {}
        for how, twice, after in cases:
            in_training(here, how, twice=twice, after=after)
            assert here.accepted().items() >= accepted.items()
            accepted = here.accepted()
        here.run()
        assert_nothing_lost(here, accepted, incidents=sum(twice for _, twice, _ in cases))


def in_training(here: Site, how: str, *, twice: bool, after: float) -> None:
    """Launch or resume, and interrupt it so many seconds after it has begun to train."""
    before = here.recorded()
    command = started(here, how)
    wait_for(lambda: here.recorded() > before, command)
    time.sleep(after)
    sent = interrupt(command, how)
    if twice:
        sent = interrupt_again(command, how)
    output = assert_ends(here, command, how, sent, TWICE_S if twice else ONCE_S)
    assert "in 30 s at the latest; once more: at once" in output
    assert "sweep resume faults" in output
    if twice:
        assert "stopped at once" in output
    assert_left_open(here, delivered=not twice)


def assert_left_open(here: Site, *, delivered: bool) -> None:
    """Of an interrupted sweep all is kept that was trained, and MLflow holds it."""
    sweep, trials = here.read()
    assert sweep.state == "interrupted"
    cut = [trial for trial in trials if trial.state == "running" and trial.reports]
    assert cut
    for trial in cut:
        assert (here.directory / "trials" / f"{trial.number:04d}" / "checkpoint").exists()
    if not delivered:
        return
    held = projected(here)
    assert held.parent.info.status == "KILLED"
    assert held.parent.data.tags["sweep.state"] == "interrupted"
    for trial in cut:
        run = held.trials[trial.number]
        assert (run.info.status, run.data.tags["state"]) == ("KILLED", "interrupted")
        assert len(held.histories[trial.number]["train_loss"]) == len(trial.reports)


@pytest.mark.parametrize("seed", range(count(0, 10)))
def test_at_a_random_instant_of_training(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    how, twice = HOW[seed % 3], seed % 2 == 1
    with site(tmp_path, **LONG) as here:
        in_training(here, how, twice=twice, after=dice.uniform(0, 3))
        accepted = here.accepted()
        here.run()
        assert_nothing_lost(here, accepted, incidents=twice)


@pytest.mark.parametrize("seed", range(count(0, 10)))
def test_at_a_random_instant_since_the_start(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    how, twice = HOW[seed % 3], seed % 2 == 1
    with site(tmp_path, **LONG) as here:
        command = started(here, how)
        wait_for(lambda: "starting Ray" in command.output(), command)
        time.sleep(dice.uniform(0, 10))
        accepted = here.accepted()
        sent = interrupt(command, how)
        if twice:
            sent = interrupt_again(command, how)
        assert_ends(here, command, how, sent, TWICE_S if twice else ONCE_S)
        here.run()
        assert_nothing_lost(here, accepted, incidents=twice)


@pytest.mark.skipif(count(0, 1) == 0, reason="a minute and a half: with SWEEP_FAULTS=full")
def test_an_epoch_that_takes_too_long(tmp_path: Path) -> None:
    """As if for ever, for its process is frozen: its trial stays open at its last checkpoint."""
    with site(tmp_path, **LONG) as here:
        command = started(here, "ctrl-c")
        wait_for(lambda: trains(here) and len(training(here)) == here.at_once, command)
        for pid in training(here):
            os.kill(pid, signal.SIGSTOP)
        seen = -1
        while seen != (seen := here.recorded()):  # until all that they had done is recorded
            time.sleep(3)
        before = {trial.number: len(trial.reports) for trial in here.read()[1]}
        sent = interrupt(command, "ctrl-c")
        output = assert_ends(here, command, "ctrl-c", sent, ONCE_S)
        assert "stopped at once" not in output
        assert_left_open(here, delivered=True)
        assert {trial.number: len(trial.reports) for trial in here.read()[1]} == before
        here.run()
        assert_nothing_lost(here, incidents=1)


# Start-up


_DEAF = """
import os, signal, time
from sweep.halt import Interrupted, interrupt, set_handlers

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)

set_handlers(interrupt)
try:
    Deaf()
    for _ in range(100):
        time.sleep(0.01)
except Interrupted:
    print("heard")
"""


def test_where_nothing_can_be_raised() -> None:
    """As while compiled modules are imported; it is raised again a moment later."""
    command = [sys.executable, "-c", _DEAF]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("heard\n", "")


def importing(here: Site, command: Command | Terminal) -> bool:
    return "ray/_raylet" in Path(f"/proc/{command.process.pid}/maps").read_text()


def starting_ray(here: Site, command: Command | Terminal) -> bool:
    return runs(here, "gcs_server")


def loading_data(here: Site, command: Command | Terminal) -> bool:
    return (here.folder / "cache").exists()


FEW = [(importing, "ctrl-c", 1), (starting_ray, "group", 1), (loading_data, "sigterm", 1)]
PHASES = (importing, starting_ray, loading_data)
ALL = [*FEW, *(case for case in itertools.product(PHASES, HOW, (1, 2)) if case not in FEW)]


@pytest.mark.parametrize(("phase", "how", "times"), ALL[: count(len(FEW), len(ALL))])
def test_a_launch_that_was_not_begun(
    tmp_path: Path,
    phase: Callable[[Site, Command | Terminal], bool],
    how: str,
    times: int,
    manual_dir: Path,
) -> None:
    variables = {"SWEEP_CACHE_DIR": str(tmp_path / "cache"), "SWEEP_MANUAL_DIR": str(manual_dir)}
    dataset = "fashion_mnist" if phase is loading_data else "digits"
    with site(tmp_path, **TINY) as here:
        arguments = ("launch", "faults.yaml", "--set", f"data.dataset={dataset}")
        command = started(here, how, *arguments, **variables)
        wait_for(lambda: phase(here, command), command)
        sent = interrupt(command, how)
        if times == 2:
            time.sleep(0.02)  # it has not ended yet
            sent = interrupt(command, how)
        output = assert_ends(here, command, how, sent, TWICE_S if times == 2 else ONCE_S)
        assert "stopped" in output
        assert phase is importing or "nothing was begun" in output
        assert not here.directory.exists()


@pytest.mark.parametrize(("how", "times"), [("group", 1), ("ctrl-c", 2)])
def test_a_cluster_that_never_answers(tmp_path: Path, how: str, times: int) -> None:
    """Ray waits for it in compiled code, where no signal is heard."""
    with socket.create_server(("127.0.0.1", 0)) as server, site(tmp_path, **TINY) as here:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = started(here, how, "launch", "faults.yaml", "--address", address, "--insecure")
        wait_for(lambda: "Failed to connect to GCS" in command.output(), command)
        sent = interrupt(command, how)
        if times == 2:
            sent = interrupt_again(command, how)
        output = assert_ends(here, command, how, sent, TWICE_S if times == 2 else ONCE_S)
        assert "in 20 s at the latest; once more: at once" in output
        assert output.rfind(SHOW_CURSOR) >= output.rfind(HIDE_CURSOR)
        assert not here.directory.exists()


# After the search


class Undelivered(NamedTuple):
    """A sweep whose tracking server takes requests and never answers."""

    here: Site
    output: str  # of its launch, which was interrupted while it delivered


@pytest.fixture(scope="module")
def undelivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undelivered]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        with site(tmp_path_factory.mktemp("undelivered"), uri, **TINY) as here:
            command = started(here, "sigterm")
            ledger = here.directory / "study.journal"
            wait_for(lambda: ledger.exists() and here.read()[0].state == "finished", command)
            sent = interrupt(command, "sigterm")
            yield Undelivered(here, assert_ends(here, command, "sigterm", sent, ONCE_S))


def test_the_last_delivery(undelivered: Undelivered) -> None:
    here, output = undelivered
    assert here.read()[0].state == "finished"
    assert (here.directory / "best.yaml").exists()
    assert re.search("delivering to MLflow for 5 s more; once more: at once", output)
    assert re.search("winner +trial [01]", output)
    assert re.search("deliver +sweep sync faults", output)


DELIVERIES = [("sync", "sigterm"), ("resume", "ctrl-c")]
DELIVERIES += [("sync", "ctrl-c"), ("sync", "group"), ("resume", "sigterm"), ("resume", "group")]


@pytest.mark.parametrize(("word", "how"), DELIVERIES[: count(2, 6)])
def test_a_delivery_that_is_all_there_is_to_do(
    undelivered: Undelivered, word: str, how: str
) -> None:
    here = undelivered.here
    command = started(here, how, word, "faults")
    wait_for(lambda: runs(here, "sweep.tracking"), command)
    sent = interrupt(command, how)
    if word == "resume":
        sent = interrupt_again(command, how)
    assert_ends(here, command, how, sent, TWICE_S)
    assert here.read()[0].state == "finished"


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("seed", range(count(1, 20)))
def test_an_export_writes_all_or_nothing(undelivered: Undelivered, seed: int) -> None:
    """At the end of the writing, and at random instants; before our code runs it is Python's."""
    here = undelivered.here
    how, twice = ("ctrl-c", "sigterm")[seed % 2], seed // 2 % 2 == 1
    output = here.folder / f"{seed}.yaml"
    command = Terminal(here, "export", "faults", "-o", output.name)
    pid = command.process.pid
    wait_for(lambda: catches(pid, signal.SIGTERM), command)
    if seed < 4:
        wait_for(lambda: here.passed()[f"replace {output.name}"], command)
    else:
        time.sleep(random.Random(seed).uniform(0, 2))
    sent = interrupt(command, how)
    if twice:
        time.sleep(0.02)
        sent = interrupt(command, how)
    code = command.wait(max(sent + TWICE_S - time.monotonic(), 0.01))
    number = signal.SIGINT if how == "ctrl-c" else signal.SIGTERM
    # When all is done, a signal ends it as it ends any program.
    assert code in (0, -number) if output.exists() else code == 128 + number, command.output()
    assert "Traceback" not in command.output()
    if output.exists():
        assert output.read_text() == (here.directory / "best.yaml").read_text()
    assert partial_files(here) == []


@pytest.mark.parametrize("how", HOW[: count(1, 2)])
def test_training_again(undelivered: Undelivered, how: str) -> None:
    here = undelivered.here
    text = (here.directory / "best.yaml").read_text()
    (here.folder / "long.yaml").write_text(text.replace("num_epochs: 2", "num_epochs: 100000"))
    command = started(here, how, "train", "long.yaml")
    wait_for(lambda: "epoch   1" in command.output(), command)
    sent = interrupt(command, how)
    assert "stopped" in assert_ends(here, command, how, sent, TWICE_S)
