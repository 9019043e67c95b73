"""Machines of a network of their own, as network namespaces of this one, with Ray nodes in them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.missing import missing

RAY = str(Path(sys.executable).with_name("ray"))
_RAY_PORT = 6379
# A node that has not answered for 10 s is given up. gRPC's own resolver finds no name server there.
SETTINGS = {
    "GRPC_DNS_RESOLVER": "native",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}


class Network(NamedTuple):
    """Namespaces on a bridge; this machine has an address there too."""

    bridge: str
    prefix: str  # of all addresses
    names: tuple[str, ...]

    @property
    def outside(self) -> str:
        """This machine's address, for servers that all of them reach."""
        return f"{self.prefix}.254"

    def address(self, index: int) -> str:
        return f"{self.prefix}.{index + 1}"

    def command(self, index: int, *words: str) -> list[str]:
        """A command that runs in a namespace."""
        return ["ip", "netns", "exec", self.names[index], *words]

    def processes(self, index: int) -> list[int]:
        """What runs in a namespace."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.names[index]], capture_output=True, text=True, check=False
        )
        return [int(word) for word in listed.stdout.split()]

    def kill(self, index: int) -> list[int]:
        """Kill all that runs in a namespace, as when its machine loses power."""
        pids = self.processes(index)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """So many namespaces, gone afterwards with all that runs in them.

    Where they are refused the test is skipped; a CI must not do without them.
    """
    unique = os.getpid() % 60_000
    prefix = f"10.{unique // 256 + 16}.{unique % 256}"
    names = tuple(f"sweep{unique}-{index}" for index in range(count))
    made = Network(f"swb{unique}", prefix, names)
    try:
        try:
            _build(made)
        except (OSError, subprocess.CalledProcessError) as error:
            missing(f"network namespaces must be made, which is refused: {error}")
        yield made
    finally:
        _remove(made)


def _build(made: Network) -> None:
    _ip("link", "add", made.bridge, "type", "bridge")
    _ip("address", "add", f"{made.outside}/24", "dev", made.bridge)
    _ip("link", "set", made.bridge, "up")
    for index, name in enumerate(made.names):
        out, into = f"{made.bridge}v{index}", f"{made.bridge}w{index}"
        _ip("netns", "add", name)
        _ip("link", "add", out, "type", "veth", "peer", "name", into, "netns", name)
        _ip("link", "set", out, "master", made.bridge, "up")
        _ip("-n", name, "address", "add", f"{made.address(index)}/24", "dev", into)
        _ip("-n", name, "link", "set", into, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        # Ray finds a machine's own address by the route to the world.
        _ip("-n", name, "route", "add", "default", "via", made.outside)


def _remove(made: Network) -> None:
    for index, name in enumerate(made.names):
        deadline = time.monotonic() + 30
        while made.kill(index) and time.monotonic() < deadline:
            time.sleep(0.1)
        _ip("netns", "delete", name, check=False)
    _ip("link", "delete", made.bridge, check=False)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=check)


class Machines(NamedTuple):
    """Ray nodes, each in a namespace; the first is the head."""

    net: Network
    folder: Path  # of their logs and their temporary files
    environment: Mapping[str, str]
    num_cpus: int
    num_gpus: int
    options: Sequence[str]  # of the head
    started: list["subprocess.Popen[bytes]"]

    @property
    def secret(self) -> dict[str, str]:
        """What a driver needs to be let in."""
        names = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "GRPC_DNS_RESOLVER"
        return {name: self.environment[name] for name in names}

    @property
    def address(self) -> str:
        return f"{self.net.address(0)}:{_RAY_PORT}"

    def start(self, index: int) -> None:
        """Start a node; whether it has come up is asked of the head."""
        place = [f"--node-ip-address={self.net.address(index)}"]
        if index == 0:
            place += ["--head", f"--port={_RAY_PORT}", "--include-dashboard=false", *self.options]
        else:
            place += [f"--address={self.address}"]
        has = [f"--num-cpus={self.num_cpus}", f"--num-gpus={self.num_gpus}"]
        has += ["--object-store-memory=100000000", f"--temp-dir={self.folder}/{index}"]
        (self.folder / str(index)).mkdir(exist_ok=True)
        with (self.folder / f"{index}.log").open("ab") as log:
            process = subprocess.Popen(
                self.net.command(index, RAY, "start", "--block", *has, *place),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)

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
            self.net.command(0, sys.executable, "-c", script, self.address),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return (int(done.stdout), "") if done.returncode == 0 else (0, done.stderr[-500:])

    def logs(self) -> str:
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def machines(
    net: Network,
    variables: Mapping[str, str],
    indices: Sequence[int],
    *,
    cpus: int,
    gpus: int,
    options: Sequence[str] = (),
) -> Iterator[Machines]:
    """Ray nodes in these namespaces, up, with token authentication on."""
    folder = Path(tempfile.mkdtemp(prefix="swr"))  # a socket's path is short
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(os.urandom(32).hex())
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {**os.environ, **SETTINGS, **variables, **secret}
    for name in ("RAY_ADDRESS", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD"):
        environment.pop(name, None)  # no business of a node
    made = Machines(net, folder, environment, cpus, gpus, options, [])
    try:
        made.start(indices[0])
        made.await_nodes(1)
        for index in indices[1:]:
            made.start(index)
        made.await_nodes(len(indices))
        yield made
    finally:
        for index in range(len(net.names)):
            net.kill(index)
        for process in made.started:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
