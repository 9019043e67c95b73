"""Ctrl-C and SIGTERM after the search: in the last delivery, in an export, in training again."""

import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.counts import count
from tests.faults.harness import Site, site
from tests.faults.interruptions import (
    HOW,
    ONCE_S,
    TINY,
    TWICE_S,
    Terminal,
    assert_ends,
    interrupt,
    interrupt_again,
    partial_files,
    runs,
    started,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


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
