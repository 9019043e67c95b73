"""A Ray cluster of one node, as `ray start --head` makes it, for tests that need one."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.faults.harness import until
from tests.tracking_server import free_port

BIN = Path(sys.executable).parent
STARTS_S = 180  # a head needs half a minute beside other work


class Head(NamedTuple):
    """A running head."""

    address: str  # HOST:PORT
    dashboard: str  # http://127.0.0.1:PORT
    folder: Path  # all its files
    variables: Mapping[str, str]  # what a command needs that is to use it
    pid: int

    def processes(self) -> list[int]:
        """The head's processes, and what they have started."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def log(self) -> str:
        return (self.folder / "log").read_text()


def machine() -> str:
    """This machine's address as others see it, or loopback where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.254", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def started(log: Path) -> bool:
    return "Ray runtime started" in log.read_text()


@contextlib.contextmanager
def ray_head(token: str | None, **variables: str) -> Iterator[Head]:
    """A head of two CPUs whose dashboard answers; it and its files are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a socket's path is short
    (folder / "ray").mkdir()
    (folder / "home").mkdir()
    settings = {"RAY_AUTH_MODE": "disabled"}
    if token is not None:
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o600)
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    settings |= {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    ports = [free_port() for _ in range(4)]
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--node-ip-address={machine()}"]
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    place = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder / "home")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            executable=BIN / "ray",
            env=os.environ | place | settings | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    dashboard = f"http://127.0.0.1:{ports[1]}"
    head = Head(f"{machine()}:{ports[0]}", dashboard, folder, settings, process.pid)
    try:
        until(lambda: started(folder / "log") or process.poll() is not None, head.log, STARTS_S)
        until(lambda: status(f"{dashboard}/api/version"), head.log, STARTS_S)
        yield head
    finally:
        left = head.processes()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def status(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> int:
    """What a server answers to a request without a body; redirects are not followed. 0: nothing."""
    return ask(url, method, headers)[0]


def ask(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """The status and body of an answer; 0 where there is none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
