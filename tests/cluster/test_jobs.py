"""A driver as a job of a Ray cluster: launched and resumed there, followed and ended from here."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.heads import BIN, Head, ask, ray_head
from tests.commands import refused
from tests.faults.harness import Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
TOKEN = "7e57" * 16
KEY = {"Authorization": f"Bearer {TOKEN}"}
FIELDS: dict[str, Any] = {"images": 128, "epochs": 30, "trials": 30}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(TOKEN) as head:
        yield head


def detached(here: Site, *command: str) -> str:
    """The job of a command that is left to the cluster."""
    said = here.run(*command, "--detach")
    (job,) = re.findall(r"^faults: submitted as the job (sweep-faults-\w{8})$", said, re.M)
    return job


def told(head: Head, path: str) -> dict[str, Any]:
    """What the server of jobs tells those who may use the cluster."""
    code, body = ask(f"{head.dashboard}/api/jobs/{path}", "GET", KEY)
    assert code == 200, body
    return json.loads(body)


def over(head: Head, job: str) -> bool:
    return told(head, job)["status"] not in ("PENDING", "RUNNING")


def logs(head: Head, job: str) -> str:
    return told(head, f"{job}/logs")["logs"]


def epochs(here: Site) -> int:
    """How many epochs are recorded."""
    if not (here.directory / "sweep.json").exists():
        return 0
    return sum(len(trial.reports) for trial in here.read()[1])


def test_a_sweep_is_left_to_the_cluster_interrupted_resumed_and_finished(
    head: Head, tmp_path: Path
):
    with site(tmp_path, **FIELDS) as here:
        here.environment |= head.variables
        job = detached(here, "launch", "faults.yaml", "--address", head.address)
        until(lambda: epochs(here) > 30 or over(head, job), lambda: logs(head, job), 280)
        info = told(head, job)
        assert info["entrypoint"].startswith("sweep launch ")
        assert TOKEN not in json.dumps(info)
        assert list((here.folder / "sweeps" / ".detached").iterdir()) == []
        assert "running" in here.run("status", "faults")
        accepted = here.accepted()
        stop = [BIN / "ray", "job", "stop", "--address", head.dashboard, job]
        subprocess.run(stop, env=os.environ | head.variables, capture_output=True, check=True)
        assert told(head, job)["status"] == "STOPPED", logs(head, job)
        assert here.read()[0].state == "interrupted", logs(head, job)
        before = epochs(here)
        job = detached(here, "resume", "faults", "--address", head.dashboard)
        until(lambda: epochs(here) > before or over(head, job), lambda: logs(head, job), 280)
        said = here.run("stop", "faults")
        assert "over once the running ones" in said, said + logs(head, job)
        until(lambda: over(head, job), lambda: logs(head, job), 280)
        assert told(head, job)["status"] == "SUCCEEDED", logs(head, job)
        assert TOKEN not in logs(head, job)
        assert_nothing_lost(here, accepted, state="stopped")


def test_no_secret_goes_into_a_job(head: Head, tmp_path: Path):
    command = ["launch", "quickstart", "--detach", "--address", head.address]
    said = refused(
        *(tmp_path, *command, "--storage", "postgresql://ada:canary@host/db"),
        code=2,
        **head.variables,
    )
    assert said.startswith("with --detach --storage must hold no password, for ")
    uri = "http://ada:canary@host:5000"
    more = refused(tmp_path, *command, code=2, MLFLOW_TRACKING_URI=uri, **head.variables)
    assert more.startswith("with --detach MLFLOW_TRACKING_URI must hold no password, for ")
    keys = ("--checkpoints", "s3://ada:canary@states/sweeps")
    last = refused(tmp_path, *command, *keys, code=2, **head.variables)
    assert last.startswith("checkpoints must go to s3://BUCKET/FOLDER or gs://")
    assert "canary" not in said + more + last


def test_a_job_is_told_where_the_ledger_and_the_checkpoints_go(head: Head, tmp_path: Path):
    with site(tmp_path, **FIELDS) as here:
        here.environment |= head.variables
        where = ("--storage", "sqlite:////folder/studies.db", "--checkpoints", "s3://states/sweeps")
        job = detached(here, "launch", "faults.yaml", "--address", head.address, *where)
        assert " ".join(where) in told(head, job)["entrypoint"]


def test_who_has_no_token_leaves_no_job(head: Head, tmp_path: Path):
    for address in (head.address, head.dashboard.replace("127.0.0.1", "localhost")):
        command = ("launch", "quickstart", "--detach", "--address", address)
        said = refused(tmp_path, *command, code=2 if address == head.address else 5)
        assert "token" in said.lower()
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_job_needs_a_cluster_that_stays(tmp_path: Path):
    assert refused(tmp_path, "launch", "quickstart", "--detach", code=2).startswith(
        "--detach needs a Ray cluster that stays when this command has ended; "
    )
