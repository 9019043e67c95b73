"""Breaks the product in one way, for test_the_tests.py: Python imports this module when it starts.

PYTHONPATH=tests/faults/broken SWEEP_BREAK=WAY python -m pytest ...
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_in_place() -> None:
    """Files are written where they are, not beside and then renamed."""
    import sweep.files
    from trainers.crashes import reach

    def write_text(path: Path, text: str) -> None:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            reach(f"replace {path.name}")
            file.write(text[len(text) // 2 :])
        reach(f"replaced {path.name}")

    sweep.files.write_text = write_text


def write_checkpoints_in_place() -> None:
    """The newest checkpoint is overwritten, not kept until the next one is whole."""
    from trainers import checkpoints
    from trainers.crashes import reach

    def replace(path: Path, payload: bytes, checkpoint: object) -> None:
        with path.open("wb") as file:
            file.write(checkpoints._seal(payload))
            file.write(payload[: len(payload) // 2])
            file.flush()
            reach("checkpoint written")
            file.write(payload[len(payload) // 2 :])
        reach("checkpoint set aside")

    checkpoints._replace = replace


def leave_out_fsync() -> None:
    """What is written is renamed before it is on the disk."""
    import sweep.files
    import sweep.lines
    from trainers import checkpoints

    class WithoutFsync:
        def __getattr__(self, name: str) -> Any:
            return (lambda descriptor: None) if name == "fsync" else getattr(os, name)

    for module in (sweep.files, sweep.lines, checkpoints):
        module.os = WithoutFsync()  # pyright: ignore[reportAttributeAccessIssue]


def grant_every_lease() -> None:
    """Whoever asks for a sweep gets it, and nobody loses it."""
    import sweep.lease

    sweep.lease.current_holder = lambda directory: None
    sweep.lease.Lease.check = lambda self: None


def find_no_runs() -> None:
    """The shipper looks for no runs that MLflow holds already."""
    import sweep.shipping

    main = sweep.shipping.main

    def blind(connect: Callable[..., Any], *arguments: Any) -> int:
        connect.__globals__["find_runs"] = lambda client, experiment_id, sweep_id: {}
        return main(connect, *arguments)

    sweep.shipping.main = blind


def rest_in_each_epoch() -> None:
    """Breaks nothing: a trial rests before it writes its checkpoint, so that a sweep lasts."""
    import time

    from trainers import crashes

    reach = crashes.reach

    def reach_rested(place: str, what: str = "") -> None:
        if place == "checkpoint":
            time.sleep(0.5)
        reach(place, what)

    crashes.reach = reach_rested


if "SWEEP_BREAK" in os.environ:
    globals()[os.environ["SWEEP_BREAK"]]()
