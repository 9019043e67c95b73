"""What the nodes of a cluster are like: asked by a small task on each of them."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import ray
from ray._private import state
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep.errors import CommandError
from sweep.halt import say
from sweep.slots import GPUS_IN_USE, jax_uses_gpus

_ASK_S = 60.0  # a worker's process may have to start, on a machine that is busy
# What runs on a worker. Of the first ones another version breaks a sweep, of the others it changes
# results in their last bits.
_SAME = ("python", "sweep", "ray")
_LIKE = ("jax", "jaxlib", "optax", "numpy")


class Answer(NamedTuple):
    """What a node has answered, or why it has not."""

    address: str
    gpus: float  # as Ray counts them
    value: Any
    fault: str  # in one line; "" where there is none


def ask_every_node(
    question: Callable[..., Any], *arguments: Any, gpus: bool = False, limit_s: float = _ASK_S
) -> list[Answer]:
    """What `question(address, *arguments)` gives in a worker on each live node, all at once.

    The worker takes no cores and, unless `gpus` says to take all that the node has, no GPU; where
    trials hold some of them, the node is not asked. One that goes away meanwhile is left out.
    """
    busy = _with_gpus_in_use() if gpus else []
    taken = {node["NodeID"] for node in busy}
    nodes = [node for node in _live() if node["NodeID"] not in taken]
    asked = [_ask(node, question, *arguments, gpus=gpus) for node in nodes]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=limit_s) if asked else ([], [])
    answers = [
        _answer(node, reference, limit_s if reference in ready else None)
        for node, reference in zip(nodes, asked, strict=True)
    ]
    left = {node["NodeID"] for node in _live()}
    return [_described(node)._replace(fault=GPUS_IN_USE) for node in busy] + [
        answer
        for node, answer in zip(nodes, answers, strict=True)
        if not answer.fault or node["NodeID"] in left  # or it has gone in the meantime
    ]


def _live() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _with_gpus_in_use() -> list[dict[str, Any]]:
    free = state.available_resources_per_node()
    nodes = [node for node in _live() if node["NodeID"] in free]
    return [n for n in nodes if free[n["NodeID"]].get("GPU", 0) < n["Resources"].get("GPU", 0)]


def _described(node: Mapping[str, Any]) -> Answer:
    return Answer(node["NodeManagerAddress"], node["Resources"].get("GPU", 0), None, "")


def _ask(
    node: Mapping[str, Any], question: Callable[..., Any], *arguments: Any, gpus: bool = False
) -> Any:
    held = node["Resources"].get("GPU", 0) if gpus else 0
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    options = {"num_cpus": 0, "num_gpus": held, "max_retries": 0, "scheduling_strategy": place}
    task: Any = ray.remote(**options)(question)
    return task.remote(node["NodeManagerAddress"], *arguments)


def _answer(node: Mapping[str, Any], reference: Any, limit_s: float | None) -> Answer:
    found = _described(node)
    if limit_s is None:
        ray.cancel(reference, force=True)
        return found._replace(fault="no worker has answered in time")
    try:
        return found._replace(value=ray.get(reference, timeout=limit_s))
    except (RayError, GetTimeoutError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return found._replace(fault=lines[-1] if lines else type(error).__name__)
    except Exception as error:  # what the question itself has raised comes as its own kind
        return found._replace(fault=f"{type(error).__name__}: {error}".partition("\n")[0])


def versions(address: str = "") -> dict[str, str]:
    """The versions here of Python and of what runs on a worker; "" for what is missing."""
    found = {"python": platform.python_version()}
    for package in (*_SAME[1:], *_LIKE):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def mismatches(here: Mapping[str, str], answers: Sequence[Answer]) -> tuple[list[str], list[str]]:
    """Where nodes differ from the driver: what breaks a sweep, and what may change last bits."""
    breaks, changes = [], []
    for answer in answers:
        if answer.fault:
            breaks.append(f"node {answer.address} runs no task of this sweep: {answer.fault}")
            continue
        for package, wanted in here.items():
            found = answer.value.get(package, "")
            if found == wanted:
                continue
            text = f"node {answer.address} has {package} {found or 'not at all'}"
            text += f", where the driver has {wanted or 'none'}"
            (changes if found and package in _LIKE else breaks).append(text)
    return breaks, changes


class Newcomers:
    """The nodes that join a cluster from now on, each asked for its versions."""

    def __init__(self) -> None:
        self._known = {node["NodeID"] for node in _live()}
        self._asked: dict[Any, dict[str, Any]] = {}

    def look(self, live: Sequence[dict[str, Any]]) -> None:
        """Ask who has joined, and say what is wrong with those that have answered; no waiting."""
        nodes = {node["NodeID"]: node for node in live}
        for identity in nodes.keys() - self._known:
            self._asked[_ask(nodes[identity], versions)] = nodes[identity]
        self._known |= nodes.keys()
        asked = list(self._asked)
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0) if asked else ([], [])
        told = [(self._asked.pop(reference), reference) for reference in ready]
        answers = [_answer(node, ref, _ASK_S) for node, ref in told if node["NodeID"] in nodes]
        breaks, changes = mismatches(versions(), answers)
        for text in breaks:
            say(f"{text}: its trials may fail until it has the same lock file, or image")
        _say_changes(changes)


def check_versions() -> Newcomers:
    """Compare every node with this process: refuse what breaks a sweep, and say the rest."""
    later = Newcomers()
    breaks, changes = mismatches(versions(), ask_every_node(versions))
    if breaks:
        raise CommandError(
            f"driver and nodes must have the same Python, sweep and Ray, but {'; '.join(breaks)}; "
            "install the same lock file on every node, or give them one image",
            exit_code=2,
        )
    _say_changes(changes)
    return later


def _say_changes(changes: Sequence[str]) -> None:
    for text in changes:
        say(f"{text}: results may differ from node to node in their last bits")


def has_cuda(address: str) -> bool:
    """Whether JAX has its CUDA packages on this worker."""
    return jax_uses_gpus()


def list_devices(address: str) -> list[str]:
    """The kinds of GPUs that JAX sees in this worker."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax

    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]


def report(address: str) -> None:
    """Print as JSON what `sweep doctor` tells of a cluster; it runs in a process of its own.

    Each node: address, GPUs as Ray counts them, kinds of GPUs as JAX sees them in a worker that has
    them all, or the fault. With it what is wrong with their versions.
    """
    from sweep.cluster import connected

    with connected(address, insecure=True):  # sweep doctor has asked for the token before
        breaks, changes = mismatches(versions(), ask_every_node(versions))
        devices = ask_every_node(list_devices, gpus=True, limit_s=30)
        print(json.dumps({"breaks": breaks, "changes": changes, "nodes": devices}))
