"""The MLflow UI over a sweep's store, for this machine alone."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sweep.delivery import (
    MLFLOW_ENVIRONMENT,
    Status,
    default_tracking_uri,
    read_status,
    without_password,
)
from sweep.directory import read_header
from sweep.errors import CommandError

# Nothing but the pages and their data: no job runner, no gateway to language models.
_SERVER_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
}


def serve(sweeps_dir: Path, directory: Path | None, port: int) -> None:
    """Run an MLflow server on loopback until Ctrl-C, or name the server that is there already."""
    uri = default_tracking_uri(sweeps_dir)
    if directory is not None:
        uri = read_header(directory)["tracking_uri"]
    if not uri.startswith("sqlite:"):
        print(f"this store has a server of its own: {without_password(uri)}{_page(directory)}")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # ends the server, too
    port = _free_port(port)
    print(f"MLflow UI: http://127.0.0.1:{port}{_page(directory)}  (Ctrl-C ends it)", flush=True)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ],
        env=os.environ | MLFLOW_ENVIRONMENT | _SERVER_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        code = server.wait()
        raise CommandError(f"the MLflow server ended with exit code {code}", exit_code=5)
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


def _page(directory: Path | None) -> str:
    """The path of a sweep's page: its parent run, once the server has one."""
    status = Status() if directory is None else read_status(directory)
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
