import hashlib
import logging
import re
import signal
import subprocess
import sys
import time
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

FINGERPRINT = "f" * 64
WRITE_WITHOUT_END = """
import sys
from pathlib import Path
import numpy as np
from trainers.checkpoints import Checkpoint, save_checkpoint
epoch = 0
while True:
    epoch += 1
    state = {"w": np.full(100_000, epoch, np.float32)}
    save_checkpoint(Path(sys.argv[1]), Checkpoint("f" * 64, epoch, state, [{"epoch": epoch}]))
"""


def state_of(epoch: int) -> Any:
    """Some float32 arrays, one of them empty, and an int32 counter."""
    kernel = np.array([[0.1, -0.0, 1e-45], [np.inf, 3e38, epoch]], np.float32)
    layer = {"kernel": jnp.asarray(kernel), "bias": jnp.full(5, epoch, jnp.float32)}
    return {"layer": layer, "count": jnp.int32(epoch), "none": (jnp.zeros((0, 3)),)}


def checkpoint_of(epoch: int) -> Checkpoint:
    reports = [{"epoch": index + 1, "train_loss": 0.1 + 0.2 * index} for index in range(epoch)]
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
    bad = checkpoint_of(1)._replace(reports=[{"val_loss": float("nan")}])
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


METADATA = {"fingerprint": FINGERPRINT, "epoch": "1", "reports": "[]"}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no safetensors image",
        save({}),
        *(
            save({}, {key: value for key, value in METADATA.items() if key != missing})
            for missing in METADATA
        ),
        save({}, METADATA | {"epoch": "one"}),
        save({}, METADATA | {"reports": "[{]"}),
    ],
    ids=[
        "empty",
        "text",
        "no metadata",
        "no fingerprint",
        "no epoch",
        "no reports",
        "epoch",
        "reports",
    ],
)
def test_a_sealed_file_that_is_no_checkpoint_is_refused(payload: bytes, path: Path) -> None:
    path.write_bytes(sealed(payload))
    message = f"the checkpoint must be readable, but {path}: "
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}"):
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
    ],
    ids=["shape", "dtype", "name", "turned"],
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
    assert found.epoch >= 1
    assert found.reports == [{"epoch": found.epoch}]
    assert set(np.asarray(found.state["w"]).tolist()) == {found.epoch}
