"""Ctrl-C and SIGTERM in training and in start-up: a command ends soon, with its code, cleanly."""

import itertools
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.counts import count
from tests.faults.harness import Command, Site, assert_nothing_lost, projected, signalled, site
from tests.faults.interruptions import (
    HIDE_CURSOR,
    HOW,
    ONCE_S,
    SHOW_CURSOR,
    TINY,
    TWICE_S,
    Terminal,
    assert_ends,
    interrupt,
    interrupt_again,
    runs,
    started,
    wait_for,
)
from tests.faults.test_kills import training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
LONG: dict[str, Any] = {"images": 256, "epochs": 200, "trials": 3, "at_once": count(1, 2)}


def trains(here: Site) -> bool:
    return here.recorded() > 0


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
        assert_ends(here, command, how, sent, TWICE_S if twice else ONCE_S, connecting=True)
        here.run()
        assert_nothing_lost(here, accepted, incidents=twice)


@pytest.mark.skipif(count(0, 1) == 0, reason="a minute and a half: with SWEEP_FAULTS=full")
def test_an_epoch_that_takes_too_long(tmp_path: Path) -> None:
    """As if for ever, for its process is frozen: its trial stays open at its last checkpoint."""
    with site(tmp_path, **LONG) as here:
        command = started(here, "ctrl-c")
        wait_for(lambda: trains(here) and len(training(here)) == here.at_once, command)
        freeze(here)
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


def freeze(here: Site) -> None:
    """Stop the processes that train, where none of them is writing a checkpoint."""
    while True:
        signalled(training(here), signal.SIGSTOP)
        time.sleep(0.1)
        if not list(here.directory.rglob("*.part")):
            return
        signalled(training(here), signal.SIGCONT)
        time.sleep(0.01)


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


_HANGING = """
import os, signal, time
from sweep.halt import at_last, interrupt, set_handlers

set_handlers(interrupt)
with at_last(lambda: "go on with: that"):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        time.sleep(600)
"""


def test_a_clean_up_that_hangs_is_cut_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HANGING], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (143, "stopped at once; go on with: that\n")


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
