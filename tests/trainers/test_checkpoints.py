import fcntl
import hashlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

import trainers
from trainers.checkpoints import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_latest,
    previous_path,
    save_checkpoint,
)
from trainers.training import EpochReport

FINGERPRINT = "f" * 64
WRITE_WITHOUT_END = """
import sys
from pathlib import Path
import numpy as np
from trainers.checkpoints import Checkpoint, save_checkpoint
from trainers.training import EpochReport
reports = []
while True:
    epoch = len(reports) + 1
    reports.append(EpochReport(epoch, 0.5, 0.5, 0.5, "", 0.5)._asdict())
    state = {"w": np.full(100_000, epoch, np.float32)}
    save_checkpoint(Path(sys.argv[1]), Checkpoint("f" * 64, epoch, state, reports))
"""


def state_of(epoch: int) -> Any:
    """Some float32 arrays, one of them empty, and an int32 counter."""
    kernel = np.array([[0.1, -0.0, 1e-45], [np.inf, 3e38, epoch]], np.float32)
    layer = {"kernel": jnp.asarray(kernel), "bias": jnp.full(5, epoch, jnp.float32)}
    return {"layer": layer, "count": jnp.int32(epoch), "none": (jnp.zeros((0, 3)),)}


def report_of(epoch: int) -> dict[str, Any]:
    report = EpochReport(epoch, 0.1 + 0.2 * epoch, 1e-300, 1 / 3, "0" * 64, 0.25, "1" * 64)
    return report._asdict()


