"""Fault tests go red where the product is broken on purpose; see broken/sitecustomize.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CRASHES, LEASE = "tests/faults/test_crash_points.py", "tests/sweep/test_lease.py"


@pytest.mark.parametrize(
    ("way", "test", "message"),
    [
        (
            "write_in_place",
            f"{CRASHES}::test_a_file_that_is_replaced_is_whole",
            r"AssertionError: assert 'new\\nnew",
        ),
        (
            "grant_every_lease",
            f"{LEASE}::test_a_second_driver_is_refused_and_told_who_has_the_lease",
            "Failed: DID NOT RAISE",
        ),
        (
            "find_no_runs",
            f"{CRASHES}::test_a_shipper_dies_at_each_place[1]",
            r"harness\.py:\d+: AssertionError",
        ),
    ],
)
def test_what_is_broken_is_found(way: str, test: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", f"--basetemp={tmp_path / 'inner'}", test]
    path = os.pathsep.join((str(ROOT / "tests" / "faults" / "broken"), str(ROOT)))
    variables = {"PYTHONPATH": path, "SWEEP_BREAK": way}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    assert re.search(message, done.stdout), done.stdout
