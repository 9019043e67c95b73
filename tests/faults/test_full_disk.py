"""The disk that holds the sweeps is full; once there is room again, the sweep goes on."""

import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
SIZE = 64 << 20
FIELDS: dict[str, Any] = {"images": 256, "epochs": 40, "trials": 6, "at_once": count(1, 2)}


@pytest.fixture
def small_disk(mount_disk: Callable[[Path, int], None], tmp_path: Path) -> Path:
    """The folder `sweeps` on a disk of 64 MiB."""
    folder = tmp_path / "sweeps"
    folder.mkdir()
    mount_disk(folder, SIZE)
    return folder


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.parametrize("seed", range(count(1, 3)))
def test_a_full_disk_ends_the_command_and_no_trial(
    seed: int, small_disk: Path, tmp_path: Path
) -> None:
    epochs = random.Random(seed).randint(1, 60)
    with site(tmp_path, **FIELDS) as here:
        accepted = ended_by_a_full_disk(here, small_disk, epochs)
        here.run()
        assert_nothing_lost(here, accepted, incidents=1)


@pytest.mark.parametrize("names", ["study.journal", "trials/*/metrics.jsonl"][: count(0, 2)])
def test_a_full_disk_that_holds_the_records_alone(
    names: str, mount_disk: Callable[[Path, int], None], tmp_path: Path
) -> None:
    """It is the record that is named, for the checkpoints are written all the same."""
    (tmp_path / "small").mkdir()
    mount_disk(tmp_path / "small", SIZE)
    with site(tmp_path, **FIELDS) as here:
        killed = here.start(SWEEP_CRASH_AT="recorded@2")
        assert killed.wait() == -signal.SIGKILL, killed.output()
        moved = list(here.directory.glob(names))
        for path in moved:
            elsewhere = tmp_path / "small" / "-".join(path.relative_to(here.directory).parts)
            shutil.move(path, elsewhere)
            path.symlink_to(elsewhere)
        accepted = ended_by_a_full_disk(here, tmp_path / "small", 5)
        (line,) = re.findall(".*No space left on device.*", here.commands[-1].output())
        named = Path(here.folder, line.split(" cannot be written")[0])
        assert named in moved, line
        here.run()
        assert_nothing_lost(here, accepted, incidents=2)


def ended_by_a_full_disk(here: Site, disk: Path, epochs: int) -> dict[int, Any]:
    """Fill the disk once so many epochs more are recorded; the trials that were accepted then."""
    wanted, command = here.recorded() + epochs, here.start()
    until(
        lambda: here.recorded() >= wanted or command.process.poll() is not None,
        command.output,
        280,
    )
    accepted = here.accepted()
    ballast = fill(disk)
    assert command.wait() == 1, command.output()
    assert_told(here, command.output())
    ballast.unlink()
    assert "failed" not in {trial.state for trial in here.read()[1]}
    return accepted


def assert_told(here: Site, told: str) -> None:
    """Which file it was, and how to go on."""
    (line,) = [line for line in told.splitlines() if "No space left on device" in line]
    assert "Traceback" not in told
    assert "sweep resume faults" in line
    named = line.split(" cannot be written")[0]
    assert Path(here.folder, named).is_relative_to(here.directory), line
    assert Path(named).name != "faults", line
