"""Sweeps on the services of docker/compose.yaml, each in a network namespace of its own.

Each Ray node has two GPUs that only Ray counts; one node is lost, and one joins. The ledger and
MLflow are on PostgreSQL, MLflow asks for a password and Ray for a token, and the folder of the
sweeps is what the nodes share.
"""

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow import MlflowClient

from sweep.delivery import read_status
from sweep.records import TrialRecord
from tests.cluster.compose import DOCKER, Machines, machines
from tests.cluster.namespaces import OUTSIDE, network
from tests.cluster.servers import postgres
from tests.faults.counts import count
from tests.faults.harness import SWEEP, Command, Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

TRIALS = count(12, 40)
HEAD, LOST, KEPT, LATE, MLFLOW = range(5)
STORAGE = "postgresql://sweep@postgres/sweep"
# Beside what compose.yaml says: the head runs trials too, and takes jobs from other machines.
HAS = ("--num-cpus=2", "--num-gpus=2")
OPTIONS = {"head": (*HAS, "--dashboard-host=0.0.0.0"), "worker": HAS}


class Place(NamedTuple):
    """What the sweeps need: three nodes that are up, and the site of the first of them."""

    nodes: Machines
    here: Site

    def command(self, site: Site, index: int, service: str, *words: str) -> Command:
        """A command of sweep, in a namespace, that knows what those in a service's container do."""
        whole = self.nodes.command(index, service, SWEEP, *words)
        variables = self.nodes.environment(service) | {"SWEEP_FAULT_SITE": site.identity}
        site.commands.append(Command(site.folder, whole, variables))
        return site.commands[-1]

    def run(self, site: Site, index: int, service: str, *words: str) -> str:
        """What such a command prints."""
        command = self.command(site, index, service, *words)
        assert command.wait() == 0, command.output() + self.nodes.logs()
        return command.output()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, manual_dir: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(5, {"head": HEAD, "mlflow": MLFLOW, "postgres": OUTSIDE}))
        uri = f"http://{net.address(MLFLOW)}:5000"  # for this process, which knows no such names
        fields = {"images": 512, "epochs": 20, "trials": TRIALS, "at_once": 8}
        here = stack.enter_context(site(folder / "site", uri, **fields))
        sweeps = here.directory.parent
        del here.environment["MLFLOW_TRACKING_URI"]
        here.environment["JAX_PLATFORMS"] = "cpu"  # whatever this machine has
        here.environment["SWEEP_MANUAL_DIR"] = str(manual_dir)
        served = {"ARTIFACTS": str(folder), "MLFLOW_ALLOWED_HOSTS": f"mlflow:5000,{uri[7:]}"}
        variables = {"head": here.environment, "worker": here.environment, "mlflow": served}
        nodes = stack.enter_context(machines(net, sweeps, variables, OPTIONS))
        password = nodes.secret("postgres_password")
        database = stack.enter_context(postgres(net.outside, 5432, password))
        database.run("CREATE DATABASE sweep")
        database.run((DOCKER / "databases.sql").read_text())
        changed = stack.enter_context(pytest.MonkeyPatch.context())
        changed.setenv("PGHOSTADDR", net.outside)
        changed.setenv("PGPASSWORD", password)
        changed.setenv("MLFLOW_TRACKING_USERNAME", "sweep")
        changed.setenv("MLFLOW_TRACKING_PASSWORD", nodes.secret("mlflow_password"))
        changed.setenv("XDG_CACHE_HOME", str(sweeps / ".cache"))
        changed.delenv("SWEEP_CACHE_DIR", raising=False)
        nodes.start(MLFLOW, "mlflow")
        nodes.start_node(HEAD)
        nodes.await_mlflow(uri)
        nodes.await_nodes(1)
        nodes.start_node(LOST)
        nodes.start_node(KEPT)
        nodes.await_nodes(3)
        yield Place(nodes, here)


Span = tuple[int, int, int]  # a trial's number, its first and its last record in milliseconds


def spans(trials: list[TrialRecord]) -> dict[tuple[str, str], list[Span]]:
    """When trials were recorded on each GPU of each node, one span for each worker."""
    times: dict[tuple[str, str, int, int], list[int]] = defaultdict(list)
    for trial in trials:
        for report in trial.reports:
            worker = report["worker"]
            assert worker["device_kind"]
            assert len(worker["gpu_ids"]) == 1
            key = worker["node"], worker["gpu_ids"][0], trial.number, worker["pid"]
            times[key].append(report["timestamp_ms"])
    found: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for (node, gpu, number, _), stamps in times.items():
        found[node, gpu].append((number, min(stamps), max(stamps)))
    return found


