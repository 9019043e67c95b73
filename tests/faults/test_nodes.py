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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.counts import count
from tests.faults.harness import Command, Site, assert_nothing_lost, site, until

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
FIELDS: dict[str, Any] = {"epochs": 30, "trials": 9}


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
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
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


def pids_of(here: Site) -> set[int]:
    """The processes that have trained epochs of trials."""
    return {report["worker"]["pid"] for trial in here.read()[1] for report in trial.reports}


def launched(here: Site, nodes: Nodes) -> Command:
    """The sweep on these nodes, once the last of them trains too."""
    command = here.start("launch", "faults.yaml", "--address", nodes.address)
    begun = (here.directory / "sweep.json").exists
    until(
        lambda: (begun() and pids_of(here) & set(nodes.processes(2))) or ended(command),
        command.output,
        280,
    )
    assert not ended(command), command.output()
    return command


def ended(command: Command) -> bool:
    return command.process.poll() is not None


@pytest.mark.parametrize("seed", range(count(1, 5)))
def test_the_trials_of_a_killed_node_go_on_elsewhere(seed: int, tmp_path: Path) -> None:
    with site(tmp_path, **FIELDS) as here:
        with cluster(here) as nodes:
            command = launched(here, nodes)
            time.sleep(random.Random(seed).uniform(0, 1))
            accepted, gone = here.accepted(), nodes.signal(2, signal.SIGKILL)
            assert command.wait() == 0, command.output()
            assert pids_of(here) & set(gone)
        assert_nothing_lost(here, accepted, incidents=1)


def test_the_trials_of_a_frozen_node_go_on_elsewhere(tmp_path: Path) -> None:
    with site(tmp_path, **FIELDS) as here:
        with cluster(here) as nodes:
            command = launched(here, nodes)
            accepted, frozen = here.accepted(), nodes.signal(2, signal.SIGSTOP)
            recorded = here.recorded()
            until(
                lambda: here.recorded() >= recorded + 100 or ended(command),
                command.output,
                280,
            )
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            assert command.wait() == 0, command.output()
        assert_nothing_lost(here, accepted, incidents=1)
