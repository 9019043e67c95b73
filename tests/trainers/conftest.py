"""What tests of the training program share."""

import pytest

from tests.trainers.small_runs import Run, run


@pytest.fixture(scope="module")
def uninterrupted() -> Run:
    return run()
