import gzip
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import trainers.data
from trainers.data import DATASETS, Dataset, DatasetError, load_dataset

FILES = {  # and their SHA-256
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
}
FASHION_DIGEST = "ff76ed48455f5ae6957d5fa6ff9fa2d61106"
DIGITS_DIGEST = "2cf785ca491e23b1cf8b58cb9f9bf700262c"

PREPARE = """
import sys
from trainers.data import load_dataset
print(load_dataset("fashion_mnist", validation_split="test").digest)
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="session")
def fashion_cache(manual_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    load_dataset("fashion_mnist", validation_split="test", manual_dir=manual_dir, cache_dir=cache)
    return cache


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("SWEEP_MANUAL_DIR", "SWEEP_CACHE_DIR", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def linked(source: Path, target: Path, *, without: str = "") -> Path:
    """A folder with links to the files of `source`, as cheap as a copy is not."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != without:
            (target / file.name).symlink_to(file)
    return target


def prepared_files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def rows(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def start_preparing(manual_dir: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE],
        cwd=Path(trainers.data.__file__).parents[1],
        env={**os.environ, "SWEEP_MANUAL_DIR": str(manual_dir), "SWEEP_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def web(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Iterator[None]:
    """A stand-in for the network: a proxy that answers every http request by file name."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            content = files.get(self.path.rpartition("/")[2])
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


# What comes out


@pytest.mark.parametrize(
    ("prefix", "split", "count"), [("train", "train", 60000), ("t10k", "test", 10000)]
)
def test_fashion_mnist_is_the_original_files_in_order(
    prefix: str, split: str, count: int, manual_dir: Path, fashion_cache: Path
) -> None:
    dataset = load_dataset("fashion_mnist", validation_split="test", cache_dir=fashion_cache)
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    pixels = gzip.decompress((manual_dir / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
    classes = gzip.decompress((manual_dir / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert images.shape == (count, 28, 28, 1)
    assert images.tobytes() == pixels
    assert labels.tolist() == list(classes)
    assert np.bincount(labels).tolist() == [count // 10] * 10


def test_digits_are_stretched_to_the_whole_range() -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", validation_split="test")
    original, labels = load_digits(return_X_y=True)
    expected = {
        bytes(int(value * 255 / 16 + 0.5) for value in pixels): label
        for pixels, label in zip(original, labels, strict=True)
    }
    images = rows(dataset.train_images) + rows(dataset.test_images)
    classes = [*dataset.train_labels.tolist(), *dataset.test_labels.tolist()]
    assert dict(zip(images, classes, strict=True)) == expected
    assert dataset.test_images.shape == (360, 8, 8, 1)
    assert dataset.train_images.shape == (1437, 8, 8, 1)
    assert set(dataset.test_labels.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("name", "digest"), [("fashion_mnist", FASHION_DIGEST), ("digits", DIGITS_DIGEST)]
)
def test_digest_is_of_the_whole_data_set(name: str, digest: str, fashion_cache: Path) -> None:
    whole = load_dataset(name, validation_split="test", cache_dir=fashion_cache)
    cut = load_dataset(name, validation_examples=10, train_examples=5, cache_dir=fashion_cache)
    assert whole.digest == cut.digest == digest


# The validation cut

CUTS = [("fashion_mnist", 10_000), ("fashion_mnist", 1), ("digits", 300), ("digits", 1436)]


def cut_and_whole(name: str, count: int, cache: Path) -> tuple[Dataset, Dataset]:
    cut = load_dataset(name, validation_examples=count, cache_dir=cache)
    return cut, load_dataset(name, validation_split="test", cache_dir=cache)


@pytest.mark.parametrize(("name", "count"), CUTS)
def test_validation_cut_keeps_types_and_sizes(name: str, count: int, fashion_cache: Path) -> None:
    cut, _ = cut_and_whole(name, count, fashion_cache)
    info = DATASETS[name]
    sizes = {"train": info.train_examples - count, "val": count, "test": info.test_examples}
    for split, size in sizes.items():
        images, labels = getattr(cut, f"{split}_images"), getattr(cut, f"{split}_labels")
        assert (images.dtype, images.ndim, len(images)) == (np.uint8, 4, size)
        assert (labels.dtype, labels.shape) == (np.int32, (size,))
        assert 0 <= labels.min() <= labels.max() < info.num_classes
    assert (cut.name, cut.num_classes) == (name, info.num_classes)


@pytest.mark.parametrize(("name", "count"), CUTS)
def test_validation_cut_divides_train_and_keeps_its_order(
    name: str, count: int, fashion_cache: Path
) -> None:
    cut, whole = cut_and_whole(name, count, fashion_cache)
    whole_rows, train_rows, val_rows = map(
        rows, (whole.train_images, cut.train_images, cut.val_images)
    )
    assert sorted(train_rows + val_rows) == sorted(whole_rows)
    in_order = iter(whole_rows)
    assert all(row in in_order for row in train_rows)
    label_of = dict(zip(whole_rows, whole.train_labels.tolist(), strict=True))
    assert [label_of[row] for row in val_rows] == cut.val_labels.tolist()
    assert [label_of[row] for row in train_rows] == cut.train_labels.tolist()
    np.testing.assert_array_equal(cut.test_images, whole.test_images)


def test_validation_cut_is_the_same_everywhere(fashion_cache: Path) -> None:
    """A change of NumPy's permutation would change the cut, and every result with it."""
    cut = load_dataset("fashion_mnist", validation_examples=10_000, cache_dir=fashion_cache)
    digits = load_dataset("digits", validation_examples=300)
    found = [hashlib.sha256(d.val_images.tobytes()).hexdigest()[:16] for d in (cut, digits)]
    assert found == ["5b6b79ddbd18bf22", "e9b37dff1a5d0a2c"]
    assert np.bincount(cut.val_labels).min() > 900


def test_larger_validation_cut_contains_the_smaller() -> None:
    small, large = (load_dataset("digits", validation_examples=n) for n in (100, 200))
    assert set(rows(small.val_images)) < set(rows(large.val_images))


def test_validation_on_the_test_split(fashion_cache: Path) -> None:
    dataset = load_dataset("fashion_mnist", validation_split="test", cache_dir=fashion_cache)
    np.testing.assert_array_equal(dataset.val_images, dataset.test_images)
    np.testing.assert_array_equal(dataset.val_labels, dataset.test_labels)
    assert len(dataset.train_labels) == 60_000


def test_train_examples_are_the_first_that_remain() -> None:
    whole = load_dataset("digits", validation_examples=300)
    short = load_dataset("digits", validation_examples=300, train_examples=50)
    np.testing.assert_array_equal(short.train_images, whole.train_images[:50])
    np.testing.assert_array_equal(short.train_labels, whole.train_labels[:50])
    np.testing.assert_array_equal(short.val_images, whole.val_images)


@pytest.mark.parametrize("cut", [{"validation_split": "test"}, {"validation_examples": 10}])
@pytest.mark.parametrize("name", ["fashion_mnist", "digits"])
def test_arrays_are_pickled_beside_the_rest(name: str, cut: dict, fashion_cache: Path) -> None:
    """As buffers, which processes can share; arrays in the pickle itself are copied by each."""
    dataset = load_dataset(name, cache_dir=fashion_cache, **cut)
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
    assert len(rest) < 2000
    assert sum(buffer.raw().nbytes for buffer in buffers) > 100_000


# What is refused


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fashon_mnist", {}, "one of fashion_mnist, .* digits, but got .* mean 'fashion_mnist'"),
        ("imagenet", {}, "but got 'imagenet'$"),
        ("digits", {"validation_split": "val"}, "must be one of train, test, but got 'val'"),
        ("digits", {}, "1 <= validation_examples < 1437 must hold.*got 0; selection needs a val"),
        ("digits", {"validation_examples": -1}, "1 <= validation_examples < 1437.*got -1"),
        ("digits", {"validation_examples": 1437}, "1 <= validation_examples < 1437.*got 1437"),
        (
            "digits",
            {"validation_examples": 5, "validation_split": "test"},
            "must be 0 with validation_split 'test'.*got 5; set it to 0",
        ),
        (
            "digits",
            {"validation_examples": 437, "train_examples": 1001},
            "1 <= train_examples <= 1000 must hold for digits.*got 1001; leave it out",
        ),
        (
            "digits",
            {"validation_split": "test", "train_examples": 0},
            "1 <= train_examples <= 1437 must hold.*got 0",
        ),
    ],
)
def test_bad_request(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(name, **arguments)


# Where the files come from


def load(tmp_path: Path, manual: Path | None = None, name: str = "fashion_mnist") -> Dataset:
    return load_dataset(
        name, validation_split="test", manual_dir=manual, cache_dir=tmp_path / "cache"
    )


def test_folder_of_the_data_set_is_preferred(
    manual_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(manual_dir, tmp_path / "manual" / "fashion_mnist")
    for file in FILES:  # those of some other data set, which have the same names
        (tmp_path / "manual" / file).write_bytes(b"other")
    monkeypatch.setenv("SWEEP_MANUAL_DIR", str(tmp_path / "manual"))
    assert load(tmp_path).digest == FASHION_DIGEST


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("by_environment", [True, False])
def test_missing_file(
    file: str,
    by_environment: bool,
    manual_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manual = linked(manual_dir, tmp_path / "manual", without=file)
    way_out = "unset SWEEP_MANUAL_DIR" if by_environment else "pass no manual_dir"
    if by_environment:
        monkeypatch.setenv("SWEEP_MANUAL_DIR", str(manual))
    message = f"{manual} must hold .* lacks {file}; put http://.*{file} .*{FILES[file]}.*{way_out}"
    with pytest.raises(DatasetError, match=message):
        load(tmp_path, None if by_environment else manual)
    assert prepared_files(tmp_path / "cache") == []


def test_folder_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_MANUAL_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match=f"nowhere must hold .* lacks {', '.join(FILES)}; put"):
        load(tmp_path)


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_bit_flipped(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


def emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut_short, one_bit_flipped, emptied])
@pytest.mark.parametrize("file", FILES)
def test_damaged_file(file: str, damage, manual_dir: Path, tmp_path: Path) -> None:
    manual = linked(manual_dir, tmp_path / "manual", without=file)
    damaged = damage((manual_dir / file).read_bytes())
    (manual / file).write_bytes(damaged)
    actual = hashlib.sha256(damaged).hexdigest()
    message = f"sha256 of {manual / file} must be {FILES[file]}, but is {actual}.*; download http"
    with pytest.raises(DatasetError, match=message):
        load(tmp_path, manual)
    assert prepared_files(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_files_of_another_data_set(name: str, manual_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"sha256 of .*train-images-idx3-ubyte.gz must be"):
        load(tmp_path, manual_dir, name)


def test_download(manual_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {file: (manual_dir / file).read_bytes() for file in FILES}
    with web(monkeypatch, files):
        assert load(tmp_path).digest == FASHION_DIGEST
    assert load(tmp_path).digest == FASHION_DIGEST
    assert len(prepared_files(tmp_path / "cache")) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "cannot read http://.*train-images-idx3-ubyte.gz: .*404"),
        (dict.fromkeys(FILES, b"<html>Sign in"), "sha256 of http://.*must be 3aede.*but is not"),
    ],
)
def test_bad_download(
    files: dict[str, bytes], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        web(monkeypatch, files),
        pytest.raises(DatasetError, match=message + ".*by hand .* in SWEEP_MANUAL_DIR"),
    ):
        load(tmp_path)
    assert prepared_files(tmp_path / "cache") == []


