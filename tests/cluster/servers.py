"""A real PostgreSQL server, and MLflow on it behind basic authentication."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.missing import missing

_LIBRARY = Path("/usr/lib/postgresql")


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
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql://postgres@{self.host}:{self.port}/{name}"

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user="postgres",
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )


@contextlib.contextmanager
def postgres(host: str = "127.0.0.1") -> Iterator[Postgres]:
    """A server at `host`, of an unprivileged user, that asks for a password.

    Where PostgreSQL is not installed the test is skipped; a CI must not do without it.
    """
    programs = sorted(_LIBRARY.glob("*/bin"))
    if not programs:
        missing(f"PostgreSQL must be installed below {_LIBRARY}")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = "postgres" if os.getuid() == 0 else None
    made = Postgres(host, free_port(host), secrets.token_hex(12))
    (folder / "password").write_text(made.password)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    options = ["-A", "scram-sha-256", "-U", "postgres", "--no-sync", "--locale=C", "-E", "UTF8"]
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


class Mlflow(NamedTuple):
    """A tracking server, its user and its password."""

    uri: str
    user: str
    password: str


@contextlib.contextmanager
def mlflow_with_password(database: Postgres, folder: Path) -> Iterator[Mlflow]:
    """A tracking server beside the database, with basic authentication."""
    host, port = database.host, free_port(database.host)
    made = Mlflow(f"http://{host}:{port}", "admin", secrets.token_hex(12))
    store = database.new_database().replace("postgresql://", "postgresql+psycopg://")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "auth_cache_ttl_seconds = 60\n"  # hashing a password takes longer than most requests
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": made.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PGPASSWORD": database.password,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", host, "--port", str(port), "--allowed-hosts", f"{host}:{port}"]
    command += ["--workers", "1", "--backend-store-uri", store]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _await(
            lambda: urllib.request.urlopen(f"{made.uri}/health", timeout=5).close(),
            process,
            folder / "log",
        )
        yield made
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


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
