"""What is said of a cluster before anything is made on it: versions, folders, room for a trial."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.harness import SWEEP, Command, Site, site, until
from tests.missing import missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
like, unlike = sys.argv[1:]
cluster = Cluster()
cluster.add_node(num_cpus=0, include_dashboard=False)
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    path = {"like": "", "unlike": unlike, "nearly": like}[line.strip()]
    node = cluster.add_node(num_cpus=2, num_gpus=1, env_vars={"PYTHONPATH": path})
    print(json.dumps(node.node_ip_address), flush=True)
cluster.shutdown()
"""
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "JAX_PLATFORMS": "cpu",
}


class Cluster(NamedTuple):
    """A head without cores, and an address to add nodes to."""

    address: str
    process: "subprocess.Popen[str]"

    def add(self, kind: str) -> None:
        """A node of two cores, with packages that are like the driver's, nearly so, or unlike."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{kind}\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline())


def pretending(folder: Path, package: str) -> Path:
    """A folder which, found first, says that a package has version 0.0.1."""
    facts = folder / package / f"{package}-0.0.1.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n")
    return folder / package


@contextlib.contextmanager
def cluster(here: Site) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray")  # a socket's path is short
    Path(folder, "ray").mkdir()
    here.environment |= SETTINGS | {"RAY_TMPDIR": folder}
    paths = [str(pretending(here.folder, package)) for package in ("optax", "sweep")]
    with (here.folder / "cluster.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, *paths],
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
        yield Cluster(json.loads(process.stdout.readline()), process)
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.stdout.close()
        here.end_processes()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def hidden(here: Site, *words: str) -> Command:
    """A command that alone sees what is in its sweeps folder, as if no other machine did."""
    sweeps = here.folder / "sweeps"
    sweeps.mkdir()
    script = f"mount -t tmpfs tmpfs {sweeps} && exec {SWEEP} {' '.join(words)}"
    command = ["unshare", "--mount", "sh", "-c", script]
    if subprocess.run([*command[:2], "true"], capture_output=True, check=False).returncode:
        missing("a namespace of mounts must be made, which is refused")
    here.commands.append(Command(here.folder, command, here.environment))
    return here.commands[-1]


def test_a_cluster_is_looked_at_before_anything_is_made_there(tmp_path: Path) -> None:
    """The first node is waited for; then a folder, and then a version, is not the driver's."""
    with site(tmp_path / "site", trials=2, epochs=2) as here, cluster(here) as nodes:
        words = ("launch", "faults.yaml", "--address", nodes.address)
        command = here.start(*words)
        command.says("no node holds a trial yet; waiting up to 10 min for one to join")
        nodes.add("nearly")
        assert command.wait() == 0, command.output()
        assert "has optax 0.0.1, where the driver has" in command.output()
        assert {trial.state for trial in here.read()[1]} == {"complete"}
        for trial in here.read()[1]:
            assert trial.reports[-1]["worker"]["gpu_ids"] == []
        here.directory.rename(here.folder / "done")
        shutil.rmtree(here.folder / "sweeps")

        command = hidden(here, *words)
        assert command.wait() == 2, command.output()
        assert f"the folder {here.folder / 'sweeps'} must be the same on every node, but node" in (
            command.output()
        )
        assert "it does not see what the driver wrote there" in command.output()
        assert "--sweeps-dir" in command.output()

        nodes.add("unlike")
        told = here.run(*words, code=2)
        assert "must have the same Python, sweep and Ray, but node" in told
        assert "has sweep 0.0.1, where the driver has" in told
        assert "Traceback" not in told
        assert not here.directory.exists()
        assert list((here.folder / "sweeps").glob(".reach-*")) == []

        (tmp_path / "sitecustomize.py").write_text("import ray; ray.__version__ = '0.0.1'\n")
        told = here.run(*words, code=2, PYTHONPATH=str(tmp_path))
        assert "driver and cluster must have the same versions of Python and Ray, but" in told
        assert "Ray: 0.0.1" in told
        assert "Traceback" not in told

        told = here.run("doctor", "--json", "--address", nodes.address, code=5)
        checks = {check["name"]: check for check in json.loads(told[told.index("[\n") :])}
        assert checks["nodes"]["state"] == "bad"
        assert checks["nodes"]["text"].startswith("3 nodes; ")
        assert "1 GPUs, JAX sees none" in checks["nodes"]["text"]
        assert "has sweep 0.0.1" in checks["nodes"]["text"]


def workers(here: Site) -> set[int]:
    """The processes that have trained so far."""
    begun = (here.directory / "sweep.json").exists()
    trials = here.read()[1] if begun else []
    return {report["worker"]["pid"] for trial in trials for report in trial.reports}


def ended(command: Command) -> bool:
    return command.process.poll() is not None


def test_more_than_any_node_has_is_refused_unless_the_cluster_may_grow(tmp_path: Path) -> None:
    """And a node that joins while short trials run gets its share, and is asked what it is like."""
    with site(tmp_path / "site", trials=2, epochs=2) as here, cluster(here) as nodes:
        nodes.add("like")
        words = ("launch", "faults.yaml", "--address", nodes.address, "--set")
        told = here.run(*words, "resources={cpus_per_trial: 3}", code=2)
        assert "cpus_per_trial must fit on one node, but got 3" in told
        assert "for a cluster that grows on demand, set resources.max_concurrent" in told
        assert "waiting" not in told
        command = here.start(*words, "resources={cpus_per_trial: 3, max_concurrent: 1}")
        command.says("no node holds a trial yet; waiting up to 10 min")
        command.kill()

        # Trials that end far more often than a worker takes to start.
        each = "resources={cpus_per_trial: 1, gpus_per_trial: 0.5}"
        command = here.start(*words, each, "--set", "search.num_trials=5000")
        until(lambda: len(workers(here)) == 2 or ended(command), command.output, 280)
        checks = json.loads(here.run("doctor", "--json", "--address", nodes.address))
        (found,) = (check for check in checks if check["name"] == "nodes")
        assert found["state"] == "ok"
        assert "1 GPUs, JAX was not asked: its GPUs are in use" in found["text"]
        nodes.add("unlike")
        command.says("has sweep 0.0.1, where the driver has .*: its trials may fail")
        command.says("the cluster now holds 4 trials at once, on 3 nodes")
        until(lambda: len(workers(here)) == 4 or ended(command), command.output, 280)
        assert len(workers(here)) == 4, command.output()
        here.run("cancel", "faults")
        assert command.wait() == 1, command.output()
