"""Machines of a network of their own, as network namespaces of this one."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.missing import missing

OUTSIDE = 253  # this machine itself
_HOSTS = Path("/etc/netns")  # `ip netns exec` puts files from there in the place of those in /etc


class Network(NamedTuple):
    """Namespaces on a bridge; this machine has an address there too."""

    bridge: str
    prefix: str  # of all addresses
    names: tuple[str, ...]

    @property
    def outside(self) -> str:
        """This machine's address, for servers that all of them reach."""
        return self.address(OUTSIDE)

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
def network(count: int, hosts: Mapping[str, int]) -> Iterator[Network]:
    """So many namespaces, gone afterwards with all that runs in them.

    In each the names of `hosts` are known, and this machine's own name means the namespace.
    Where they are refused the test is skipped; a CI must not do without them.
    """
    unique = os.getpid() % 60_000
    prefix = f"10.{unique // 256 + 16}.{unique % 256}"
    names = tuple(f"sweep{unique}-{index}" for index in range(count))
    made = Network(f"swb{unique}", prefix, names)
    try:
        try:
            _build(made, hosts)
        except (OSError, subprocess.CalledProcessError) as error:
            missing(f"network namespaces must be made, which is refused: {error}")
        yield made
    finally:
        _remove(made)


def _build(made: Network, hosts: Mapping[str, int]) -> None:
    _ip("link", "add", made.bridge, "type", "bridge")
    _ip("address", "add", f"{made.outside}/24", "dev", made.bridge)
    _ip("link", "set", made.bridge, "up")
    known = "".join(f"{made.address(index)} {name}\n" for name, index in hosts.items())
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
        (_HOSTS / name).mkdir(parents=True)
        own = f"127.0.0.1 localhost\n{made.address(index)} {socket.gethostname()}\n"
        (_HOSTS / name / "hosts").write_text(own + known)


def _remove(made: Network) -> None:
    for index, name in enumerate(made.names):
        deadline = time.monotonic() + 30
        while made.kill(index) and time.monotonic() < deadline:
            time.sleep(0.1)
        _ip("netns", "delete", name, check=False)
        shutil.rmtree(_HOSTS / name, ignore_errors=True)
    _ip("link", "delete", made.bridge, check=False)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=check)
