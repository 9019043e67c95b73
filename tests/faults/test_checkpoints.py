"""A training run whose checkpoint is damaged, or whose process is killed while it writes one."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from tests.faults.counts import count
from tests.trainers.small_runs import DATASET, STEPS, Run, run
from trainers.checkpoints import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    previous_path,
    save_checkpoint,
)
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.training import EpochReport, Settings, TrainState, fit, init_state, run_fingerprint

ROOT = Path(__file__).parents[2]
NUM_EPOCHS = 4
SETTINGS = Settings(NUM_EPOCHS, batch_size=40, optimizer="adam")
NUMBERS = HYPERPARAMETERS["adam"]
CURVE = np.linspace(0.01, 0.002, NUM_EPOCHS * STEPS, dtype=np.float32)
FINGERPRINT = run_fingerprint(DATASET, CURVE, NUMBERS, SETTINGS)


def trained(path: Path | None = None, *, skip_epochs: int = NUM_EPOCHS) -> Run:
    """The run to its end; the reports are those of the epochs that were trained in this call."""
    options: dict[str, Any] = {"numbers": NUMBERS, "settings": SETTINGS}
    return run(CURVE, **options, checkpoint_path=path, skip_epochs=skip_epochs)


@cache
def like() -> TrainState:
    return init_state(DATASET, SETTINGS)


def load(path: Path) -> Checkpoint:
    return load_checkpoint(path, like(), FINGERPRINT)


def assert_finished(path: Path, rest: Run, undisturbed: Run, *, first_epoch: int) -> None:
    """`rest` trained from `first_epoch` on, the run is the undisturbed one, its files are sound."""
    assert rest.facts == undisturbed.facts[first_epoch - 1 :]
    assert rest.bits == undisturbed.bits
    last = load(path)
    kept = Run([EpochReport(**report) for report in last.reports], last.state)
    assert (kept.facts, kept.bits) == (undisturbed.facts, undisturbed.bits)
    assert load(previous_path(path)).epoch == NUM_EPOCHS - 1
    sound = {path.name, previous_path(path).name}
    assert all(file.suffix == ".damaged" or file.name in sound for file in path.parent.iterdir())


@pytest.fixture(scope="module")
def undisturbed() -> Run:
    return trained()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """What the checkpoint's file holds after each epoch."""
    path = tmp_path_factory.mktemp("files") / "checkpoint"
    epochs = fit(DATASET, CURVE, NUMBERS, SETTINGS, checkpoint_path=path)
    return {report.epoch: path.read_bytes() for report in epochs}


# Damage


class Sound(NamedTuple):
    """What is to be damaged: a file, and what it holds. `folder` is for work on it."""

    content: bytes
    checkpoint: Checkpoint
    folder: Path


def flipped(sound: Sound, dice: random.Random) -> bytes:
    damaged = bytearray(sound.content)
    damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def truncated(sound: Sound, dice: random.Random) -> bytes:
    last = len(sound.content) - 1
    return sound.content[: dice.choice([0, last, dice.randrange(last)])]


def zeroed(sound: Sound, dice: random.Random) -> bytes:
    """A range that was not 0 throughout."""
    damaged = bytearray(sound.content)
    while damaged == sound.content:
        start = dice.randrange(len(damaged))
        end = min(len(damaged), start + dice.choice([1, 512, 4096, len(damaged)]))
        damaged[start:end] = bytes(end - start)
    return bytes(damaged)


def lengthened(sound: Sound, dice: random.Random) -> bytes:
    return sound.content + dice.randbytes(dice.choice([1, 2, 4096]))


def of_another_format(sound: Sound, dice: random.Random) -> bytes:
    first = dice.choice([b"sweep-checkpoint 2 ", b"sweep-checkpoint  1", b"sweep_checkpoint 1 "])
    return first + sound.content[len(first) :]


def sealed(sound: Sound, **changes: Any) -> bytes:
    """A file as a run writes it, whose seal is right, with `changes` to the checkpoint."""
    path = sound.folder / "sealed"
    save_checkpoint(path, sound.checkpoint._replace(**changes))
    return path.read_bytes()


def of_another_run(sound: Sound, dice: random.Random) -> bytes:
    numbers = NUMBERS | {"weight_decay": dice.uniform(0.1, 0.2)}
    other = fit(DATASET, CURVE, numbers, SETTINGS, checkpoint_path=sound.folder / "other")
    for _ in range(sound.checkpoint.epoch):
        next(other)
    other.close()
    return (sound.folder / "other").read_bytes()


