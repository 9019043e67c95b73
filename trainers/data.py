"""Image data sets as NumPy arrays: prepared once, cached, verified by hash, cut into splits."""

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from trainers.prepare import (
    CACHE_DIR_VARIABLE,
    IDX_FILES,
    PREPARED_VERSION,
    DatasetError,
    content_digest,
    file_sha256,
    prepare,
)

ValidationSplit = Literal["train", "test"]

# Constants of the project, never the training seed: all runs see the same images in each split.
_VALIDATION_SEED = 20170825
_DIGITS_TEST_SEED = 19980701


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


DATASETS: Mapping[str, DatasetInfo] = {
    "fashion_mnist": DatasetInfo(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", 60_000, 10_000, 10
    ),
    "mnist": DatasetInfo("https://storage.googleapis.com/cvdf-datasets/mnist/", 60_000, 10_000, 10),
    "kmnist": DatasetInfo("http://codh.rois.ac.jp/kmnist/dataset/kmnist/", 60_000, 10_000, 10),
    "digits": DatasetInfo(None, 1_437, 360, 10),
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
        folder = cache_root(cache_dir) / name / PREPARED_VERSION
        if not os.path.exists(folder):  # False, not an error, where reading is forbidden
            prepare(name, url, folder, manual_dir)
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
    return _uncut(name, arrays, content_digest(name, arrays))


def cache_root(cache_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of prepared data sets: `cache_dir`, else as the environment says."""
    chosen = cache_dir or os.environ.get(CACHE_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sweep"


def _load_prepared(name: str, folder: Path) -> Dataset:
    """The arrays of a prepared folder, mapped from disk after their hashes were verified."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for key in IDX_FILES:
            expected, actual = manifest["sha256"][key], file_sha256(folder / f"{key}.npy")
            if actual != expected:
                raise ValueError(f"sha256 of {key}.npy must be {expected}, but is {actual}")
        mapped = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in IDX_FILES}
        # Plain arrays, for those of a subclass are copied when they are pickled.
        arrays = {key: np.asarray(array) for key, array in mapped.items()}
        return _uncut(name, arrays, manifest["digest"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"the cached data set {folder} is damaged: {error}; "
            "delete that folder, and the data set is prepared again"
        ) from error
