"""The MLflow UI over a sweep's store, for this machine alone; one for each store."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sweep.delivery import (
    MLFLOW_ENVIRONMENT,
    Status,
    default_tracking_uri,
    end_process,
    lost_records,
    read_status,
    sqlite_path,
    without_password,
)
from sweep.directory import read_header
from sweep.errors import CommandError
from sweep.files import locked
from sweep.halt import say
from sweep.ui_view import ask, share_view, view_address

# Nothing but the pages and their data: no job runner, no gateway to language models.
_SERVER_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
}
_START_S = 120.0  # a first start makes the store's tables, and the machine may be busy


def serve(sweeps_dir: Path, directory: Path | None, port: int, *, browser: bool | None) -> None:
    """Run an MLflow server on loopback until Ctrl-C, or name the server that is there already.

    `browser`: whether to open the page in one; None: where a person has a screen.
    """
    uri = default_tracking_uri(sweeps_dir) if directory is None else _tracking_uri(directory)
    if not uri.startswith("sqlite:"):
        page = "" if directory is None else _run_page(read_status(directory))
        print(f"this store has a server of its own: {without_password(uri)}{page}")
        return
    shown = directory or _newest(sweeps_dir, uri)
    if shown and (lost := lost_records(shown, uri)):
        raise CommandError(lost, exit_code=5)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # ends the server, too
    database = sqlite_path(uri)
    with contextlib.suppress(KeyboardInterrupt), _only_one(database) as place:
        if place is None:
            address = _running(database)
            print(f"already running: {_present(address, shown, browser)}")
            return
        with _server(uri, database, _free_port(port), place) as (address, server):
            page = _present(address, shown, browser)
            print(f"MLflow UI: {page}\n(Ctrl-C ends it)", flush=True)
            code = server.wait()
            raise CommandError(_ended(code, database), exit_code=5)


def _tracking_uri(directory: Path) -> str:
    return read_header(directory)["tracking_uri"]


def _newest(sweeps_dir: Path, uri: str) -> Path | None:
    """The sweep launched last among those of a store."""
    found = []
    for path in sweeps_dir.glob("*/sweep.json"):
        with contextlib.suppress(CommandError):  # damaged, or of another release
            header = read_header(path.parent)
            if header["tracking_uri"] == uri:
                found.append((header["created_ms"], path.parent))
    return max(found, default=(0, None))[1]


@contextlib.contextmanager
def _only_one(database: Path) -> Iterator[IO[bytes] | None]:
    """The file that holds the port of a store's server, locked for as long as one runs.

    None: another process has it. The server inherits the lock, so it outlives a killed `sweep ui`.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    with _port_file(database).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            file.truncate(0)
            yield file


def _port_file(database: Path) -> Path:
    return database.with_name(database.name + ".ui")


def _log_file(database: Path) -> Path:
    return database.with_name(database.name + ".ui.log")


def _running(database: Path) -> str:
    """The address of the store's server that another process has started, once it answers."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        port = _port_file(database).read_text().strip()
        address = f"http://127.0.0.1:{port}"
        if port and ask(f"{address}/health") == b"OK":
            return address
        time.sleep(0.2)
    raise CommandError(
        f"an MLflow server of {database} holds {_port_file(database)}, but does not answer; end it",
        exit_code=5,
    )


@contextlib.contextmanager
def _server(
    uri: str, database: Path, port: int, place: IO[bytes]
) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """A server that answers, and its address; it ends with the block."""
    say("starting the MLflow server; that takes some seconds")
    place.write(f"{port}\n".encode())
    place.flush()
    lock = database.with_name(database.name + ".lock")
    if not database.exists():
        from sweep.tracking import make_store  # imports MLflow

        with locked(lock, patience_s=_START_S):
            make_store(database)
    with _log_file(database).open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri),
                *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            ],
            env=os.environ | MLFLOW_ENVIRONMENT | _SERVER_ENVIRONMENT,
            stdout=log,
            stderr=log,
            pass_fds=[place.fileno()],
        )
    address = f"http://127.0.0.1:{port}"
    try:
        # Two that make a store's tables at once break them; the shipper takes this lock, too.
        with locked(lock, patience_s=_START_S):
            _await(address, server, database)
        yield address, server
    finally:
        place.truncate(0)
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        end_process(server)


def _await(address: str, server: "subprocess.Popen[bytes]", database: Path) -> None:
    deadline = time.monotonic() + _START_S
    while ask(f"{address}/health") != b"OK":
        if server.poll() is not None:
            raise CommandError(_ended(server.returncode, database), exit_code=5)
        if time.monotonic() > deadline:
            raise CommandError(
                f"the MLflow server must answer within {_START_S:.0f} s, but it does not; "
                f"see {_log_file(database)}",
                exit_code=5,
            )
        time.sleep(0.1)


def _ended(code: int, database: Path) -> str:
    return f"the MLflow server ended with exit code {code}; see {_log_file(database)}"


def _present(address: str, directory: Path | None, browser: bool | None) -> str:
    """The lines that say where to look; opens the first of them in a browser."""
    status = Status() if directory is None else read_status(directory)
    lines = [address]
    if directory is not None and status.experiment_id is not None:
        share_view(address, status.experiment_id, directory)
        lines = [address + view_address(status.experiment_id, directory.name)]
        if status.parent_run_id is not None:
            lines.append(f"{directory.name}: {address}{_run_page(status)}")
    if browser or (browser is None and _has_screen()):
        webbrowser.open(lines[0])
    return "\n".join(lines)


def _has_screen() -> bool:
    """Whether a person at a terminal would see a browser that opens."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    local = sys.platform == "darwin" or any(os.environ.get(name) for name in screens)
    return sys.stdout.isatty() and local and "SSH_CONNECTION" not in os.environ


def _run_page(status: Status) -> str:
    """The path of a sweep's own run, once the server has one."""
    if status.parent_run_id is None:
        return ""
    page = f"/#/experiments/{status.experiment_id}/runs/{status.parent_run_id}"
    return f"{page}?workflowType=machine_learning"  # the UI has other pages for language models


def _free_port(port: int) -> int:
    """`port` if nobody listens there, else one that the system picks."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise CommandError("no free port on 127.0.0.1", exit_code=5)