def checkpoint_of(epoch: int) -> Checkpoint:
    reports = [report_of(number) for number in range(1, epoch + 1)]
    return Checkpoint(FINGERPRINT, epoch, state_of(epoch), reports)


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert found._replace(state=None) == expected._replace(state=None)
    assert jax.tree.structure(found.state) == jax.tree.structure(expected.state)
    for one, other in zip(*map(jax.tree.leaves, (found.state, expected.state)), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def load(path: Path) -> Checkpoint:
    return load_checkpoint(path, state_of(0), FINGERPRINT)


def latest(path: Path) -> Checkpoint | None:
    return load_latest(path, state_of(0), FINGERPRINT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """What a checkpoint's file holds after epochs 1, 2 and 3."""
    path = tmp_path_factory.mktemp("files") / "checkpoint"
    contents = {}
    for epoch in (1, 2, 3):
        save_checkpoint(path, checkpoint_of(epoch))
        contents[epoch] = path.read_bytes()
    return contents


def test_a_checkpoint_comes_back_bit_for_bit(path: Path) -> None:
    save_checkpoint(path, checkpoint_of(2))
    assert_same(load(path), checkpoint_of(2))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_two_newest_checkpoints_are_kept(path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(path, checkpoint_of(epoch))
    assert_same(load(path), checkpoint_of(3))
    assert_same(load(previous_path(path)), checkpoint_of(2))
    assert len(list(path.parent.iterdir())) == 2


def test_the_file_says_what_it_is(path: Path) -> None:
    save_checkpoint(path, checkpoint_of(1))
    header, _, payload = path.read_bytes().partition(b"\n")
    assert header == f"sweep-checkpoint 1 {hashlib.sha256(payload).hexdigest()}".encode()


def test_a_report_that_is_not_finite_is_refused_and_nothing_written(path: Path) -> None:
    bad = checkpoint_of(1)._replace(reports=[report_of(1) | {"val_loss": float("nan")}])
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        save_checkpoint(path, bad)
    assert list(path.parent.iterdir()) == []


# Damage


def flipped(content: bytes, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    damaged = bytearray(content)
    damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def truncated(content: bytes, seed: int) -> bytes:
    if seed == 0:
        return b""
    if seed == 1:
        return content[:-1]
    return content[: np.random.default_rng(seed).integers(len(content))]


DAMAGES = {
    **{f"flip {seed}": lambda content, seed=seed: flipped(content, seed) for seed in range(30)},
    **{f"cut {seed}": lambda content, seed=seed: truncated(content, seed) for seed in range(20)},
    "zeroed": lambda content: bytes(len(content)),
    "zeroed payload": lambda content: content[:84] + bytes(len(content) - 84),
    "zeroed end": lambda content: content[:-16] + bytes(16),
    "one byte more": lambda content: content + b"\n",
    "twice": lambda content: content + content,
    "other version": lambda content: content.replace(b"checkpoint 1 ", b"checkpoint 2 ", 1),
    "no header": lambda content: content.partition(b"\n")[2],
    "capitals": lambda content: content[:19] + content[19:83].upper() + content[83:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_the_one_before_taken(
    damage: Any, path: Path, files: dict[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    assert damage(files[2]) != files[2]
    path.write_bytes(damage(files[2]))
    message = f"the checkpoint must match its sha256, but {path} does not"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        load(path)
    with caplog.at_level(logging.WARNING):
        previous_path(path).write_bytes(files[1])
        assert_same(latest(path), checkpoint_of(1))
        save_checkpoint(path, checkpoint_of(2))
        assert previous_path(path).read_bytes() == files[1]
        path.unlink()
        previous_path(path).write_bytes(damage(files[1]))
        assert latest(path) is None
    aside = path.with_name(path.name + ".damaged")
    assert aside.read_bytes() == damage(files[2])
    earlier = "and an earlier state is taken"
    assert caplog.messages[0] == f"{message}; it is now {aside.name}, {earlier}"
    assert len(caplog.messages) == 2


def test_no_file_is_no_checkpoint(path: Path) -> None:
    assert latest(path) is None


def sealed(payload: bytes) -> bytes:
    return b"sweep-checkpoint 1 " + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def image(header: bytes) -> bytes:
    """A safetensors image of no arrays, whatever its header says."""
    return len(header).to_bytes(8, "little") + header


REPORT = report_of(1)
METADATA = {"fingerprint": FINGERPRINT, "epoch": "1", "reports": json.dumps([REPORT])}
HUGE_ARRAY = b'{"a":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,17179869184]}}'
UNREADABLE = {
    "empty": b"",
    "text": b"no safetensors image",
    "longer header than file": (1 << 20).to_bytes(8, "little") + b"{}",
    "header of 16 exabytes": b"\xff" * 8 + b"{}",
    "header of 99 MB": (99_000_000).to_bytes(8, "little") + b"{}",
    "array of 16 GiB": image(HUGE_ARRAY),
    "no UTF-8": image(b'{"__metadata__":{"epoch":"\xff\xfe"}}'),
    "UTF-16": image('{"__metadata__":{}}'.encode("utf-16")),
    "list": image(b"[]"),
    "deep": image(b'{"a":' * 100_000),
    "no metadata": save({}),
    "metadata are a text": image(b'{"__metadata__":"epoch"}'),
    "epoch is no text": image(b'{"__metadata__":{"epoch":1}}'),
    **{f"no {key}": save({}, {k: METADATA[k] for k in METADATA if k != key}) for key in METADATA},
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_a_sealed_file_that_is_no_checkpoint_is_refused(payload: bytes, path: Path) -> None:
    path.write_bytes(sealed(payload))
    message = f"the checkpoint must be readable, but {path}: "
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}"):
        load(path)


@pytest.mark.parametrize("epoch", ["one", "", "0", "2", "-1", "01", " 1", "1.0", "9" * 5000])
def test_an_epoch_that_is_not_the_number_of_reports_is_refused(epoch: str, path: Path) -> None:
    path.write_bytes(sealed(save({}, METADATA | {"epoch": epoch})))
    message = f"the checkpoint must be readable, but {path}: it must hold one report for each of"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}"):
        load(path)


REPORTS = {
    "no JSON": "[{]",
    "object": json.dumps({"1": REPORT}),
    "text": '"a"',
    "null": "null",
    "deep": "[" * 100_000 + "]" * 100_000,
    "long number": "[" + "9" * 5000 + "]",
    "report is a number": "[1]",
    "report is a list": "[[]]",
    "field missing": json.dumps([{key: REPORT[key] for key in REPORT if key != "val_loss"}]),
    "field unknown": json.dumps([REPORT | {"f1": 0.5}]),
    "text for a number": json.dumps([REPORT | {"val_loss": "0.5"}]),
    "null for a number": json.dumps([REPORT | {"val_loss": None}]),
    "number for a text": json.dumps([REPORT | {"learning_rate_sha256": 0}]),
    "true for an epoch": json.dumps([REPORT | {"epoch": True}]),
    "NaN": json.dumps([REPORT | {"train_loss": float("nan")}]),
    "over the largest float": json.dumps([REPORT]).replace("1e-300", "1e999"),
    "another epoch's": json.dumps([report_of(2)]),
}


@pytest.mark.parametrize("reports", REPORTS.values(), ids=REPORTS)
def test_reports_that_no_run_gave_are_refused(reports: str, path: Path) -> None:
    path.write_bytes(sealed(save({}, METADATA | {"reports": reports})))
    message = f"the checkpoint must be readable, but {path}: "
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}"):
        load(path)
    assert latest(path) is None


def test_reports_from_before_momenta_were_recorded_are_read(path: Path) -> None:
    older = {key: REPORT[key] for key in REPORT if key != "momentum_sha256"}
    save_checkpoint(path, checkpoint_of(1)._replace(reports=[older]))
    assert load(path).reports == [older]


def test_a_file_too_large_for_the_state_is_not_read(path: Path) -> None:
    """Eight tebibytes would not fit into memory."""
    with path.open("wb") as file:
        file.truncate(1 << 43)
    message = rf"the checkpoint must hold at most \d+ bytes, but {re.escape(str(path))} holds"
    with pytest.raises(CheckpointError, match=f"^{message} {1 << 43}$"):
        load(path)
    assert latest(path) is None


# What is no file


def place_directory(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("not ours")


def place_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    "place", [place_directory, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), place_loop]
)
def test_what_is_no_file_is_put_aside(place: Callable[[Path], None], path: Path) -> None:
    for _ in range(2):  # the first may lie where the second is to be put
        place(path)
        with pytest.raises(CheckpointError, match=r"^the checkpoint must be "):
            load(path)
        previous_path(path).unlink(missing_ok=True)
        place(previous_path(path))
        assert latest(path) is None
        save_checkpoint(path, checkpoint_of(1))
        save_checkpoint(path, checkpoint_of(2))
        assert [load(file).epoch for file in (path, previous_path(path))] == [2, 1]
        path.unlink()


def test_a_directory_that_comes_later_does_not_end_the_run(path: Path) -> None:
    place_directory(previous_path(path))
    save_checkpoint(path, checkpoint_of(1))
    save_checkpoint(path, checkpoint_of(2))
    path.unlink()
    place_directory(path)
    save_checkpoint(path, checkpoint_of(3))
    assert [load(file).epoch for file in (path, previous_path(path))] == [3, 1]
    kept = [path.with_name(f"checkpoint{end}.damaged") for end in ("", ".previous")]
    assert [(folder / "file").read_text() for folder in kept] == ["not ours"] * 2


def test_a_file_that_cannot_be_read_is_put_aside(path: Path) -> None:
    """Not even by the superuser, whom no permission stops: nothing is mapped at address 0."""
    save_checkpoint(path, checkpoint_of(1))
    save_checkpoint(path, checkpoint_of(2))
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match=r"^the checkpoint must be readable, but .*/output"):
        load(path)
    assert_same(latest(path), checkpoint_of(1))


def test_a_missing_file_is_no_damage(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(path)


# Another run, or another structure


def test_a_checkpoint_of_another_run_is_refused(path: Path, files: dict[int, bytes]) -> None:
    path.write_bytes(files[2])
    message = f"the checkpoint must belong to this run, but {path} does not"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        load_checkpoint(path, state_of(0), "0" * 64)
    assert load_latest(path, state_of(0), "0" * 64) is None


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"count": jnp.zeros(3, jnp.int32)}, r"\['count'\] int32\(3,\), but .* holds .*\(\)"),
        ({"count": jnp.float32(0)}, r"\['count'\] float32\(\), but .* holds .*int32"),
        ({"counts": jnp.int32(0)}, r"\['counts'\] int32\(\), but .* holds None"),
        (
            {"layer": {"kernel": jnp.zeros((3, 2))}},
            r"\['layer'\]\['kernel'\] float32\(3, 2\), but .* holds .*\(2, 3\)",
        ),
        ({"count": jnp.int32(0)}, "1 arrays, but .* holds 4"),
    ],
    ids=["shape", "dtype", "name", "turned", "fewer"],
)
def test_a_checkpoint_of_another_structure_is_refused(
    like: Any, message: str, path: Path, files: dict[int, bytes]
) -> None:
    path.write_bytes(files[2])
    with pytest.raises(CheckpointError, match=f"^the checkpoint must hold {message}"):
        load_checkpoint(path, like, FINGERPRINT)
    assert load_latest(path, like, FINGERPRINT) is None


# Crashes


@pytest.mark.parametrize(
    ("newest", "previous", "part", "epoch"),
    [
        (None, None, b"sweep-check", None),
        (None, None, 1, None),
        (1, None, b"", 1),
        (1, None, b"sweep-check", 1),
        (1, None, 2, 1),
        (None, 1, 2, 1),
        (2, 1, None, 2),
        (2, 1, b"sweep-check", 2),
        (2, 1, 3, 2),
        (None, 2, 3, 2),
    ],
)
def test_every_instant_of_a_crash_leaves_a_sound_checkpoint(
    newest: int | None,
    previous: int | None,
    part: int | bytes | None,
    epoch: int | None,
    path: Path,
    files: dict[int, bytes],
) -> None:
    """Also one that the next save is not disturbed by."""
    places = {path: newest, previous_path(path): previous, path.with_name("checkpoint.part"): part}
    for place, content in places.items():
        if content is not None:
            place.write_bytes(content if isinstance(content, bytes) else files[content])
    if epoch is None:
        assert latest(path) is None
    else:
        assert_same(latest(path), checkpoint_of(epoch))
    save_checkpoint(path, checkpoint_of(3))
    assert_same(latest(path), checkpoint_of(3))
    assert not path.with_name("checkpoint.part").exists()
    if epoch is not None:
        path.unlink()
        assert_same(latest(path), checkpoint_of(epoch))


@pytest.mark.parametrize("seconds", [0.05, 0.1])
def test_a_killed_writer_leaves_a_sound_checkpoint(seconds: float, path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_WITHOUT_END, str(path)], cwd=Path(trainers.__path__[0]).parent
    )
    try:
        deadline = time.monotonic() + 60
        while not previous_path(path).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(seconds)
    finally:
        writer.kill()
    assert writer.wait() == -signal.SIGKILL
    found = load_latest(path, {"w": np.zeros(100_000, np.float32)}, FINGERPRINT)
    assert found is not None
    assert [report["epoch"] for report in found.reports] == list(range(1, found.epoch + 1))
    assert list(path.parent.glob("*.part")) == []
    assert set(np.asarray(found.state["w"]).tolist()) == {found.epoch}


