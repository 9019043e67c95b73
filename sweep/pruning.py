"""Early stopping as pure functions of the ledger: no rung is kept, so none can be lost.

A schedule that decays late looks bad early. So a trial is judged only against trials of its own
family (unless `compare: all`), only by values of the same epoch, and never before its learning rate
has peaked: a warmup or the rise of one cycle is over. One still rising is no peer either.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from search_spaces import SweepConfig

_MEDIAN_PEERS = 4  # fewer say little about a median


class Standing(NamedTuple):
    """One trial as pruning sees it."""

    family: str
    rise_epochs: float  # until the learning rate peaks
    values: Mapping[int, float]  # epoch -> metric, finite


def reason_to_stop(
    config: SweepConfig, own: Standing, epoch: int, others: Sequence[Standing]
) -> str | None:
    """Why `own` should stop after `epoch`, or None; a pure function of what was reported."""
    rule = {"none": _never, "asha": _asha, "median": _median}[config.pruning.algorithm]
    if epoch < config.pruning.grace_epochs or epoch <= own.rise_epochs:
        return None
    peers = [
        other
        for other in others
        if epoch in other.values
        and epoch > other.rise_epochs
        and (config.pruning.compare == "all" or other.family == own.family)
    ]
    return rule(config, own, epoch, peers)


def _never(config: SweepConfig, own: Standing, epoch: int, peers: Sequence[Standing]) -> None:
    return None


def _asha(config: SweepConfig, own: Standing, epoch: int, peers: Sequence[Standing]) -> str | None:
    """Asynchronous successive halving (Li et al. 2020), stopping instead of pausing.

    Rungs lie at grace_epochs * reduction_factor**k; a rung keeps the best 1 / reduction_factor of
    the values it has seen, and equals of these, and judges nobody before it has seen
    reduction_factor of them.
    """
    factor = config.pruning.reduction_factor
    rung = config.pruning.grace_epochs
    while rung < epoch:
        rung *= factor
    seen = len(peers) + 1
    if rung != epoch or seen < factor:
        return None
    value = own.values[epoch]
    rank = 1 + sum(_better(config, peer.values[epoch], value) for peer in peers)
    if rank <= seen // factor:
        return None
    return f"stopped at epoch {epoch}: rank {rank} of {seen}, the best {seen // factor} go on"


def _median(
    config: SweepConfig, own: Standing, epoch: int, peers: Sequence[Standing]
) -> str | None:
    """A median rule: the best value so far is worse than the median of the peers' now."""
    if len(peers) < _MEDIAN_PEERS:
        return None
    middle = median(peer.values[epoch] for peer in peers)
    choose = max if config.search.goal == "maximize" else min
    best = choose(value for at, value in own.values.items() if at <= epoch)
    if not _better(config, middle, best):
        return None
    return f"stopped at epoch {epoch}: best {best:.4g}, median of {len(peers)} peers {middle:.4g}"


def _better(config: SweepConfig, one: float, other: float) -> bool:
    return one > other if config.search.goal == "maximize" else one < other
