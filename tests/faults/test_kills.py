"""The driver and the trials' processes are killed, again and again."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


def test_a_driver_killed_at_random_instants(tmp_path: Path):
    """Each after some seconds of its own; a sweep that ends before is begun again elsewhere."""
    instants, left, sites = random.Random(0), count(3, 50), 0
    while left:
        sites += 1
        with site(tmp_path / str(sites), epochs=60) as here:
            kills = _killed(here, instants, left)
            assert_nothing_lost(here, incidents=kills)
        left -= kills


def _killed(here: Site, instants: random.Random, most: int) -> int:
    """Start the sweep and kill it, until it finishes; how often it was killed."""
    accepted: dict = {}
    for kills in range(most):
        command = here.start()
        with contextlib.suppress(TimeoutError):
            command.wait_for(instants.uniform(4, 20))
        if command.process.poll() is not None:
            assert command.wait() == 0, command.output()
            return kills
        command.kill()
        now = here.accepted()
        assert now.items() >= accepted.items()
        accepted = now
    here.run()
    assert here.accepted().items() >= accepted.items()
    return most


def test_trial_processes_killed_every_few_seconds(tmp_path: Path):
    kills, done = count(4, 40), 0
    with site(tmp_path, epochs=60, trials=max(16, kills)) as here:
        command = here.start()
        while done < kills and command.process.poll() is None:
            time.sleep(2)
            for pid in _training(here)[:1]:
                os.kill(pid, signal.SIGKILL)
                done += 1
        assert command.wait(1200) == 0, command.output()
        assert done == kills, "the sweep was over too soon"
        assert_nothing_lost(here, incidents=done)


def _training(here: Site) -> list[int]:
    """The processes that train a trial now."""
    found = []
    for pid in here.processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if command.startswith(b"ray::") and b"train" in command:
                found.append(pid)
    return found
