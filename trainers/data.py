"""Image data sets as NumPy arrays: prepared once, cached, verified by hash, cut into splits."""

import contextlib
import difflib
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

MANUAL_DIR_VARIABLE = "SWEEP_MANUAL_DIR"
CACHE_DIR_VARIABLE = "SWEEP_CACHE_DIR"

ValidationSplit = Literal["train", "test"]

# Part of every cache path: raise it whenever the prepared arrays would come out differently.
_PREPARED_VERSION = "1.0.0"
# Constants of the project, never the training seed: all runs see the same images in each split.
_VALIDATION_SEED = 20170825
_DIGITS_TEST_SEED = 19980701

_RECORD_EXAMPLES = 500  # many images per record: one image per record takes a minute to read back
_ABANDONED_SECONDS = 24 * 3600  # a preparation takes seconds; an older folder has lost its process
_TEMPORARY_PREFIX = ".preparing-"


class Dataset(NamedTuple):
    """A data set cut into train, validation and test; the arrays may be read-only."""

    name: str
    train_images: np.ndarray  # uint8 (n, height, width, channels), values 0..255
    train_labels: np.ndarray  # int32 (n,)
    val_images: np.ndarray
    val_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    digest: str  # 36 hex digits; of the name and all images and labels, however they are cut


class DatasetInfo(NamedTuple):
    """What is known of a data set before it is loaded."""

    url: str | None  # where its four IDX files lie, "/" at the end; None: ships with scikit-learn
    train_examples: int  # before the validation cut
    test_examples: int
    num_classes: int


class DatasetError(ValueError):
    """A data set that cannot be had as asked: what is wrong, and the way out."""


DATASETS: Mapping[str, DatasetInfo] = {
    "fashion_mnist": DatasetInfo(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", 60_000, 10_000, 10
    ),
    "mnist": DatasetInfo("https://storage.googleapis.com/cvdf-datasets/mnist/", 60_000, 10_000, 10),
    "kmnist": DatasetInfo("http://codh.rois.ac.jp/kmnist/dataset/kmnist/", 60_000, 10_000, 10),
    "digits": DatasetInfo(None, 1_437, 360, 10),
}

