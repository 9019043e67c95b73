"""Whether the head of a cluster still answers, while a sweep runs there."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import ray

from sweep.errors import CommandError

SILENT_S = 25  # what is left to do takes some more; Ray itself ends the process after 60 s
_ASK_EVERY_S = 1.0


class Head:
    """The nodes of a cluster, as its head has told them last; one thread asks for them.

    Another sees whether it answers. While a head is gone, Ray holds every thread that asks it for
    something, the main one too: so `gone` is called in that other thread. A head that restarts in
    time answers what was asked.
    """

    def __init__(self, gone: Callable[[CommandError], None], name: str):
        self._gone, self._name = gone, name
        self._address = ray.get_runtime_context().gcs_address
        self.nodes: list[dict[str, Any]] = ray.nodes()
        self._silent_s = 0.0
        self._over = threading.Event()
        for task in (self._ask, self._count):
            threading.Thread(target=task, daemon=True).start()

    def end(self) -> None:
        """Ask no more."""
        self._over.set()

    def _ask(self) -> None:
        while not self._over.wait(_ASK_EVERY_S):
            with contextlib.suppress(Exception):  # as silent as one that does not answer
                self.nodes = ray.nodes()
                self._silent_s = 0

    def _count(self) -> None:
        """Count the seconds; a clock would go on while this process is frozen."""
        while self._silent_s <= SILENT_S:
            if self._over.wait(_ASK_EVERY_S):
                return
            self._silent_s += _ASK_EVERY_S
        self._gone(
            CommandError(
                f"the head of the Ray cluster at {self._address} must answer, but has not for "
                f"{SILENT_S} s; nothing that was recorded is lost. Once it is back, or with the "
                "address of another cluster, go on with: "
                f"sweep resume {self._name} --address {self._address}",
                exit_code=5,
            )
        )
