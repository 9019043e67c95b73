"""How many trials may be open at once, for clusters that are only described."""

import pytest

from sweep.capacity import Capacity
from sweep.slots import Slots

SHARED = Slots(1, 0.5, 8, shared=True)


@pytest.mark.parametrize(
    ("slots", "at_most", "nodes", "limit"),
    [
        (SHARED, None, [2, 2, 2], 12),
        (SHARED, None, [2], 4),
        (SHARED, None, [], 1),
        (SHARED, 3, [2, 2], 3),
        (SHARED, 30, [2, 2], 30),
    ],
)
def test_the_limit_follows_the_nodes_of_a_shared_cluster(
    slots: Slots,
    at_most: int | None,
    nodes: list[int],
    limit: int,
) -> None:
    """One trial is open even where none fits, and as many as were asked for, for an autoscaler."""
    capacity = Capacity(slots, at_most)
    capacity.follow([{"Resources": {"CPU": 8.0, "GPU": float(gpus)}} for gpus in nodes])
    assert capacity.limit == limit


def test_a_change_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    capacity = Capacity(SHARED, None)
    for alive in (2, 3, 3, 1):
        capacity.follow([{"Resources": {"CPU": 8.0, "GPU": 2.0}}] * alive)
    assert capsys.readouterr().err.splitlines() == [
        "the cluster now holds 12 trials at once, on 3 nodes",
        "the cluster now holds 4 trials at once, on 1 nodes",
    ]
