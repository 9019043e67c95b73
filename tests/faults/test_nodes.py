"""A sweep on three Ray nodes, of which one is killed, or frozen and thawed again."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sweep.records import TrialRecord
from tests.faults.counts import count
from tests.faults.harness import Command, Site, assert_nothing_lost, signalled, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
# A node that has not answered for 10 s is given up.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster()
nodes = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(3)]
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
FIELDS: dict[str, Any] = {"images": 256, "epochs": 60, "trials": 9, "at_once": 3}


class Nodes(NamedTuple):
    """Three nodes of one CPU each; the first is the head, and is left alone."""

    address: str
    raylets: list[int]

    def processes(self, index: int) -> list[int]:
        """A node's raylet and all that it has started."""
        found = [self.raylets[index]]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def signal(self, index: int, number: int) -> list[int]:
        pids = self.processes(index)
        signalled(pids, number)
        return pids


@contextlib.contextmanager
def cluster(here: Site) -> Iterator[Nodes]:
    """Three nodes on this machine, whose workers leave their marks at `here`."""
    folder = tempfile.mkdtemp(prefix="ray")  # a socket's path is short
    Path(folder, "ray").mkdir()
    variables = SETTINGS | {"RAY_TMPDIR": folder}
    here.environment |= variables
    with (here.folder / "cluster.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=os.environ | here.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Nodes(**json.loads(process.stdout.readline()))
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.stdout.close()
        here.end_processes()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def ended(command: Command) -> bool:
    return command.process.poll() is not None


def cut_by(here: Site, pids: Sequence[int]) -> list[TrialRecord]:
    """The running trials in their first half whose last epoch one of these processes trained."""
    begun = (here.directory / "sweep.json").exists()
    return [
        trial
        for trial in (here.read()[1] if begun else [])
        if trial.state == "running"
        and 0 < 2 * len(trial.reports) < here.epochs
        and trial.reports[-1]["worker"]["pid"] in pids
    ]


def gone_on(here: Site, pids: Sequence[int]) -> list[int]:
    """The trials that these processes have trained, and then others."""
    found = []
    for trial in here.read()[1]:
        theirs = [report["worker"]["pid"] in pids for report in trial.reports]
        if any(theirs) and not theirs[-1]:
            found.append(trial.number)
    return found


def struck(here: Site, nodes: Nodes, command: Command, index: int, number: int) -> list[int]:
    """Send a signal to a node that is in the middle of a trial; its processes."""
    until(
        lambda: cut_by(here, nodes.processes(index)) or ended(command),
        command.output,
        280,
    )
    assert not ended(command), command.output()
    return nodes.signal(index, number)


def wait_for_others(here: Site, command: Command, pids: Sequence[int]) -> None:
    """Wait until a trial of these processes is trained by others."""
    until(lambda: gone_on(here, pids) or ended(command), command.output, 280)
    assert gone_on(here, pids), command.output()


@pytest.mark.parametrize("seed", range(count(1, 5)))
def test_the_trials_of_a_lost_node_go_on_elsewhere(seed: int, tmp_path: Path) -> None:
    """One node is killed. Then one is frozen, until it is given up and another has its trial."""
    dice = random.Random(seed)
    with site(tmp_path, **FIELDS) as here:
        with cluster(here) as nodes:
            command = here.start("launch", "faults.yaml", "--address", nodes.address)
            killed = struck(here, nodes, command, 2, signal.SIGKILL)
            accepted = here.accepted()
            wait_for_others(here, command, killed)
            time.sleep(dice.uniform(0, 0.5))
            frozen = struck(here, nodes, command, 1, signal.SIGSTOP)
            accepted |= here.accepted()
            wait_for_others(here, command, frozen)
            signalled(frozen, signal.SIGCONT)
            assert command.wait() == 0, command.output()
        assert_nothing_lost(here, accepted, incidents=2, thawed=True)
