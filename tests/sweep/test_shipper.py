"""The process that delivers a sweep to MLflow."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep import delivery
from sweep.delivery import TrialDelivery
from sweep.directory import open_ledger
from sweep.files import locked
from tests.tracked import EPOCHS, make_ledger, picture, runs_of
from tests.tracking_server import free_port, serving

# MLflow itself uses a SQLAlchemy option that is to go.
pytestmark = [
    pytest.mark.usefixtures("shipper_environment"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@contextlib.contextmanager
def shipping(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The shipper's process; killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "sweep.tracking", str(directory), *options]
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def ship_once(directory: Path) -> tuple[int, str]:
    with shipping(directory, "--once") as shipper:
        _, errors = shipper.communicate(timeout=60)
    return shipper.returncode, errors


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_the_shipper_outlives_a_server_that_starts_late(tmp_path: Path) -> None:
    port, directory = free_port(), tmp_path / "tracked-1"
    make_ledger(directory, f"http://127.0.0.1:{port}")
    with shipping(directory) as shipper:
        until(lambda: delivery.read_status(directory).error)
        status = delivery.read_status(directory)
        assert (status.undelivered_trials, status.undelivered_epochs) == (2, EPOCHS + 2)
        with serving(tmp_path, port):
            until(lambda: len(delivery.read_status(directory).trials) == 2)
            sweep = open_ledger(directory).sweep()
            assert runs_of(sweep)[1].info.status == "RUNNING"
            _, errors = shipper.communicate(timeout=30)  # ends its input: the driver is gone
            assert shipper.returncode == 0, errors
            runs = runs_of(sweep)
    assert "refused" in errors
    assert [runs[n].info.status for n in (None, 0, 1)] == ["KILLED", "FINISHED", "KILLED"]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text('{"trials": 7')])
def test_without_its_status_file_the_shipper_comes_to_the_same(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    directory = tmp_path / "tracked-1"
    make_ledger(directory, f"sqlite:///{tmp_path}/mlflow.db")
    assert ship_once(directory) == (0, "")
    ledger = open_ledger(directory)
    sweep, status = ledger.sweep(), delivery.read_status(directory)
    assert delivery.undelivered(status, ledger.trials()) == (0, 0)
    runs, once = runs_of(sweep), picture(sweep)
    assert status.trials[0] == TrialDelivery(runs[0].info.run_id, EPOCHS, "complete")
    damage(delivery.status_path(directory))
    assert ship_once(directory) == (0, "")
    assert picture(sweep) == once
    assert delivery.read_status(directory)._replace(updated_ms=0) == status._replace(updated_ms=0)


def test_the_shipper_gives_up_on_a_server_that_stays_away(tmp_path: Path) -> None:
    directory = tmp_path / "tracked-1"
    make_ledger(directory, f"http://ada:secret@127.0.0.1:{free_port()}")
    code, errors = ship_once(directory)
    assert code == 3
    status = delivery.read_status(directory)
    assert status.undelivered_trials == 2
    assert status.error is not None
    assert "refused" in status.error
    assert "secret" not in errors + delivery.status_path(directory).read_text()


def test_sigterm_stops_the_shipper_and_sigint_does_not(tmp_path: Path) -> None:
    directory = tmp_path / "tracked-1"
    make_ledger(directory, f"sqlite:///{tmp_path}/mlflow.db")
    with shipping(directory) as shipper:
        until(lambda: len(delivery.read_status(directory).trials) == 2)
        shipper.send_signal(signal.SIGINT)
        time.sleep(1)
        assert shipper.poll() is None
        shipper.send_signal(signal.SIGTERM)
        assert shipper.wait(10) == 0
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_directory_that_is_missing_is_refused(tmp_path: Path) -> None:
    code, errors = ship_once(tmp_path / "nothing")
    assert code == 2
    assert "DIRECTORY must be a sweep's directory" in errors


def test_one_shipper_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "tracking" / "lock"
    with (
        locked(path),
        pytest.raises(TimeoutError, match="must be free, but another process holds it"),
        locked(path, patience_s=0.1),
    ):
        pass
    with locked(path, patience_s=0.1):
        pass
