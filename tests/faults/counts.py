"""How many cases a fault test goes through: few in CI, all with SWEEP_FAULTS=full."""

import os


def count(ci: int, full: int) -> int:
    """`full` if SWEEP_FAULTS is "full", else `ci`."""
    return full if os.environ.get("SWEEP_FAULTS") == "full" else ci
