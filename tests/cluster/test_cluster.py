"""Sweeps on Ray nodes in network namespaces of their own, of which one is lost and one joins.

Each node has two GPUs that only Ray counts. The ledger and MLflow are on PostgreSQL, MLflow asks
for a password and Ray for a token, and the folder of the sweep is what all nodes share.
"""

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient

from sweep.delivery import read_status
from sweep.records import TrialRecord
from tests.cluster.namespaces import Machines, machines, network
from tests.cluster.servers import mlflow_with_password, postgres
from tests.faults.counts import count
from tests.faults.harness import SWEEP, Command, Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

TRIALS = count(12, 40)
HEAD, LOST, KEPT, LATE = range(4)


class Place(NamedTuple):
    """What the sweeps need: three nodes that are up, a ledger and a tracking server."""

    nodes: Machines
    storage: str
    here: Site


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, manual_dir: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "mlflow").mkdir()
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(4))
        database = stack.enter_context(postgres(net.outside))
        server = stack.enter_context(mlflow_with_password(database, folder / "mlflow"))
        changed = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "PGPASSWORD": database.password,
            "MLFLOW_TRACKING_USERNAME": server.user,
            "MLFLOW_TRACKING_PASSWORD": server.password,
            "SWEEP_MANUAL_DIR": str(manual_dir),
            "SWEEP_CACHE_DIR": str(folder / "cache"),
        }.items():
            changed.setenv(name, value)
        fields = {"images": 512, "epochs": 20, "trials": TRIALS, "at_once": 8}
        here = stack.enter_context(site(folder / "site", server.uri, **fields))
        here.environment["JAX_PLATFORMS"] = "cpu"  # whatever this machine has
        up = (HEAD, LOST, KEPT)
        nodes = stack.enter_context(machines(net, here.environment, up, cpus=2, gpus=2))
        yield Place(nodes, database.new_database(), here)


def launch(place: Place, here: Site, *settings: str) -> Command:
    """Start a sweep from the head node."""
    words = [SWEEP, "launch", "faults.yaml", "--address", place.nodes.address]
    words += ["--storage", place.storage, "--name", here.directory.name]
    words += [word for setting in settings for word in ("--set", setting)]
    command = place.nodes.net.command(HEAD, *words)
    here.commands.append(Command(here.folder, command, here.environment | place.nodes.secret))
    return here.commands[-1]


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


def test_whole_gpus_while_a_node_is_lost_and_another_joins(place: Place) -> None:
    """And then halves of GPUs, on two nodes that are left; at the end nothing is lost of either."""
    here, net = place.here, place.nodes.net
    command = launch(
        place,
        here,
        "data.dataset=fashion_mnist",
        "resources={gpus_per_trial: 1, cpus_per_trial: 1}",
    )
    until(lambda: (here.directory / "sweep.json").exists(), command.output, 280)
    place.nodes.start(LATE)
    until(lambda: trained_on(here, net.address(LOST)), command.output, 280)
    accepted = here.accepted()
    assert net.kill(LOST)
    assert command.wait(900) == 0, command.output() + place.nodes.logs()
    assert "the cluster now holds 8 trials at once" in command.output()
    assert "the cluster now holds 6 trials at once" in command.output()
    _, trials = here.read()
    on = spans(trials)
    assert {node for node, _ in on} == {net.address(index) for index in range(4)}
    assert {gpu for _, gpu in on} == {"0", "1"}
    assert {most_at_once(on_one) for on_one in on.values()} == {1}
    held = MlflowClient(here.tracking_uri).search_runs(
        [read_status(here.directory).experiment_id or ""], "tags.`sweep.kind` = 'trial'"
    )
    assert len(held) == TRIALS
    assert {run.data.tags["worker.gpu_ids"] for run in held} == {"0", "1"}

    marks = (here.marks / "passed").read_bytes()  # the nodes leave those of both sweeps there
    with site(here.folder.parent / "halves", here.tracking_uri, trials=12, epochs=60) as halves:
        halves.environment = here.environment | {"SWEEP_FAULT_SITE": halves.identity}
        halves.directory = halves.folder / "sweeps" / "halves"
        net.kill(KEPT)  # eight trials at once are enough
        second = launch(place, halves, "resources={gpus_per_trial: 0.5, cpus_per_trial: 1}")
        assert second.wait(900) == 0, second.output() + place.nodes.logs()
        packed = spans(halves.read()[1])
        assert max(most_at_once(on_one) for on_one in packed.values()) == 2
        for index in (HEAD, LATE):
            net.kill(index)
        halves.marks.joinpath("passed").write_bytes(b"")
        assert_nothing_lost(halves)
    (here.marks / "passed").write_bytes(marks)
    assert_nothing_lost(here, accepted, incidents=2)
    shutil.rmtree(os.environ["SWEEP_CACHE_DIR"])