def test_no_network_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(DatasetError, match=r"cannot read http.*by hand .* in SWEEP_MANUAL_DIR"):
        load(tmp_path)
    assert time.monotonic() - start < 20


# The cache


@pytest.mark.parametrize(
    ("variable", "folder"), [("SWEEP_CACHE_DIR", "chosen"), ("XDG_CACHE_HOME", "chosen/sweep")]
)
def test_cache_folder(
    variable: str,
    folder: str,
    fashion_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "chosen"))
    shutil.copytree(fashion_cache, tmp_path / folder, copy_function=os.symlink)
    assert load_dataset("fashion_mnist", validation_split="test").digest == FASHION_DIGEST


def test_cached_data_set_needs_no_tensorflow_datasets(fashion_cache: Path) -> None:
    script = f"""
import sys
sys.modules["tensorflow_datasets"] = sys.modules["sklearn"] = sys.modules["jax"] = None
{PREPARE}"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(trainers.data.__file__).parents[1],
        env={**os.environ, "SWEEP_CACHE_DIR": str(fashion_cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"{FASHION_DIGEST}\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train_labels.npy", cut_short, "sha256 of train_labels.npy must be .*, but is"),
        ("test_images.npy", one_bit_flipped, "sha256 of test_images.npy must be .*, but is"),
        ("test_labels.npy", None, "No such file .*test_labels.npy"),
        ("manifest.json", None, "No such file .*manifest.json"),
        ("manifest.json", cut_short, "(Unterminated|Expecting)"),
        ("manifest.json", lambda _: b"[]", "list indices"),
        ("manifest.json", lambda _: b'{"sha256": {}}', "train_images"),
    ],
)
def test_damaged_cache(
    file: str, content, message: str, fashion_cache: Path, tmp_path: Path
) -> None:
    source = fashion_cache / "fashion_mnist" / "1.0.0"
    folder = linked(source, tmp_path / "cache" / "fashion_mnist" / "1.0.0", without=file)
    if content:
        (folder / file).write_bytes(content((source / file).read_bytes()))
    with pytest.raises(
        DatasetError, match=f"{folder} is damaged: .*{message}.*; delete that folder"
    ):
        load(tmp_path)


def test_cache_that_cannot_be_written(manual_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DatasetError, match=r"cannot write .*/cache/fash.* in SWEEP_CACHE_DIR"):
        load(tmp_path, manual_dir)


def test_manifest_holds_the_hash_of_every_array(fashion_cache: Path) -> None:
    folder = fashion_cache / "fashion_mnist" / "1.0.0"
    hashes = {f.stem: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.npy")}
    assert len(hashes) == 4
    assert json.loads((folder / "manifest.json").read_text())["sha256"] == hashes


@pytest.mark.parametrize("moment", [".preparing-*", ".preparing-*/tfds/fashion_mnist/incomplete*"])
def test_killed_preparation(moment: str, manual_dir: Path, tmp_path: Path) -> None:
    parent = tmp_path / "cache" / "fashion_mnist"
    with start_preparing(manual_dir, tmp_path / "cache") as process:
        while process.poll() is None and not list(parent.glob(moment)):
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    [left] = parent.iterdir()
    assert left.name.startswith(".preparing-")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (two_days_ago, two_days_ago))
    (parent / ".preparing-still-alive").mkdir()
    assert load(tmp_path, manual_dir).digest == FASHION_DIGEST
    assert sorted(path.name for path in parent.iterdir()) == [".preparing-still-alive", "1.0.0"]


def test_four_processes_at_once(manual_dir: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    processes = [start_preparing(manual_dir, cache) for _ in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert outputs == [f"{FASHION_DIGEST}\n"] * 4
    assert [path.name for path in (cache / "fashion_mnist").iterdir()] == ["1.0.0"]
    assert len(prepared_files(cache)) == 5