_IDX_FILES: Mapping[str, str] = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def load_dataset(
    name: str,
    *,
    validation_examples: int = 0,
    validation_split: ValidationSplit = "train",
    train_examples: int | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """The data set `name` of `DATASETS`, from the cache if it was ever prepared there.

    validation_split="train" cuts `validation_examples` images from the training images, the same
    ones for everybody; what remains keeps its original order. A larger cut contains every smaller
    one. validation_split="test" validates on the test images, to copy results that did so.
    `train_examples` then keeps only the first so many training images, for a quick look.

    A data set that is not cached yet comes from `manual_dir`, else $SWEEP_MANUAL_DIR (the folder
    with the four original .gz files, or its parent if the folder is called `name`), else from the
    network. The cache is `cache_dir`, else $SWEEP_CACHE_DIR, else $XDG_CACHE_HOME/sweep, else
    ~/.cache/sweep. Raises DatasetError.
    """
    _check_request(name, validation_examples, validation_split, train_examples)
    url = DATASETS[name].url
    if url is None:
        whole = _digits(name)
    else:
        folder = _cache_root(cache_dir) / name / _PREPARED_VERSION
        if not os.path.exists(folder):  # False, not an error, where reading is forbidden
            _prepare(name, url, folder, manual_dir)
        whole = _load_prepared(name, folder)
    if validation_split == "train":
        val = _held_out(len(whole.train_labels), validation_examples, _VALIDATION_SEED)
        whole = whole._replace(
            train_images=whole.train_images[~val],
            train_labels=whole.train_labels[~val],
            val_images=whole.train_images[val],
            val_labels=whole.train_labels[val],
        )
    return whole._replace(
        train_images=whole.train_images[:train_examples],
        train_labels=whole.train_labels[:train_examples],
    )


def _check_request(
    name: str, validation_examples: int, validation_split: str, train_examples: int | None
) -> None:
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DatasetError(f"dataset must be one of {', '.join(DATASETS)}, but got {name!r}{hint}")
    splits = get_args(ValidationSplit)
    if validation_split not in splits:
        raise DatasetError(
            f"validation_split must be one of {', '.join(splits)}, but got {validation_split!r}"
        )
    remaining = DATASETS[name].train_examples
    if validation_split == "test" and validation_examples != 0:
        raise DatasetError(
            "validation_examples must be 0 with validation_split 'test', which validates on all "
            f"test images, but got {validation_examples}; set it to 0, or validation_split 'train'"
        )
    if validation_split == "train":
        if not 1 <= validation_examples < remaining:
            raise DatasetError(
                f"1 <= validation_examples < {remaining} must hold for {name}, but got "
                f"{validation_examples}; selection needs a validation split cut from train, or "
                "validation_split 'test' to copy results that validated on the test images"
            )
        remaining -= validation_examples
    if train_examples is not None and not 1 <= train_examples <= remaining:
        raise DatasetError(
            f"1 <= train_examples <= {remaining} must hold for {name} (the training images that "
            f"remain), but got {train_examples}; leave it out to train on all of them"
        )


def _held_out(num_examples: int, count: int, seed: int) -> np.ndarray:
    """Which examples are held out, bool (num_examples,): `count` of a fixed permutation."""
    mask = np.zeros(num_examples, dtype=bool)
    mask[np.random.default_rng(seed).permutation(num_examples)[:count]] = True
    return mask


def _uncut(name: str, arrays: Mapping[str, np.ndarray], digest: str) -> Dataset:
    """All that was prepared, before any cut: its validation images are the test images."""
    return Dataset(
        name=name,
        **arrays,
        val_images=arrays["test_images"],
        val_labels=arrays["test_labels"],
        num_classes=DATASETS[name].num_classes,
        digest=digest,
    )


def _digest(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """36 hex digits of SHA-256 (MLflow takes no more) over names, types, shapes and contents."""
    digest = hashlib.sha256(name.encode())
    for key, array in arrays.items():
        digest.update(f"\n{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:36]


def _digits(name: str) -> Dataset:
    """scikit-learn's 1,797 8x8 digits, their 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    test = _held_out(len(labels), DATASETS[name].test_examples, _DIGITS_TEST_SEED)
    arrays = {
        "train_images": images[~test],
        "train_labels": labels[~test],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    return _uncut(name, arrays, _digest(name, arrays))


def _cache_root(cache_dir: str | os.PathLike[str] | None) -> Path:
    chosen = cache_dir or os.environ.get(CACHE_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sweep"


def _load_prepared(name: str, folder: Path) -> Dataset:
    """The arrays of a prepared folder, mapped from disk after their hashes were verified."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for key in _IDX_FILES:
            expected, actual = manifest["sha256"][key], _file_sha256(folder / f"{key}.npy")
            if actual != expected:
                raise ValueError(f"sha256 of {key}.npy must be {expected}, but is {actual}")
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in _IDX_FILES}
        return _uncut(name, arrays, manifest["digest"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"the cached data set {folder} is damaged: {error}; "
            "delete that folder, and the data set is prepared again"
        ) from error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prepare(name: str, url: str, folder: Path, manual_dir: str | os.PathLike[str] | None) -> None:
    """Write the folder that `_load_prepared` reads, whole or not at all.

    Several processes may do so at once: the first to finish wins, the others use its folder.
    """
    manual = _manual_dir(name, url, manual_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        with tempfile.TemporaryDirectory(
            prefix=_TEMPORARY_PREFIX, dir=folder.parent, ignore_cleanup_errors=True
        ) as temporary:
            arrays = _arrays_by_tfds(name, url, manual, Path(temporary) / "tfds")
            finished = Path(temporary) / "finished"
            finished.mkdir()  # unlike `temporary`, with the user's own permissions
            for key, array in arrays.items():
                np.save(finished / f"{key}.npy", array)
            sha256 = {key: _file_sha256(finished / f"{key}.npy") for key in arrays}
            manifest = {"name": name, "digest": _digest(name, arrays), "sha256": sha256}
            (finished / "manifest.json").write_text(json.dumps(manifest, indent=2))
            try:
                finished.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise DatasetError(
            f"cannot write the cached data set {folder}: {error}; name a folder that can be "
            f"written, with enough free space, in {CACHE_DIR_VARIABLE}"
        ) from error


def _remove_abandoned(parent: Path) -> None:
    """Delete the temporary folders that killed processes left behind."""
    for path in parent.glob(f"{_TEMPORARY_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _manual_dir(name: str, url: str, manual_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder that holds all four files; None: they are to be downloaded."""
    chosen = manual_dir or os.environ.get(MANUAL_DIR_VARIABLE)
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if os.path.isdir(folder / name):
        folder /= name
    missing = [file for file in _IDX_FILES.values() if not os.path.isfile(folder / file)]
    if not missing:
        return folder
    instead = "pass no manual_dir" if manual_dir else f"unset {MANUAL_DIR_VARIABLE}"
    raise DatasetError(
        f"{folder} must hold the original files of {name}, but lacks {', '.join(missing)}; put "
        + ", ".join(f"{url}{file} (sha256 {_expected_sha256(url + file)})" for file in missing)
        + f" there, or {instead} to have them downloaded"
    )


def _expected_sha256(url: str) -> str:
    """What the checksum lists of tensorflow-datasets say of `url`."""
    from tensorflow_datasets.core.download import checksums

    return checksums.get_all_url_infos()[url].checksum


def _arrays_by_tfds(
    name: str, url: str, manual: Path | None, data_dir: Path
) -> dict[str, np.ndarray]:
    """The four arrays, prepared by tensorflow-datasets in `data_dir` and read back in order."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    builder = _idx_builder(name, url, manual)(data_dir=data_dir, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # it reports temporary paths on stdout
        builder.download_and_prepare(
            download_dir=data_dir / "downloads",
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual, try_download_gcs=False, force_checksums_validation=True
            ),
        )
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        records = list(builder.as_data_source(split=split))
        arrays[f"{split}_images"] = np.concatenate([record["images"] for record in records])
        arrays[f"{split}_labels"] = np.concatenate([record["labels"] for record in records])
    return arrays


def _idx_builder(dataset: str, url: str, manual: Path | None) -> type[Any]:
    """A tensorflow-datasets builder over IDX files that keeps their order and needs no TensorFlow.

    Its own builders of these data sets need TensorFlow to unpack files and encode images.
    """
    import tensorflow_datasets as tfds

    images = tfds.features.Tensor(
        shape=(_RECORD_EXAMPLES, 28, 28, 1), dtype=np.uint8, encoding="bytes"
    )
    labels = tfds.features.Tensor(shape=(_RECORD_EXAMPLES,), dtype=np.int32, encoding="bytes")

    class IdxBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(_PREPARED_VERSION)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({"images": images, "labels": labels}),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            paths = {
                key: _fetch(dl_manager, url + file, manual) for key, file in _IDX_FILES.items()
            }
            return {
                split: self._generate_examples(paths[f"{split}_images"], paths[f"{split}_labels"])
                for split in ("train", "test")
            }

        def _generate_examples(self, images_path, labels_path):
            all_images = _read_idx(images_path)[..., np.newaxis]
            all_labels = _read_idx(labels_path).astype(np.int32)
            for start in range(0, len(all_labels), _RECORD_EXAMPLES):
                record = slice(start, start + _RECORD_EXAMPLES)
                yield start, {"images": all_images[record], "labels": all_labels[record]}

    return IdxBuilder


def _fetch(dl_manager: Any, url: str, manual: Path | None) -> Path:
    """The local path of one original file, its checksum verified."""
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    local = manual / url.rpartition("/")[2] if manual else None
    expected = _expected_sha256(url)
    try:
        if local is None:  # a quick look first: with no network, the download retries for minutes
            requests.head(url, timeout=20)
        return Path(dl_manager.download(url))
    except NonMatchingChecksumError:
        actual = f"is {_file_sha256(local)}" if local else "is not"
        fault = f"sha256 of {local or url} must be {expected}, but {actual}: wrong or damaged file"
    except (OSError, DownloadError) as error:
        fault = f"cannot read {local or url}: {error}"
    raise DatasetError(
        f"{fault}; download {url} (sha256 {expected}) by hand into a folder with the other "
        f"files of its data set, and name that folder in {MANUAL_DIR_VARIABLE}"
    )


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file: two zero bytes, type, rank, then big-endian sizes."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
