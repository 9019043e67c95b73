"""Who listens where on this machine, and what SECURITY.md says of it."""

import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from tests.missing import missing

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()


class Listener(NamedTuple):
    """A listening socket: of which kind of process, and for whom."""

    process: str
    reach: str  # loopback, network


def listeners(pids: Collection[int]) -> set[Listener]:
    """The TCP sockets on which these processes listen."""
    if not shutil.which("ss"):
        missing("ss must be installed")
    done = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True)
    found = set()
    for line in done.stdout.splitlines():
        local = line.split()[3].rpartition(":")[0]
        for name, pid in re.findall(r'\("([^"]+)",pid=(\d+),', line):
            if int(pid) in pids:
                found.add(Listener(_kind(name, int(pid)), _reach(local)))
    return found


def _reach(local: str) -> str:
    number = local.strip("[]").removeprefix("::ffff:")
    return "loopback" if number.startswith("127.") or number == "::1" else "network"


def _kind(name: str, pid: int) -> str:
    """A process by its job, as SECURITY.md names it."""
    names = {"gcs_server": "gcs_server", "raylet": "raylet"}
    agents = {"ray::DashboardA": "agent", "ray::RuntimeEnv": "runtime_env agent"}
    if known := (names | agents).get(name):
        return known
    if name.startswith("ray::"):
        return "dashboard" if "ashboard" in name or "Head" in name else "worker"
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
    parts = {
        "ray/dashboard/dashboard.py": "dashboard",
        "autoscaler/_private/monitor.py": "monitor",
        "ray/_private/log_monitor.py": "log_monitor",
        "ray.util.client.server": "client server",
        "mlflow": "mlflow server",
        "/sweep": "driver",
    }
    return next((kind for part, kind in parts.items() if part in command), f"{name}: {command}")


def told(heading: str) -> set[Listener]:
    """The rows of one table of SECURITY.md."""
    (section,) = re.findall(rf"### {heading}\n(.*?)(?=\n##|\Z)", SECURITY, re.DOTALL)
    rows = re.findall(r"^\| ([\w ]+?) +\| (loopback|network) +\|", section, re.MULTILINE)
    return {Listener(process, reach) for process, reach in rows}
