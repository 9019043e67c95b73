"""What fault tests share."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.missing import missing


@pytest.fixture
def mount_disk() -> Iterator[Callable[[Path, int], None]]:
    """Makes a folder a disk of so many bytes, or gives one that is one another size.

    Where that is refused the test is skipped; a CI must not do without it.
    """
    with ExitStack() as mounts:

        def mount(folder: Path, size: int) -> None:
            new = not folder.is_mount()
            options = f"size={size}" + ("" if new else ",remount")
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                missing(f"a small disk must be mounted, which is refused: {done.stderr.strip()}")
            if new:
                mounts.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)

        yield mount
