"""The head of a cluster goes away in the middle of a sweep, for a moment and for good."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.heads import Head, ray_head
from tests.faults.harness import Command, Site, assert_nothing_lost, projected, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
TOKEN = "7e57" * 16


def server(head: Head) -> int:
    """The process that answers for the head."""
    (found,) = (
        pid
        for pid in head.processes()
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/gcs_server")
    )
    return found


def train(here: Site, command: Command, epochs: int) -> None:
    """Wait until so many more are recorded."""
    due = here.recorded() + epochs
    over = command.process.poll
    until(lambda: here.recorded() >= due or over() is not None, command.output, 280)
    assert over() is None, command.output()


def test_a_sweep_outlives_a_head_that_is_slow_and_is_told_of_one_that_is_gone(tmp_path: Path):
    """Frozen for a while, and then killed; another cluster goes on."""
    with site(tmp_path, images=128, epochs=80, trials=4) as here, ray_head(TOKEN) as head:
        command = here.start("launch", "faults.yaml", "--address", head.address, **head.variables)
        train(here, command, 10)
        os.kill(server(head), signal.SIGSTOP)
        time.sleep(5)
        os.kill(server(head), signal.SIGCONT)
        train(here, command, 10)
        accepted = here.accepted()
        os.kill(server(head), signal.SIGKILL)
        with ray_head(TOKEN) as other:
            assert command.wait(50) == 5, command.output()
            assert f"the head of the Ray cluster at {head.address} must answer" in command.output()
            again = f"go on with: sweep resume faults --address {head.address}\n"
            assert again in command.output()
            assert here.processes() == []
            sweep, trials = here.read()
            assert sweep.state == "interrupted"
            assert projected(here).parent.data.tags["sweep.state"] == "interrupted"
            assert {trial.state for trial in trials} >= {"running"}
            command = here.start("resume", "faults", "--address", other.address, **other.variables)
            assert command.wait() == 0, command.output()
        assert_nothing_lost(here, accepted, incidents=1)
