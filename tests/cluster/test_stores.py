"""Checkpoints in an object store: a real server of the S3 protocol, and sweeps that are broken."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.faults.harness import Site, assert_nothing_lost
from tests.faults.test_kills import training, wait_for_epochs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the server's own sockets
]
BUCKET = "states"


class StoreSite(Site):
    """A sweep whose checkpoints go to a bucket."""

    def __init__(self, folder: Path, port: int, **fields: Any):
        super().__init__(folder, **fields)
        self.keys = {
            "AWS_ACCESS_KEY_ID": "sweep",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
        self.environment |= self.keys
        self.bucket = boto3.client(
            "s3",
            endpoint_url=self.keys["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="sweep",
            aws_secret_access_key="not-a-secret",
        )

    def launch(self, place: str = f"s3://{BUCKET}/sweeps"):
        return self.start("launch", "faults.yaml", "--checkpoints", place)

    def objects(self) -> list[str]:
        """The states in the bucket; Arrow puts marks for folders beside them."""
        found = self.bucket.list_objects_v2(Bucket=BUCKET).get("Contents", ())
        return sorted(entry["Key"] for entry in found if not entry["Key"].endswith("/"))

    def local_states(self) -> list[Path]:
        return list(self.directory.glob("trials/*/checkpoint*"))


@pytest.fixture
def server() -> Iterator[ThreadedMotoServer]:
    """The store, on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def here(tmp_path: Path, server: ThreadedMotoServer) -> Iterator[StoreSite]:
    made = StoreSite(tmp_path / "site", server._port, images=256, epochs=12, trials=5)
    made.bucket.create_bucket(Bucket=BUCKET)
    try:
        yield made
    finally:
        made.end_processes()


def test_workers_and_drivers_are_killed_and_the_newest_state_is_damaged(here: StoreSite) -> None:
    command = here.launch()
    wait_for_epochs(here, command, 5)
    assert here.local_states() == []
    os.kill(training(here)[0], signal.SIGKILL)
    wait_for_epochs(here, command, 10)
    command.kill()
    # Two, and one more where the kill came before the oldest was dropped.
    assert all(len(states) <= 3 for states in by_trial(here).values())
    cut = [f"/{trial.number:04d}/" for trial in here.read()[1] if trial.state == "running"]
    states = [key for key in here.objects() if any(folder in key for folder in cut)]
    newest = max(states, key=lambda key: key.rsplit("/", 1)[1])
    here.bucket.put_object(Bucket=BUCKET, Key=newest, Body=b"sweep-checkpoint 1 damaged")
    accepted = here.accepted()
    here.run()
    # The damaged state was that of an epoch that was recorded: it is trained again, once.
    assert_nothing_lost(here, accepted, incidents=3, thawed=True)
    assert here.objects() == []


def test_a_sweep_that_was_interrupted_and_stopped_leaves_nothing_in_the_store(
    here: StoreSite,
) -> None:
    """Neither the states of complete trials, which are brought here, nor those of the others."""
    command = here.launch()
    wait_for_epochs(here, command, 26)  # of two at once, so that one is complete
    command.process.terminate()
    assert command.wait() == 143, command.output()
    assert here.objects() != []
    here.run("stop", "faults")
    assert here.objects() == []
    states = {trial.number: trial.state for trial in here.read()[1]}
    assert set(states.values()) == {"complete", "cancelled"}, states
    assert all(here.keeps(number) == (state == "complete") for number, state in states.items())


def by_trial(here: StoreSite) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in here.objects():
        found.setdefault(key.rsplit("/", 1)[0], []).append(key)
    return found


def test_a_store_that_is_away_for_a_moment_changes_nothing(
    here: StoreSite, server: ThreadedMotoServer
) -> None:
    command = here.launch()
    wait_for_epochs(here, command, 4)
    server.stop()
    time.sleep(4)
    server.start()
    assert command.wait() == 0, command.output()
    assert_nothing_lost(here, incidents=0)


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("s3://another/sweeps", 5, r"must be a store that workers write.*\bbucket\b"),
        ("s3://key:secret@states/sweeps", 2, "without keys"),
        ("ftp://states/sweeps", 2, "must go to s3://BUCKET/FOLDER or gs://"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(
    here: StoreSite, place: str, code: int, said: str
) -> None:
    command = here.launch(place)
    assert command.wait() == code, command.output()
    command.says(said.replace(".*", r"(?s:.*)"), 1)
    assert "secret" not in command.output()
    assert "Traceback" not in command.output()
    assert not here.directory.exists()


def test_a_store_that_does_not_answer_is_said_and_makes_no_sweep(
    here: StoreSite, server: ThreadedMotoServer
) -> None:
    server.stop()
    try:
        command = here.launch()
        assert command.wait() == 5, command.output()
        assert "AWS_ENDPOINT_URL" in command.output()
        assert not here.directory.exists()
    finally:
        server.start()
