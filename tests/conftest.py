"""What tests of every package share."""

import os
from pathlib import Path

import pytest

from tests.missing import missing

# The files that take minutes come first, so that none is left to the end of a run by itself.
COSTLY = (
    *("test_launch", "test_docs", "test_crash_points", "test_cluster", "test_tracking_outages"),
    *("test_benchmarks", "test_signals", "test_control", "test_kills", "test_two_drivers"),
    *("test_crash_children", "test_pruning_across_kills", "test_the_tests", "test_nodes"),
    *("test_full_disk", "test_signals_afterwards"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort them; what stands together in a file stays together."""
    rank = {name: number for number, name in enumerate(COSTLY)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def manual_dir() -> Path:
    """The folder with the four original Fashion-MNIST files.

    Without it the tests on real images are skipped, each by name; a CI must not do without them.
    """
    folder = os.environ.get("SWEEP_MANUAL_DIR")
    if not folder:
        missing("set SWEEP_MANUAL_DIR to the folder with the four Fashion-MNIST .gz files")
    return Path(folder)
