"""A real PostgreSQL server."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.missing import missing

_LIBRARY = Path("/usr/lib/postgresql")
_USER = "sweep"  # as in docker/compose.yaml


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class Postgres(NamedTuple):
    """A server; addresses leave its password to PGPASSWORD."""

    host: str
    port: int
    password: str

    def new_database(self) -> str:
        """The address of a database that holds nothing yet."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name}")
        return f"postgresql://{_USER}@{self.host}:{self.port}/{name}"

    def run(self, script: str) -> None:
        """Run each statement of a script."""
        with self._connect() as connection:
            for statement in re.sub(r"--.*", "", script).split(";"):
                if statement.strip():
                    connection.execute(statement.encode())

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=_USER,
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )


@contextlib.contextmanager
def postgres(
    host: str = "127.0.0.1", port: int | None = None, password: str | None = None
) -> Iterator[Postgres]:
    """A server at `host`, of an unprivileged user, that asks for a password.

    Where PostgreSQL is not installed the test is skipped; a CI must not do without it.
    """
    programs = sorted(_LIBRARY.glob("*/bin"))
    if not programs:
        missing(f"PostgreSQL must be installed below {_LIBRARY}")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = "postgres" if os.getuid() == 0 else None
    made = Postgres(host, port or free_port(host), password or secrets.token_hex(12))
    (folder / "password").write_text(made.password)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    options = ["-A", "scram-sha-256", "-U", _USER, "--no-sync", "--locale=C", "-E", "UTF8"]
    subprocess.run(
        [programs[-1] / "initdb", *options, "--pwfile", folder / "password", folder / "data"],
        user=user,
        cwd=folder,
        capture_output=True,
        check=True,
    )
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {host}/16 scram-sha-256\n")  # not on the loopback address
    server = [programs[-1] / "postgres", "-D", folder / "data", "-k", folder, "-p", str(made.port)]
    server += ["-c", f"listen_addresses={host}", "-c", "fsync=off", "-c", "max_connections=60"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(server, user=user, cwd=folder, stdout=log, stderr=log)
    try:
        _await(lambda: made._connect().close(), process, folder / "log")
        yield made
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _await(attempt: Callable[[], None], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until something can be done, while a server starts."""
    deadline = time.monotonic() + 180
    while True:
        try:
            return attempt()
        except (OSError, psycopg.Error):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
