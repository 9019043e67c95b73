"""What tests of the ledger share, and those of what MLflow holds of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep import delivery
from sweep.study import Ledger
from tests.sweep.ledgers import create
from tests.tracking_server import free_port, serving


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """What a launch is given as `--storage`."""
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def ledger(tmp_path: Path, storage: str | None) -> Ledger:
    """That of a new sweep, in a journal and in a database."""
    return create(tmp_path / "rates", storage=storage)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, free_port()) as uri:
        yield uri


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('database')}/mlflow.db"


@pytest.fixture(params=["server", "database"])
def uri(request: pytest.FixtureRequest) -> str:
    """One after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def shipper_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow, in this process, as it is in the shipper's."""
    for name, value in delivery.MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