def most_at_once(on_one: list[Span]) -> int:
    """How many trials are on a GPU where there are most of them."""
    starts = [start for _, start, _ in on_one]
    return max(sum(start <= moment <= end for _, start, end in on_one) for moment in starts)


def trained_on(here: Site, address: str) -> list[TrialRecord]:
    """The running trials, not yet at their middle, whose last epoch that node trained."""
    begun = (here.directory / "sweep.json").exists()
    return [
        trial
        for trial in (here.read()[1] if begun else [])
        if trial.state == "running"
        and 0 < 2 * len(trial.reports) < here.epochs
        and trial.reports[-1]["worker"]["node"] == address
    ]


def whole_gpus(place: Place) -> dict[int, dict[str, Any]]:
    """A sweep from the head, whose trials have a GPU each; what it had accepted before the loss."""
    here, nodes = place.here, place.nodes
    words = ("launch", "faults.yaml", "--address", "auto", "--storage", STORAGE)
    each = "resources={gpus_per_trial: 1, cpus_per_trial: 1}"
    data = "data.dataset=fashion_mnist"
    command = place.command(here, HEAD, "head", *words, "--set", each, "--set", data)
    until(lambda: (here.directory / "sweep.json").exists(), command.output, 280)
    nodes.start_node(LATE)
    until(lambda: trained_on(here, nodes.net.address(LOST)), command.output, 280)
    accepted = here.accepted()
    assert nodes.net.kill(LOST)
    assert command.wait(900) == 0, command.output() + nodes.logs()
    assert "the cluster now holds 8 trials at once" in command.output()
    assert "the cluster now holds 6 trials at once" in command.output()
    on = spans(here.read()[1])
    assert {node for node, _ in on} == {nodes.net.address(index) for index in range(4)}
    assert {gpu for _, gpu in on} == {"0", "1"}
    assert {most_at_once(on_one) for on_one in on.values()} == {1}
    held = MlflowClient(here.tracking_uri).search_runs(
        [read_status(here.directory).experiment_id or ""], "tags.`sweep.kind` = 'trial'"
    )
    assert len(held) == TRIALS
    assert {run.data.tags["worker.gpu_ids"] for run in held} == {"0", "1"}
    return accepted


def packed(halves: Site) -> int:
    """How many trials were on a GPU where there were most of them."""
    begun = (halves.directory / "sweep.json").exists()
    on = spans(halves.read()[1] if begun else [])
    return max(map(most_at_once, on.values()), default=0)


def halves_of_gpus(place: Place, halves: Site) -> None:
    """A job from a worker, which has no password; watched and stopped from a machine that has."""
    each = "resources={gpus_per_trial: 0.5, cpus_per_trial: 1}"
    words = ("launch", "faults.yaml", "--name", "halves", "--storage", STORAGE, "--set", each)
    there = ("--detach", "--address", "http://head:8265")
    said = place.run(halves, LATE, "worker", *words, *there)
    assert said.startswith("halves: submitted as the job sweep-halves-")
    until(lambda: packed(halves) == 2, place.nodes.logs, 280)
    assert "running" in place.run(halves, KEPT, "head", "status", "halves")
    watch = place.command(halves, KEPT, "head", "watch", "halves")
    said = place.run(halves, KEPT, "head", "stop", "halves")
    assert "over once the running ones" in said, said
    assert watch.wait(600) == 0, watch.output() + place.nodes.logs()
    assert "it was stopped" in watch.output()
    assert packed(halves) == 2
    assert "stopped" in place.run(halves, KEPT, "head", "status", "halves")


def test_a_node_is_lost_another_joins_and_the_next_sweep_is_left_to_the_cluster(
    place: Place,
) -> None:
    """Whole GPUs and then halves; at the end nothing is lost of either sweep."""
    here, net = place.here, place.nodes.net
    accepted = whole_gpus(place)
    marks = (here.marks / "passed").read_bytes()  # the nodes leave those of both sweeps there
    fields = {"trials": 40, "epochs": 30}
    with site(here.folder.parent / "halves", here.tracking_uri, **fields) as halves:
        halves.environment = here.environment
        halves.directory = here.directory.with_name("halves")
        net.kill(KEPT)  # now a machine that is no node
        halves_of_gpus(place, halves)
        for index in (HEAD, LATE):
            net.kill(index)
        assert_nothing_lost(halves, state="stopped")
    (here.marks / "passed").write_bytes(marks)
    assert_nothing_lost(here, accepted, incidents=2)
    shutil.rmtree(here.directory.with_name(".cache"))
