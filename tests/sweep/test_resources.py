"""How many trials fit on a cluster, for clusters that are only described."""

import importlib.util
from typing import Any

import pytest
import ray

from search_spaces import parse_config
from sweep.errors import CommandError
from sweep.resources import find_slots
from sweep.slots import Slots, slots_on

CONFIG = """
version: 1
name: fitting
data: {dataset: digits, validation_examples: 100}
training: {num_epochs: 2, batch_size: 64}
space: {schedule: {constant: {peak_lr: {log_uniform: [1e-3, 1]}}}}
search: {num_trials: 4}
"""


def slots(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], resources: str) -> Slots:
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    gone = {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, gone])
    return find_slots(parse_config(CONFIG, overrides=[f"resources={resources}"]))


def node(cpus: float, gpus: float = 0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([node(2)], "{}", Slots(1, 0, 2)),
        ([node(2), node(8)], "{}", Slots(1, 0, 10)),
        ([node(8)], "{cpus_per_trial: 3}", Slots(3, 0, 2)),
        ([node(2)], "{cpus_per_trial: 0.5}", Slots(0.5, 0, 4)),
        ([node(8)], "{max_concurrent: 3}", Slots(1, 0, 3)),
        ([node(16, 4)], "{gpus_per_trial: 1}", Slots(1, 1, 4)),
        ([node(16, 4), node(32)], "{gpus_per_trial: 1}", Slots(1, 1, 4)),
        ([node(16, 4)], "{gpus_per_trial: 2}", Slots(1, 2, 2)),
        ([node(16, 2)], "{gpus_per_trial: 0.25}", Slots(1, 0.25, 8)),
        ([node(16, 2)], "{gpus_per_trial: 0.3}", Slots(1, 0.3, 6)),
        ([node(2, 1)], "{gpus_per_trial: 0.1}", Slots(0.2, 0.1, 10)),
        ([node(16, 4)], "{gpus_per_trial: 0}", Slots(1, 0, 16)),
    ],
)
def test_a_cluster_is_filled(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    resources: str,
    expected: Slots,
) -> None:
    assert slots(monkeypatch, nodes, resources) == expected


@pytest.mark.parametrize(("plugin", "gpus"), [(True, 1), (False, 0)])
def test_auto_takes_a_gpu_that_jax_can_use(
    monkeypatch: pytest.MonkeyPatch, plugin: bool, gpus: int
) -> None:
    def find_spec(name: str) -> Any:
        return object() if plugin and name == "jax_cuda13_plugin" else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert slots(monkeypatch, [node(16, 4)], "{}").gpus_per_trial == gpus


@pytest.mark.parametrize(
    ("gpus", "usable", "expected"), [(4, [True], 1), (4, [False], 0), (0, [], 0)]
)
def test_auto_heeds_what_the_nodes_say_of_their_gpus(
    gpus: int, usable: list[bool], expected: int
) -> None:
    """A driver on a node without CUDA packages says nothing of the others."""
    found = slots_on([node(16), node(16, gpus)], parse_config(CONFIG), usable=usable.pop)
    assert found.gpus_per_trial == expected
    assert usable == []


@pytest.mark.parametrize(
    ("nodes", "resources", "message"),
    [
        ([node(2)], "{gpus_per_trial: 1}", "gpus_per_trial must fit on one node, but got 1 where"),
        ([node(2)], "{cpus_per_trial: 3}", "cpus_per_trial must fit on one node, but got 3 where"),
        (
            [node(1, 1), node(32)],
            "{gpus_per_trial: 0, cpus_per_trial: 64}",
            "cpus_per_trial must fit on one node, but got 64 where the largest node has 32",
        ),
    ],
)
def test_what_no_node_can_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], resources: str, message: str
) -> None:
    with pytest.raises(CommandError, match=message) as refused:
        slots(monkeypatch, nodes, resources)
    assert refused.value.exit_code == 2
