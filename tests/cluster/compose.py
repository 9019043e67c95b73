"""The services of docker/compose.yaml as plain processes, in network namespaces for containers.

Their commands and their environment are read from there and from the Dockerfile. What a container
has for itself, or on a volume, lies in folders here: /tmp, /run/secrets, /sweeps and /artifacts.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from tests.cluster.namespaces import Network

DOCKER = Path(__file__).parents[2] / "docker"
_BIN = Path(sys.executable).parent
_COMPOSE = YAML(typ="safe", pure=True).load((DOCKER / "compose.yaml").read_text())
_DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
_RAY_PORT = 6379
# A node that has not answered for 10 s is given up.
_SOON = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
# What a test process may know, and no container.
_FOREIGN = ("RAY_ADDRESS", "PGPASSWORD", "PGHOSTADDR", "MLFLOW_TRACKING_PASSWORD")


def _instruction(name: str) -> str:
    """The one line of the Dockerfile with that instruction."""
    (text,) = re.findall(rf"^{name} (.+)$", _DOCKERFILE, re.MULTILINE)
    return text


class Machines(NamedTuple):
    """The namespaces of a network, and what is kept for those that run in them."""

    net: Network
    folder: Path  # of secrets, temporary files and logs
    sweeps: Path  # the volume that head and workers share
    # Of services, beside what compose.yaml gives them:
    variables: Mapping[str, Mapping[str, str]]
    options: Mapping[str, Sequence[str]]
    started: list["subprocess.Popen[bytes]"]

    @property
    def address(self) -> str:
        return f"{self.net.address(0)}:{_RAY_PORT}"

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def environment(self, service: str) -> dict[str, str]:
        """The variables of a service's container."""
        described = _COMPOSE["services"][service]
        own = self.folder / service
        if not own.exists():
            (own / "tmp").mkdir(parents=True)
            for name in described["secrets"]:
                os.link(self.folder / "secrets" / name, own / name)
        given = dict(word.split("=", 1) for word in _instruction("ENV").split())
        given |= described["environment"]
        places = {"/sweeps": str(self.sweeps), "/tmp": str(own / "tmp")}
        for name, value in given.items():
            given[name] = re.sub(r"^/(sweeps|tmp)\b", lambda found: places[found[0]], value)
        given["PATH"] = f"{DOCKER / 'bin'}:{_BIN}:{os.environ['PATH']}"
        given |= {"SECRETS_DIR": str(own), "TMPDIR": str(own / "tmp")}
        return given | _SOON | dict(self.variables.get(service, {}))

    def command(self, index: int, service: str, *words: str) -> list[str]:
        """A command that runs in a namespace as in a service's container."""
        hidden = [name for name in _FOREIGN if name not in self.environment(service)]
        without = [f"--unset={name}" for name in hidden]
        entry = json.loads(_instruction("ENTRYPOINT"))
        return self.net.command(index, "env", *without, *entry, *words)

    def start(self, index: int, service: str, *options: str) -> None:
        """Start a service in a namespace; `options` are added to its command."""
        words = [
            *_COMPOSE["services"][service]["command"],
            *self.options.get(service, ()),
            *options,
        ]
        with (self.folder / f"{index}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(index, service, *words),
                env=os.environ | self.environment(service),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)

    def start_node(self, index: int) -> None:
        """Start a Ray node, the head at 0; whether it has come up is asked of the head."""
        own = self.folder / str(index)
        own.mkdir(exist_ok=True)
        options = [f"--temp-dir={own}", "--object-store-memory=100000000"]
        self.start(index, "worker" if index else "head", *options)

    def await_nodes(self, count: int, seconds: float = 180) -> None:
        """Wait until so many nodes are alive, as the head tells it."""
        deadline = time.monotonic() + seconds
        while (said := self._ask())[0] < count:
            assert time.monotonic() < deadline, f"{said}\n{self.logs()}"
            time.sleep(0.5)

    def _ask(self) -> tuple[int, str]:
        """How many nodes the head's store holds as alive, and what is wrong if it says nothing."""
        script = "import sys; from ray._raylet import GcsClient\n"
        script += "nodes = GcsClient(sys.argv[1]).get_all_node_info(timeout=20).values()\n"
        script += "print(sum(node.state == 0 for node in nodes))"
        done = subprocess.run(
            self.command(0, "head", sys.executable, "-c", script, self.address),
            env=os.environ | self.environment("head"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return (int(done.stdout), "") if done.returncode == 0 else (0, done.stderr[-500:])

    def await_mlflow(self, uri: str, seconds: float = 180) -> None:
        """Wait until the tracking server answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            except OSError:
                assert self.started[-1].poll() is None, self.logs()
                assert time.monotonic() < deadline, self.logs()
                time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def machines(
    net: Network,
    sweeps: Path,
    variables: Mapping[str, Mapping[str, str]],
    options: Mapping[str, Sequence[str]],
) -> Iterator[Machines]:
    """Machines on which nothing runs yet, and their secrets."""
    folder = Path(tempfile.mkdtemp(prefix="swr"))  # a socket's path is short
    (folder / "secrets").mkdir()
    for name in _COMPOSE["secrets"]:
        (folder / "secrets" / name).touch(mode=0o600)
        (folder / "secrets" / name).write_text(secrets.token_hex(32))
    made = Machines(net, folder, sweeps, variables, options, [])
    try:
        yield made
    finally:
        for index in range(len(net.names)):
            net.kill(index)
        for process in made.started:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
