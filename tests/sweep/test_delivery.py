"""The delivery status, and the addresses deliveries go to."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweep import delivery
from sweep.delivery import Status, TrialDelivery
from sweep.records import TrialRecord


def test_status_round_trip(tmp_path: Path) -> None:
    status = Status("sqlite:///x", "1", "p", 1, 2, None, 3, {7: TrialDelivery("r", 4, "running")})
    delivery.write_status(tmp_path, status)
    assert delivery.read_status(tmp_path) == status
    assert os.listdir(tmp_path / "tracking") == ["status.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"trials": {"x": {}}}', '{"trials": 7}'])
def test_a_damaged_status_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = delivery.status_path(tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    assert delivery.read_status(tmp_path) == Status()


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (None, (1, 2)),
        (TrialDelivery("r", 0, "running"), (1, 2)),
        (TrialDelivery("r", 2, "running"), (1, 0)),
        (TrialDelivery("r", 2, "pruned"), (0, 0)),
        (TrialDelivery("r", 3, "pruned"), (0, 0)),
    ],
)
def test_undelivered(held: TrialDelivery | None, expected: tuple[int, int]) -> None:
    status = Status(trials={} if held is None else {5: held})
    report: dict[str, Any] = {"epoch": 1}
    trial = TrialRecord(5, "pruned", {}, {}, (report, report), None, "", 0, 1, "")
    assert delivery.undelivered(status, [trial]) == expected


def test_where_the_runs_go_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = delivery.default_tracking_uri(tmp_path)
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert delivery.artifact_location(uri) == f"file://{tmp_path}/mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert delivery.default_tracking_uri(tmp_path) == "http://host:5000"
    assert delivery.artifact_location("http://host:5000") is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ada:pw@host:5000/x@y", "http://host:5000/x@y"),
        ("http://host:5000", "http://host:5000"),
        (
            "no answer from http://ada:p@w@host:5000/api at 12",
            "no answer from http://host:5000/api at 12",
        ),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
    ],
)
def test_a_shown_address_carries_no_password(uri: str, shown: str) -> None:
    assert delivery.without_password(uri) == shown


def test_records_are_lost_once_they_were_delivered_to_a_file_that_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    for uri in (f"sqlite:///{file}", f"sqlite:///{file}?timeout=9"):
        delivery.write_status(tmp_path, Status())
        assert not delivery.lost_records(tmp_path, uri)
        delivery.write_status(tmp_path, Status(experiment_id="1"))
        assert delivery.lost_records(tmp_path, uri).startswith(f"{file}, which held MLflow's ")
        file.touch()
        assert not delivery.lost_records(tmp_path, uri)
        file.unlink()
    for uri in ("http://host:5000", "sqlite:///:memory:", "sqlite:///file:/none.db?uri=true"):
        assert not delivery.lost_records(tmp_path, uri)


def test_a_process_that_hangs_in_the_kernel_is_not_waited_for() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        with process._waitpid_lock:  # pyright: ignore[reportAttributeAccessIssue]
            assert delivery.end_process(process) == -signal.SIGKILL
        assert process.wait(60) == -signal.SIGTERM


def test_reading_a_status_imports_no_mlflow() -> None:
    code = "import sys, sweep.delivery; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
