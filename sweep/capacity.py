"""How many trials are open at once, while the nodes of a cluster come and go."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController

from sweep.errors import CommandError
from sweep.halt import say
from sweep.head import Head
from sweep.nodes import Newcomers
from sweep.slots import Slots, fits_on

# Tune fixes a limit of its own when it starts. This one is above every cluster, so that the limit
# that moves is the one that counts.
TUNE_LIMIT = 10_000
_LOOK_EVERY_S = 1.0


class Capacity(tune.Callback):
    """The number of trials that may be open at once; it follows the nodes of a shared cluster.

    With `at_most` set, as many are open even where they do not fit yet: the placement groups of
    those that wait are what an autoscaler sees.
    """

    def __init__(self, slots: Slots, at_most: int | None, newcomers: Newcomers | None = None):
        self.slots, self._at_most, self._newcomers = slots, at_most, newcomers
        self.fits = self.limit = slots.concurrent
        self._looked = 0.0
        self._head: Head | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at the nodes, at most once a second."""
        now = time.monotonic()
        if self._head and now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            self.follow([node for node in self._head.nodes if node["Alive"]])

    @contextlib.contextmanager
    def following(self, gone: Callable[[CommandError], None], name: str) -> Iterator[None]:
        """While the sweep `name` runs; `gone` is for a head of a shared cluster that is gone."""
        self._head = Head(gone, name) if self.slots.shared else None
        try:
            yield
        finally:
            if self._head:
                self._head.end()

    def follow(self, nodes: list[dict[str, Any]]) -> None:
        """Take these as the live nodes."""
        fits = fits_on([node["Resources"] for node in nodes], self.slots)
        if fits != self.fits:
            say(f"the cluster now holds {fits} trials at once, on {len(nodes)} nodes")
        self.fits = fits
        if self._newcomers:
            self._newcomers.look(nodes)
        # One trial is always asked for: Tune blocks while it has none.
        self.limit = self._at_most or max(fits, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {}


@contextlib.contextmanager
def new_workers_start() -> Iterator[None]:
    """A worker that is starting is waited for, even if an older one is free before.

    Tune would give a waiting trial the first worker that gets free, and cancel the one that starts
    for it. Where trials end more often than a worker takes to start, a node that has joined would
    never get one. A trial whose worker has no place yet still takes any that is free.
    """
    tune_runs: Any = TuneController
    reuse = tune_runs._maybe_reuse_cached_actor

    def reuse_unless_starting(controller: Any, trial: Any) -> bool:
        actor, placed = controller._trial_to_actor.get(trial), controller._actor_manager
        if trial not in controller._resetting_trials and actor in placed.live_actors:
            return False
        return reuse(controller, trial)

    tune_runs._maybe_reuse_cached_actor = reuse_unless_starting
    try:
        yield
    finally:
        tune_runs._maybe_reuse_cached_actor = reuse
