"""The ledger on PostgreSQL: leases, names and fences as on a file, and a password nobody keeps."""

import gc
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.databases import VARIABLE
from sweep.directory import open_ledger, read_header
from sweep.driver import driven
from sweep.errors import CommandError
from tests.cluster.servers import Postgres, postgres
from tests.sweep.ledgers import create, report
from tests.sweep.test_lease import (  # noqa: F401  collected here with the database below
    test_a_study_in_a_database_is_driven_from_one_copy_of_the_directory,
    test_a_study_that_was_ever_run_makes_way_for_none,
    test_what_a_dead_launch_has_left_in_a_database_makes_way,
)
from tests.sweep.test_storage import (  # noqa: F401
    test_a_driver_counts_on_from_the_last_even_if_their_records_are_lost,
    test_a_study_of_others_makes_way_for_none,
    test_every_write_of_a_driver_that_was_taken_over_from_is_refused,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    # Tests that look into a study themselves leave their connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture(autouse=True)
def no_connection_stays() -> Iterator[None]:
    """What a test leaves is collected here, not in the middle of another module's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def storage(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new database, whose password the client finds in its environment."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PGPASSWORD", server.password)
    return server.new_database()


def with_password(server: Postgres, storage: str) -> str:
    return storage.replace("sweep@", f"sweep:{server.password}@")


def test_a_password_is_taken_from_the_environment_and_kept_nowhere(
    tmp_path: Path, storage: str, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    whole = with_password(server, storage)
    monkeypatch.setenv(VARIABLE, whole)
    create(tmp_path / "rates", storage=whole)
    with driven(tmp_path / "rates") as ledger:
        ledger.record(ledger.ask(), report(1))
    assert read_header(tmp_path / "rates")["storage"] == storage
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or server.password.encode() not in path.read_bytes(), path
    assert len(open_ledger(tmp_path / "rates").trials()) == 1


def test_a_password_file_serves_as_well(
    tmp_path: Path, storage: str, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pgpass"
    file.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    file.write_text(f"*:*:*:sweep:{server.password}\n")
    monkeypatch.setenv("PGPASSFILE", str(file))
    create(tmp_path / "rates", storage=storage)
    assert open_ledger(tmp_path / "rates").trials() == []


@pytest.mark.parametrize("place", ["sweep:{0}@", "sweep@"])
def test_a_password_on_the_command_line_is_refused_and_not_shown(
    tmp_path: Path, storage: str, server: Postgres, place: str
) -> None:
    url = storage.replace("sweep@", place.format(server.password))
    url += "" if "{0}" in place else f"?password={server.password}"
    text = rf"a password must not stand in --storage.*{re.escape(storage)}.*PGPASSWORD"
    with pytest.raises(CommandError, match=text) as refused:
        create(tmp_path / "rates", storage=url)
    assert refused.value.exit_code == 2
    assert server.password not in str(refused.value)
    assert not (tmp_path / "rates").exists()


def test_a_wrong_password_and_a_server_that_is_gone_are_named(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "rates", storage=storage)
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    with pytest.raises(CommandError, match="password authentication failed") as refused:
        open_ledger(tmp_path / "rates")
    assert refused.value.exit_code == 5
    assert "wrong-secret" not in str(refused.value)
    nowhere = re.sub(r":\d+/", ":1/", storage)
    with pytest.raises(CommandError, match="must be one that Optuna can open, but") as refused:
        create(tmp_path / "other", storage=nowhere)
    assert refused.value.exit_code == 5
    assert not (tmp_path / "other").exists()


def test_a_connection_that_the_server_has_ended_is_opened_again(
    tmp_path: Path, storage: str, server: Postgres
) -> None:
    create(tmp_path / "rates", storage=storage)
    with driven(tmp_path / "rates") as ledger:
        number = ledger.ask()
        with server._connect() as connection:
            name = storage.rpartition("/")[2]
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            ).fetchall()
        assert ended
        assert ledger.record(number, report(1))
    assert os.listdir(tmp_path / "rates" / "trials") == ["0000"]
