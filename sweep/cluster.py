"""The Ray cluster that a sweep runs on."""

import contextlib
import importlib
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import node, ray_constants, services, utils, worker
from ray.tune.execution import class_cache

from sweep.access import check_access, refuse_password
from sweep.errors import CommandError
from sweep.halt import Interrupted, at_last, heard, say, unwrapped
from sweep.slots import this_machine

# Read by Ray when it starts. A process without a GPU share must see no GPU; Tune's own loggers and
# working directories are not used.
_RAY_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# Tune would send these to the workers in their runtime environment, which Ray logs.
_SECRETS_SENT = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"),
)


@contextmanager
def connected(address: str | None, *, insecure: bool = False) -> Iterator[None]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or to a new one of this machine.

    A cluster that other machines reach must ask for a token, or the risk is taken as `insecure`.
    """
    os.environ.update(_RAY_ENVIRONMENT)
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_SECRETS_SENT)
    started: list[subprocess.Popen] = []
    with at_last(lambda: _kill(started)):
        try:
            with unwrapped():
                _connect(chosen(address), started, insecure=insecure)
                yield
        except Interrupted:
            _kill(started)
            raise
        except BaseException:
            disconnect()
            _kill(started)  # what a start that failed has left
            raise
        disconnect()


def _connect(address: str, started: list[subprocess.Popen], *, insecure: bool) -> None:
    """Connect to the cluster at `address`, or start one, whose processes go into `started`."""
    check_address(address)
    alone = _alone() if address == "local" else contextlib.nullcontext()
    try:
        if address != "local":
            address = found_address(address)
            knock(address)
            check_access(address, insecure=insecure, warn=say)
        with unwrapped(), heard(), _left_to_us(started), _few_processes(), alone:
            _heed_environment()
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                num_cpus=int(this_machine()["CPU"]) if address == "local" else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except CommandError:
        raise
    except Exception as error:  # Ray raises bare ones, as where it is too slow to start
        if "ersion mismatch" in (told := " ".join(str(error).split())):
            raise CommandError(
                f"driver and cluster must have the same versions of Python and Ray, but: {told}; "
                "install the same lock file on both, or run this in the cluster's own image",
                exit_code=2,
            ) from error
        raise CommandError(
            f"no Ray cluster answers at {address}: {error}\n"
            "Start one with `ray start --head`, or leave --address and RAY_ADDRESS out to use this "
            "machine.",
            exit_code=5,
        ) from error


def chosen(address: str | None) -> str:
    """The address of a command's cluster; "local" for one of its own."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def _alone() -> Iterator[None]:
    """Around the start of a cluster of this machine's own: closed to all others.

    It listens on loopback alone, and asks for a token that stands in the environment of its own
    processes and nowhere else; Ray would listen to the whole network, and write a token into a file
    that everyone may read. Ray's name for the switch to loopback speaks of other systems.
    """
    changed = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    before = {name: os.environ.get(name) for name in changed}
    several = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(changed)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _heed_environment() -> None:
    """Let Ray read from the environment again whether there is a token, and which."""
    raylet = importlib.import_module("ray._raylet")  # compiled, so that no type is known of it
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def disconnect() -> None:
    """End the connection, and with it a cluster of our own.

    The first thing that Ray does is to take the handler of SIGTERM away, below Python: it is put
    back before the cluster's processes are ended, which takes seconds.
    """
    ours: Any = worker._global_node
    if ours:
        end = ours.kill_all_processes

        def end_processes(*arguments: Any, **named: Any) -> None:
            _put_back_handler()
            end(*arguments, **named)

        ours.kill_all_processes = end_processes
    ray.shutdown()
    _put_back_handler()


def _put_back_handler() -> None:
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _kill(started: Sequence[subprocess.Popen]) -> None:
    """End the processes of a cluster of our own, and what they started; a shutdown takes seconds.

    Without the groups, Ray's agents would stay for a minute.
    """
    for process in started:
        pid = getattr(process, "pid", None)  # a signal may have come before it had one
        if pid and process.returncode is None:  # not waited for: the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


@contextmanager
def _left_to_us(started: list[subprocess.Popen]) -> Iterator[None]:
    """What a signal ends is the driver's business, not Ray's; what Ray starts goes into `started`.

    Ray's processes start in groups of their own: a SIGTERM to the whole group of the driver, as
    `timeout` and job schedulers send it, would end them under it. And Ray must not put handlers of
    its own in the place of the driver's: one in Python, and one below it that dumps the stack.
    """
    taken = signal.getsignal(signal.SIGTERM)
    popen, take_sigterm = services.ConsolePopen, utils.set_sigterm_handler

    class Started(popen):
        def __init__(self, *arguments: Any, **named: Any):
            started.append(self)  # first, for a signal may come at any time
            super().__init__(*arguments, process_group=0, **named)

    services.ConsolePopen = Started
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = popen, take_sigterm
        signal.signal(signal.SIGTERM, taken)


@contextmanager
def _few_processes() -> Iterator[None]:
    """Around the start of a cluster that lives as long as one command: it does without a dashboard.

    And without an autoscaler, and a process that collects what workers print. They cost 1.5 s. An
    existing cluster is not touched, for it is not started here.
    """

    def none(cluster_node: Any, **options: Any) -> None:
        cluster_node._webui_url = ""

    starts = ("start_monitor", "start_log_monitor", "start_api_server")
    before = {name: getattr(node.Node, name) for name in starts}
    for name in starts:
        setattr(node.Node, name, none)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(node.Node, name, method)


def check_address(address: str) -> None:
    """Raise CommandError unless a driver can run a sweep at such an address."""
    refuse_password(address)
    if address not in ("local", "auto") and not re.fullmatch(r"[^/\s]+:\d{1,5}", address):
        raise CommandError(
            f"an address must be HOST:PORT, auto or local, but got {address}; for a cluster with "
            "a ray:// address, run sweep on one of its nodes, with --address auto",
            exit_code=2,
        )
    known = os.environ.get("RAY_ADDRESS", "")
    if address == "auto" and known not in ("", "auto"):  # where Ray looks first
        check_address(known)


def found_address(address: str) -> str:
    """The `host:port` of a cluster's head; for `auto` the one that runs on this machine."""
    if address != "auto":
        return address
    return services.canonicalize_bootstrap_address_or_die(address)


def knock(address: str) -> None:
    """Refuse a `host:port` where nobody listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