# Temporaries

DEAD = ("checkpoint.part", "checkpoint.0123456789abcdef.part", "checkpoint.17.part")
OTHERS = ("checkpoint.17.parts", "other.17.part", "part", "other.checkpoint.part")


@pytest.mark.parametrize("use", [latest, lambda path: save_checkpoint(path, checkpoint_of(1))])
def test_temporaries_of_dead_writers_are_removed(use: Callable[[Path], Any], path: Path) -> None:
    """A writer lives as long as there is a lock on its temporary."""
    alive = path.with_name("checkpoint.alive.part")
    for name in (*DEAD, *OTHERS, alive.name):
        path.with_name(name).write_bytes(b"sweep-check")
    with alive.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        use(path)
        names = {file.name for file in path.parent.iterdir()} - {path.name}
        assert names == {*OTHERS, alive.name}
    use(path)
    assert not alive.exists()


def test_a_name_with_signs_of_a_pattern_is_taken_as_it_is(tmp_path: Path) -> None:
    path, other = tmp_path / "[ab]*", tmp_path / "a.17.part"
    other.touch()
    (tmp_path / "[ab]*.17.part").touch()
    save_checkpoint(path, checkpoint_of(1))
    assert set(tmp_path.iterdir()) == {path, other}


def test_a_failed_write_leaves_nothing_behind(path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    save_checkpoint(path, checkpoint_of(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size, handler = path.stat().st_size, signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(path, checkpoint_of(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(path.parent.iterdir()) == [path]
    assert_same(latest(path), checkpoint_of(1))


def test_a_later_epoch_is_not_replaced_by_an_earlier_one(tmp_path: Path):
    """As a process would that was frozen while another took its trial over."""
    path = tmp_path / "checkpoint"
    reports = [report_of(epoch) for epoch in (1, 2, 3)]
    save_checkpoint(path, Checkpoint(FINGERPRINT, 3, state_of(3), reports))
    kept = path.read_bytes()
    with pytest.raises(CheckpointError, match="must hold no later epoch than 2, but it does"):
        save_checkpoint(path, Checkpoint(FINGERPRINT, 2, state_of(2), reports[:2]))
    assert path.read_bytes() == kept
    save_checkpoint(path, Checkpoint("e" * 64, 1, state_of(1), reports[:1]))  # another run
    assert load_checkpoint(path, state_of(0), "e" * 64).epoch == 1