def with_a_leaf(sound: Sound, dice: random.Random, change: Callable[[np.ndarray], Any]) -> bytes:
    leaves, structure = jax.tree.flatten(sound.checkpoint.state)
    index = dice.randrange(len(leaves))
    leaves[index] = change(np.asarray(leaves[index]))
    return sealed(sound, state=jax.tree.unflatten(structure, leaves))


def of_another_shape(sound: Sound, dice: random.Random) -> bytes:
    changes: list[Callable[[np.ndarray], Any]] = [
        lambda leaf: leaf[None],
        lambda leaf: np.concatenate([leaf.ravel(), leaf.ravel()]),
        lambda leaf: np.zeros((0, *leaf.shape), leaf.dtype),
    ]
    return with_a_leaf(sound, dice, dice.choice(changes))


def of_another_dtype(sound: Sound, dice: random.Random) -> bytes:
    dtype = dice.choice([np.float64, np.float16, np.int64, np.uint32, np.bool_])
    return with_a_leaf(sound, dice, lambda leaf: leaf.astype(dtype))


def with_an_array_less(sound: Sound, dice: random.Random) -> bytes:
    return with_a_leaf(sound, dice, lambda leaf: None)


def with_an_array_more(sound: Sound, dice: random.Random) -> bytes:
    state = sound.checkpoint.state
    return sealed(sound, state=state._replace(params=state.params | {"more": np.zeros(3)}))


def with_an_array_renamed(sound: Sound, dice: random.Random) -> bytes:
    state = sound.checkpoint.state
    params = dict(state.params)
    params["other"] = params.pop(dice.choice(sorted(params)))
    return sealed(sound, state=state._replace(params=params))


def with_another_epoch(sound: Sound, dice: random.Random) -> bytes:
    epoch, reports = sound.checkpoint.epoch, sound.checkpoint.reports
    wrong = [(-epoch, reports), (epoch + 1, reports), ("1_0", reports), (epoch, reports[:-1])]
    epoch, reports = dice.choice([*wrong, (0, []), (0, reports), ("", reports), (epoch, [])])
    return sealed(sound, epoch=epoch, reports=reports)


def with_other_reports(sound: Sound, dice: random.Random) -> bytes:
    *others, last = sound.checkpoint.reports
    shorter = {name: last[name] for name in last if name != "val_loss"}
    changes = ({"val_loss": "0.5"}, {"epoch": True}, {"epoch": 9}, {"train_loss": 1}, {"more": 1.0})
    wrong = [[*others, each] for each in (shorter, 1, [], "", *(last | item for item in changes))]
    objects = [sound.checkpoint.reports[::-1], {"1": last}, "a" * len(others) + "b", 3, None]
    return sealed(sound, reports=dice.choice([*wrong, *objects]))


DAMAGES = (
    *(flipped, truncated, zeroed, flipped, lengthened, of_another_format, of_another_run),
    *(of_another_shape, of_another_dtype, with_an_array_less, with_an_array_more),
    *(with_an_array_renamed, with_another_epoch, with_other_reports, flipped),
)


@pytest.mark.parametrize("previous", ["sound", "missing", "damaged"])
@pytest.mark.parametrize(
    ("damage", "seed"),
    [(DAMAGES[seed % len(DAMAGES)], seed) for seed in range(count(30, 200))],
)
def test_a_damaged_checkpoint_changes_nothing_about_the_run(
    damage: Callable[[Sound, random.Random], bytes],
    seed: int,
    previous: str,
    files: dict[int, bytes],
    undisturbed: Run,
    tmp_path: Path,
) -> None:
    """It goes on from the previous one, or from the start."""
    dice = random.Random(seed)
    epoch = dice.randint(2, NUM_EPOCHS)
    path = tmp_path / "run" / "checkpoint"
    path.parent.mkdir()
    path.write_bytes(files[epoch])
    damaged = damage(Sound(files[epoch], load(path), tmp_path), dice)
    assert damaged != files[epoch]
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError):
        load(path)
    if previous != "missing":
        content = files[epoch - 1] if previous == "sound" else damaged
        previous_path(path).write_bytes(content)
    rest = trained(path)
    assert_finished(path, rest, undisturbed, first_epoch=epoch if previous == "sound" else 1)
    assert path.with_name("checkpoint.damaged").read_bytes() == damaged


