"""How many trials a cluster holds at once, and what each of them takes."""

import importlib.util
from typing import NamedTuple

import ray

from search_spaces import SweepConfig
from sweep.errors import CommandError


class Slots(NamedTuple):
    """What one trial takes, and how many run at once."""

    cpus_per_trial: float
    gpus_per_trial: float
    concurrent: int


def find_slots(config: SweepConfig) -> Slots:
    """What a trial of `config` takes on the connected cluster; refuses what no node can hold."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max(node.get("GPU", 0) for node in nodes)
    most_cpus = max(node.get("CPU", 0) for node in nodes)
    wanted = config.resources
    gpus = _auto_gpus(most_gpus) if wanted.gpus_per_trial == "auto" else wanted.gpus_per_trial
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


def _fits(node: dict[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    return min(by_cpu, _fits_on_gpus(node, gpus)) if gpus else by_cpu


def _fits_on_gpus(node: dict[str, float], gpus: float) -> int:
    per_gpu = int(1 / gpus + 1e-9)  # a fraction never spans two GPUs
    whole = node.get("GPU", 0)
    return int(whole) * per_gpu if gpus < 1 else int(whole / gpus)


def _cores_for_each(node: dict[str, float], gpus: float) -> float:
    """The share of a node's cores for each trial that its GPUs hold, in whole thousandths."""
    return int(1000 * node.get("CPU", 0) / max(_fits_on_gpus(node, gpus), 1)) / 1000 or 0.001


def _auto_gpus(most_gpus: float) -> float:
    """One GPU where there is one that JAX can use; none without its CUDA plugin."""
    usable = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    return min(1, most_gpus) if usable else 0
