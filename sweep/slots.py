"""What a machine has, and how many trials that holds; imports no Ray."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from search_spaces import SweepConfig
from sweep.errors import CommandError

Node = Mapping[str, float]  # as Ray describes one: {"CPU": 16, "GPU": 2}

GPUS_IN_USE = "its GPUs are in use"  # why JAX on a node is not asked for them


class Slots(NamedTuple):
    """What one trial takes, and how many run at once."""

    cpus_per_trial: float
    gpus_per_trial: float
    concurrent: int
    shared: bool = False  # nodes may come and go: on a cluster that is not the launch's own


def jax_uses_gpus() -> bool:
    """Whether JAX has its CUDA packages here."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def slots_on(
    nodes: Sequence[Node], config: SweepConfig, *, usable: Callable[[], bool] = jax_uses_gpus
) -> Slots:
    """What a trial of `config` takes on these nodes; CommandError for what none can hold.

    `usable`: whether JAX can use the GPUs that they have; asked only where that matters.
    """
    most_gpus = max(node.get("GPU", 0) for node in nodes)
    most_cpus = max(node.get("CPU", 0) for node in nodes)
    wanted = config.resources
    gpus = wanted.gpus_per_trial
    if gpus == "auto":
        gpus = min(1, most_gpus) if most_gpus and usable() else 0
    cpus = wanted.cpus_per_trial
    if gpus:  # a GPU is not left idle for want of a core
        cpus = min([cpus, *(_cores_for_each(node, gpus) for node in nodes if node.get("GPU"))])
    for kind, asked, most in (("gpus", gpus, most_gpus), ("cpus", cpus, most_cpus)):
        if asked > most:
            raise CommandError(
                f"resources.{kind}_per_trial must fit on one node, but got {asked:g} where the "
                f"largest node has {most:g}; lower it, or launch on a cluster with --address",
                exit_code=2,
            )
    concurrent = sum(_fits(node, cpus, gpus) for node in nodes)
    if concurrent == 0:
        raise CommandError(
            f"a trial must fit on one node, but none has {gpus:g} GPUs and {cpus:g} CPUs together; "
            "lower resources.cpus_per_trial or resources.gpus_per_trial",
            exit_code=2,
        )
    return Slots(cpus, gpus, min(concurrent, wanted.max_concurrent or concurrent))


def fits_on(nodes: Sequence[Node], slots: Slots) -> int:
    """How many trials these nodes hold at once."""
    return sum(_fits(node, slots.cpus_per_trial, slots.gpus_per_trial) for node in nodes)


def this_machine() -> Node:
    """The cores and GPUs that a process may use here."""
    cores = min(len(os.sched_getaffinity(0)), _cores_granted())
    return {"CPU": max(int(cores), 1), "GPU": _count_gpus()}


def _cores_granted() -> float:
    """The cores that a container's quota amounts to; infinite without one."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)  # "max" is no number
    with suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/cpu")
        quota = float((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            return quota / float((folder / "cpu.cfs_period_us").read_text())
    return float("inf")


def _count_gpus() -> int:
    """The NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1", "NoDevFiles"):
        return 0
    found = sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev"))
    if not found and shutil.which("nvidia-smi"):
        found = _listed_gpus()
    return found if visible is None else min(found, len(visible.split(",")))


def _listed_gpus() -> int:
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=5, check=False
        )
        return len(re.findall(r"^GPU \d", done.stdout, re.MULTILINE))
    return 0


def _fits(node: Node, cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    return min(by_cpu, _fits_on_gpus(node, gpus)) if gpus else by_cpu


def _fits_on_gpus(node: Node, gpus: float) -> int:
    per_gpu = int(1 / gpus + 1e-9)  # a fraction never spans two GPUs
    whole = node.get("GPU", 0)
    return int(whole) * per_gpu if gpus < 1 else int(whole / gpus)


def _cores_for_each(node: Node, gpus: float) -> float:
    """The share of a node's cores for each trial that its GPUs hold, in whole thousandths."""
    return int(1000 * node.get("CPU", 0) / max(_fits_on_gpus(node, gpus), 1)) / 1000 or 0.001
