"""What tests of every package share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def manual_dir() -> Path:
    """The folder with the four original Fashion-MNIST files.

    Without it the tests on real images are skipped, each by name; a CI must not do without them.
    """
    folder = os.environ.get("SWEEP_MANUAL_DIR")
    if folder:
        return Path(folder)
    missing = "set SWEEP_MANUAL_DIR to the folder with the four Fashion-MNIST .gz files"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
