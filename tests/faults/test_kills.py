"""The driver and the trials' processes are killed, again and again."""

import contextlib
import os
import random
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from sweep.records import TrialRecord
from tests.faults.counts import count
from tests.faults.harness import Command, Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


def test_a_driver_killed_at_random_instants(tmp_path: Path):
    """Mostly while trials run; a sweep that ends before is begun again elsewhere."""
    dice, left, sites, cut = random.Random(0), count(3, 50), 0, 0
    while left:
        sites += 1
        with site(tmp_path / str(sites), images=256, epochs=20) as here:
            instants = [_Instant(dice, start_up=kill % 3 == 2) for kill in range(left, 0, -1)]
            hits = _killed(here, instants)
            assert_nothing_lost(here, incidents=len(hits))
        left, cut = left - len(hits), cut + sum(hits)
    assert cut >= count(1, 26), "too few kills cut a trial that had reports"


@pytest.mark.parametrize("seed", range(count(0, 5)))
def test_all_are_killed_while_the_database_is_made(tmp_path: Path, seed: int):
    """MLflow makes its tables step by step, and does not go on where it was killed in between."""
    dice = random.Random(seed)
    with site(tmp_path / "site", images=128, epochs=2, trials=2, at_once=1) as here:
        # Where the shipper makes it, before it takes its place.
        command = here.start(TMPDIR=str(tmp_path), RAY_TMPDIR=tempfile.gettempdir())
        until(lambda: list(tmp_path.glob("sweep-*/mlflow.db")), command.output)
        with contextlib.suppress(TimeoutError):
            command.wait_for(dice.uniform(0, 1))
        here.end_processes()
        assert not (here.folder / "sweeps" / "mlflow.db").exists()
        here.run()
        assert_nothing_lost(here)


class _Instant:
    """When to kill: some seconds after the start, or some epochs and a moment after it."""

    def __init__(self, dice: random.Random, *, start_up: bool):
        self.epochs = 0 if start_up else dice.randint(5, 60)
        self.seconds = dice.uniform(1, 5) if start_up else dice.uniform(0, 0.2)

    def wait(self, here: Site, command: Command) -> None:
        wait_for_epochs(here, command, self.epochs)
        with contextlib.suppress(TimeoutError):
            command.wait_for(self.seconds)


def wait_for_epochs(here: Site, command: Command, epochs: int) -> None:
    """Wait until so many more are recorded, or the command has ended."""
    wanted = here.recorded() + epochs
    until(
        lambda: here.recorded() >= wanted or command.process.poll() is not None,
        command.output,
        280,
    )


def _killed(here: Site, instants: Sequence[_Instant]) -> list[bool]:
    """Start the sweep and kill it, until it finishes; of each kill, whether it cut a trial."""
    accepted: dict = {}
    hits: list[bool] = []
    for instant in instants:
        before, command = here.recorded(), here.start()
        instant.wait(here, command)
        if command.process.poll() is not None:
            break
        command.kill()
        now = here.accepted()
        assert now.items() >= accepted.items()
        accepted = now
        hits.append(here.recorded() > before and any(t.reports for t in _running(here)))
    here.run()
    assert here.accepted().items() >= accepted.items()
    return hits


def _running(here: Site) -> list[TrialRecord]:
    begun = (here.directory / "sweep.json").exists()
    return [trial for trial in here.read()[1] if trial.state == "running"] if begun else []


def test_trial_processes_killed_every_few_seconds(tmp_path: Path):
    """Each in the middle of a trial, which another process takes up."""
    kills, dice = count(4, 40), random.Random(0)
    killed: list[tuple[int, int]] = []
    with site(tmp_path, images=256, epochs=60, trials=max(8, kills)) as here:
        command = here.start()
        while len(killed) < kills:
            wait_for_epochs(here, command, dice.randint(20, 30))
            assert command.process.poll() is None, f"over too soon: {command.output()}"
            killed += _kill_one(here, [number for number, _ in killed])
        assert command.wait(1200) == 0, command.output()
        assert_nothing_lost(here, incidents=kills)
        workers = [_workers(trial) for trial in here.read()[1]]
        taken_up = [pid in workers[number][:-1] for number, pid in killed]
        assert sum(taken_up) > kills // 2, (killed, workers)


def _kill_one(here: Site, before: Sequence[int]) -> list[tuple[int, int]]:
    """Kill the process of a trial that is far from its end; both, if there is one.

    Of the trials `before`, one that was hit twice is left alone: it would be given up.
    """
    alive = training(here)
    for trial in _running(here):
        pids, early = _workers(trial), len(trial.reports) < 0.7 * here.epochs
        if early and before.count(trial.number) < 2 and pids and pids[-1] in alive:
            os.kill(pids[-1], signal.SIGKILL)
            return [(trial.number, pids[-1])]
    return []


def _workers(trial: TrialRecord) -> list[int]:
    """The processes that have trained a trial, in order."""
    return list(dict.fromkeys(report["worker"]["pid"] for report in trial.reports))


def training(here: Site) -> list[int]:
    """The processes that train a trial now."""
    found = []
    for pid in here.processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if command.startswith(b"ray::") and b"train" in command:
                found.append(pid)
    return found
