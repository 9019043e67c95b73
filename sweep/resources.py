"""How many trials a cluster holds at once, and what each of them takes."""

import time

import ray
from ray.util import placement_group, remove_placement_group

from search_spaces import SweepConfig
from sweep.errors import CommandError
from sweep.halt import say
from sweep.nodes import ask_every_node, has_cuda
from sweep.slots import Node, Slots, jax_uses_gpus, slots_on

_FIRST_NODE_S = 600.0  # an autoscaler may have to start a machine


def live_nodes() -> list[Node]:
    """What each node of the connected cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def find_slots(config: SweepConfig, *, shared: bool = False) -> Slots:
    """What a trial of `config` takes on the connected cluster; refuses what no node can hold.

    On a `shared` one its nodes tell whether JAX can use their GPUs, for the driver may run on one
    that has none.
    """
    usable = _nodes_use_gpus if shared else jax_uses_gpus
    return slots_on(live_nodes(), config, usable=usable)._replace(shared=shared)


def _nodes_use_gpus() -> bool:
    usable = any(answer.gpus and answer.value for answer in ask_every_node(has_cuda))
    if not usable:
        say("no node with a GPU has JAX's CUDA packages, so trials run on the CPU alone")
    return usable


def await_slots(config: SweepConfig, *, limit_s: float = _FIRST_NODE_S) -> Slots:
    """As `find_slots` on a shared cluster, where the first node that holds a trial may be to come.

    It is waited for if the cluster has no cores at all yet, or if `resources.max_concurrent` asks
    for more than fits: an autoscaler sees placement groups, which end with this process.
    """
    try:
        return find_slots(config, shared=True)
    except CommandError as error:
        grows = config.resources.max_concurrent or not any(node.get("CPU") for node in live_nodes())
        if not grows:
            way_out = "; for a cluster that grows on demand, set resources.max_concurrent"
            raise CommandError(str(error) + way_out, error.exit_code) from None
        say(f"no node holds a trial yet; waiting up to {limit_s / 60:g} min for one to join")
        return _awaited(config, limit_s, error)


def _awaited(config: SweepConfig, limit_s: float, refusal: CommandError) -> Slots:
    gpus = config.resources.gpus_per_trial
    bundle = {"CPU": config.resources.cpus_per_trial, "GPU": 0 if gpus == "auto" else gpus}
    bundle = {kind: amount for kind, amount in bundle.items() if amount}
    demand = [placement_group([bundle]) for _ in range(config.resources.max_concurrent or 1)]
    deadline = time.monotonic() + limit_s
    try:
        while time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                return find_slots(config, shared=True)
            except CommandError as error:
                refusal = error
        raise CommandError(
            f"a node that holds a trial must join within {limit_s:g} s, but none has: {refusal}",
            exit_code=5,
        )
    finally:
        for group in demand:
            remove_placement_group(group)
