"""How many trials a cluster holds at once, and what each of them takes."""

import ray

from search_spaces import SweepConfig
from sweep.slots import Slots, slots_on


def find_slots(config: SweepConfig) -> Slots:
    """What a trial of `config` takes on the connected cluster; refuses what no node can hold."""
    return slots_on([node["Resources"] for node in ray.nodes() if node["Alive"]], config)