# Kills

PLACES = ("checkpoint", "checkpoint written", "checkpoint set aside", "checkpoint replaced")


def train_and_tell(path: Path) -> None:
    """What a child does: the run, and a line for each epoch."""
    for report in fit(DATASET, CURVE, NUMBERS, SETTINGS, checkpoint_path=path):
        print(report.epoch, flush=True)


def save_for_ever(path: Path) -> None:
    """What a child does: the checkpoint that it finds, over and over."""
    checkpoint = load(path)
    while True:
        save_checkpoint(path, checkpoint)


@contextlib.contextmanager
def child(
    function: Callable[[Path], None], path: Path, variables: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that does `function(path)`, killed at the end at the latest."""
    name = function.__name__
    script = (
        f"import sys, pathlib; from {__name__} import {name}; {name}(pathlib.Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env=os.environ | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables with which one child takes over what another has compiled."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_trains_at_most_one_epoch_twice(
    place: str, epoch: int, programs: dict[str, str], undisturbed: Run, tmp_path: Path
) -> None:
    path, marks, crash = tmp_path / "run" / "checkpoint", tmp_path / "marks", f"{place}@{epoch}"
    path.parent.mkdir()
    marks.mkdir()
    variables = programs | {"SWEEP_CRASH_AT": crash, "SWEEP_CRASH_MARKS": str(marks)}
    with child(train_and_tell, path, variables) as killed:
        told, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    # It died while saving an epoch that it had trained, and not told of yet.
    assert (marks / "passed").read_text().splitlines().count("checkpoint") == epoch
    assert told.split() == [str(number) for number in range(1, epoch)]
    leftovers = list(path.parent.glob("*.part"))
    saved = epoch if place == "checkpoint replaced" else epoch - 1
    assert_finished(path, trained(path), undisturbed, first_epoch=saved + 1)
    assert len(leftovers) == (place in ("checkpoint written", "checkpoint set aside"))


# Two writers


def freeze_while_writing(process: subprocess.Popen[str], path: Path) -> Path:
    """Stop the process at an instant at which its temporary is there, which is given back."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        for temporary in path.parent.glob("*.part"):
            if temporary.stat().st_size:
                return temporary
        process.send_signal(signal.SIGCONT)
        time.sleep(0.003)
    raise AssertionError("the process was never seen while it wrote")


def test_a_frozen_writer_does_not_disturb_its_successor(
    programs: dict[str, str], files: dict[int, bytes], undisturbed: Run, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(files[2])
    previous_path(path).write_bytes(files[1])
    with child(save_for_ever, path, programs) as writer:
        temporary = freeze_while_writing(writer, path)
        trained(path)
        assert load(path).epoch == NUM_EPOCHS
        assert temporary.exists()
        writer.send_signal(signal.SIGCONT)
        # It is refused, at the latest when it writes for the second time.
        rests = [trained(path)]
        while writer.poll() is None and len(rests) < 50:
            rests.append(trained(path))
        assert writer.wait(60) == 1
    for rest in (*rests, trained(path)):
        assert rest.bits == undisturbed.bits
        assert rest.facts == undisturbed.facts[NUM_EPOCHS - len(rest.facts) :]
    assert {file.name for file in tmp_path.iterdir()} == {path.name, previous_path(path).name}


# A full disk


@pytest.fixture
def small_disk(mount_disk: Callable[[Path, int], None], tmp_path: Path) -> Callable[[int], Path]:
    """Gives a folder that holds so many bytes; asked once more, it has that size from then on."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(size: int) -> Path:
        mount_disk(folder, size)
        return folder

    return mounted


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_full_disk_ends_the_run_and_costs_no_checkpoint(
    room: int,
    small_disk: Callable[[int], Path],
    files: dict[int, bytes],
    undisturbed: Run,
) -> None:
    """A disk with room for so many checkpoints and half another one."""
    path = small_disk(len(files[1]) * (2 * room + 1) // 2) / "checkpoint"
    with pytest.raises(OSError, match="No space left on device") as caught:
        trained(path)
    assert caught.value.errno == errno.ENOSPC
    kept = [path, previous_path(path)][:room]
    assert sorted(path.parent.iterdir()) == kept
    assert [load(file).epoch for file in kept] == [room - age for age in range(room)]
    small_disk(4 * len(files[NUM_EPOCHS]))
    assert_finished(path, trained(path), undisturbed, first_epoch=room + 1)
