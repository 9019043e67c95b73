"""A driver as a job of a Ray cluster: launched and resumed there, followed and ended from here."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.heads import BIN, Head, ray_head
from tests.faults.harness import Site, assert_nothing_lost, site, until
from tests.sweep.test_cli import refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
TOKEN = "7e57" * 16
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


def job_info(head: Head, job: str) -> dict[str, Any]:
    """What anyone who may use the cluster is told of a job."""
    script = "import json, sys; from ray.job_submission import JobSubmissionClient as Client\n"
    script += "info = Client(sys.argv[1]).get_job_info(sys.argv[2])\n"
    script += "print(json.dumps([str(info.status), info.entrypoint, info.runtime_env]))"
    done = subprocess.run(
        [BIN / "python", "-c", script, head.dashboard, job],
        env=os.environ | head.variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(("status", "entrypoint", "environment"), json.loads(done.stdout), strict=True))


def over(head: Head, job: str) -> bool:
    return "RUNNING" not in job_info(head, job)["status"]


def logs(head: Head, job: str) -> str:
    command = [BIN / "ray", "job", "logs", "--address", head.dashboard, job]
    done = subprocess.run(
        command, env=os.environ | head.variables, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def begun(here: Site, epochs: int) -> bool:
    """Whether the sweep has recorded so many epochs more than nothing."""
    if not (here.directory / "sweep.json").exists():
        return False
    return sum(len(trial.reports) for trial in here.read()[1]) >= epochs


def test_a_sweep_is_left_to_the_cluster_interrupted_resumed_and_finished(
    head: Head, tmp_path: Path
):
    with site(tmp_path, **FIELDS) as here:
        here.environment |= head.variables
        job = detached(here, "launch", "faults.yaml", "--address", head.address)
        told = job_info(head, job)
        assert told["entrypoint"].startswith("sweep launch ")
        assert TOKEN not in json.dumps(told)
        until(lambda: begun(here, 40) or over(head, job), lambda: logs(head, job), 200)
        assert "running" in here.run("status", "faults")
        accepted = here.accepted()
        stop = [BIN / "ray", "job", "stop", "--address", head.dashboard, job]
        subprocess.run(stop, env=os.environ | head.variables, capture_output=True, check=True)
        assert job_info(head, job)["status"].endswith("STOPPED"), logs(head, job)
        until(lambda: here.read()[0].state == "interrupted", lambda: logs(head, job))
        job = detached(here, "resume", "faults", "--address", head.dashboard)
        until(
            lambda: len(here.accepted()) > len(accepted) or over(head, job),
            lambda: logs(head, job),
            200,
        )
        said = here.run("stop", "faults")
        assert "over once the running ones" in said, said + logs(head, job)
        until(lambda: over(head, job), lambda: logs(head, job), 200)
        assert job_info(head, job)["status"].endswith("SUCCEEDED"), logs(head, job)
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
    assert "canary" not in said + more


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
