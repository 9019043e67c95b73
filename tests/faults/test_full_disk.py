"""The disk that holds the sweeps is full; once there is room again, the sweep goes on."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
SIZE = 64 << 20


@pytest.fixture
def small_disk(mount_disk: Callable[[Path, int], None], tmp_path: Path) -> Path:
    """A folder `sweeps` on a disk of 64 MiB."""
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
    with site(tmp_path, epochs=40, trials=8) as here:
        command = here.start()
        until(
            lambda: here.recorded() >= epochs or command.process.poll() is not None,
            command.output,
            280,
        )
        accepted = here.accepted()
        ballast = fill(small_disk)
        assert command.wait() == 1, command.output()
        assert_told(here, command.output())
        ballast.unlink()
        assert "failed" not in {trial.state for trial in here.read()[1]}
        here.run()
        assert_nothing_lost(here, accepted, incidents=1)


def assert_told(here: Site, told: str) -> None:
    """Which file it was, and how to go on."""
    (line,) = [line for line in told.splitlines() if "No space left on device" in line]
    assert "Traceback" not in told
    assert "sweep resume faults" in line
    named = line.split(" cannot be written")[0]
    assert Path(here.folder, named).resolve().is_relative_to(here.directory.resolve()), line
    assert Path(named).name != "faults", line
