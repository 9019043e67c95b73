"""What is written is on the disk before it is relied on.

A killed process loses nothing that it has written, only a power cut does. So these tests look at
the order in which files are synced and renamed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.files import write_text
from sweep.lines import append_lines
from trainers.checkpoints import Checkpoint, save_checkpoint

Step = tuple[str, Path, Any]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What was done: synced, a path, its bytes so far; or renamed, a path, the new one."""
    done: list[Step] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("synced", path, os.fstat(descriptor).st_size))
        fsync(descriptor)

    def watched_replace(source: Any, target: Any) -> None:
        done.append(("renamed", Path(source), Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return done


def save(path: Path) -> None:
    save_checkpoint(path, Checkpoint("f", 1, {"weights": np.ones(5000)}, []))


@pytest.mark.parametrize("write", [save, lambda path: write_text(path, "new\n" * 5000)])
def test_a_file_is_synced_before_it_is_renamed(
    write: Callable[[Path], None], steps: list[Step], tmp_path: Path
) -> None:
    path = tmp_path / "it"
    write(path)
    steps.clear()
    write(path)  # a second time, when it takes the place of another
    (part,) = [source for done, source, target in steps if done == "renamed" and target == path]
    ours = [step for step in steps if step[2] != path.with_name("it.previous")]
    assert ours == [
        ("synced", part, path.stat().st_size),
        ("renamed", part, path),
        ("synced", tmp_path, tmp_path.stat().st_size),
    ]


@pytest.mark.parametrize("new", [True, False])
def test_a_line_is_synced_before_it_counts(new: bool, steps: list[Step], tmp_path: Path) -> None:
    path = tmp_path / "lines"
    if not new:
        append_lines(path, [{"epoch": 1}], driver=1)
        steps.clear()
    append_lines(path, [{"epoch": 2}, {"epoch": 3}], driver=1)
    name = [("synced", tmp_path, tmp_path.stat().st_size)] if new else []
    assert steps == [("synced", path, path.stat().st_size), *name]
