"""What tests of every package share."""

import os
from pathlib import Path

import pytest

from tests.missing import missing


@pytest.fixture(scope="session")
def manual_dir() -> Path:
    """The folder with the four original Fashion-MNIST files.

    Without it the tests on real images are skipped, each by name; a CI must not do without them.
    """
    folder = os.environ.get("SWEEP_MANUAL_DIR")
    if not folder:
        missing("set SWEEP_MANUAL_DIR to the folder with the four Fashion-MNIST .gz files")
    return Path(folder)
