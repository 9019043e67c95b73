"""Fault tests go red where the product is broken on purpose; see broken/sitecustomize.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FAULTS = "tests/faults"
CRASHES, CHECKPOINTS = f"{FAULTS}/test_crash_points.py", f"{FAULTS}/test_checkpoints.py"


@pytest.mark.parametrize(
    ("way", "test", "red"),
    [
        (
            "write_in_place",
            f"{CRASHES}::test_a_file_that_is_replaced_is_whole",
            r"assert path\.read_text\(\) == expected",
        ),
        (
            "write_checkpoints_in_place",
            f"{CHECKPOINTS}::test_a_killed_run_trains_at_most_one_epoch_twice"
            "[checkpoint written-3]",
            r"assert rest\.facts == undisturbed\.facts",
        ),
        (
            "leave_out_fsync",
            f"{FAULTS}/test_durable_writes.py",
            r"assert (ours|steps) == ",
        ),
        (
            "grant_every_lease",
            f"{FAULTS}/test_two_drivers.py::test_two_resumes_at_once",
            r"assert (len\(ended\) == 1|ended\[0\]\.process\.returncode == 4)",
        ),
        (
            "find_no_runs",
            f"{FAULTS}/test_crash_children.py::test_a_shipper_dies_at_each_place[1]",
            r"assert (len\(parents\) == 1|set\(numbers)",
        ),
    ],
)
def test_what_is_broken_is_found(way: str, test: str, red: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--assert=plain",
        f"--basetemp={tmp_path / 'inner'}",
        test,
    ]
    path = os.pathsep.join((str(ROOT / "tests" / "faults" / "broken"), str(ROOT)))
    variables = {"PYTHONPATH": path, "SWEEP_BREAK": way}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    assert re.search(rf"(?m)^>\s+{red}", done.stdout), done.stdout
