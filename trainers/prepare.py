"""Preparing a data set once: original IDX files, by tensorflow-datasets, to a folder of arrays."""

import contextlib
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
from typing import Any

import numpy as np

# Part of every cache path: raise it whenever the prepared arrays would come out differently.
PREPARED_VERSION = "1.0.0"
MANUAL_DIR_VARIABLE = "SWEEP_MANUAL_DIR"
CACHE_DIR_VARIABLE = "SWEEP_CACHE_DIR"

_RECORD_EXAMPLES = 500  # many images per record: one image per record takes a minute to read back
_ABANDONED_SECONDS = 24 * 3600  # a preparation takes seconds; an older folder has lost its process
_TEMPORARY_PREFIX = ".preparing-"


class DatasetError(ValueError):
    """A data set that cannot be had as asked: what is wrong, and the way out."""


IDX_FILES: Mapping[str, str] = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def prepare(name: str, url: str, folder: Path, manual_dir: str | os.PathLike[str] | None) -> None:
    """Write the folder that `trainers.data` reads, whole or not at all.

    Several processes may do so at once: the first to finish wins, the others use its folder.
    """
    manual = find_manual_dir(name, url, manual_dir)
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
            sha256 = {key: file_sha256(finished / f"{key}.npy") for key in arrays}
            manifest = {"name": name, "digest": content_digest(name, arrays), "sha256": sha256}
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


def find_manual_dir(name: str, url: str, manual_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder that holds all four files; None: they are to be downloaded."""
    chosen = manual_dir or os.environ.get(MANUAL_DIR_VARIABLE)
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if os.path.isdir(folder / name):
        folder /= name
    missing = [file for file in IDX_FILES.values() if not os.path.isfile(folder / file)]
    if not missing:
        return folder
    instead = "pass no manual_dir" if manual_dir else f"unset {MANUAL_DIR_VARIABLE}"
    raise DatasetError(
        f"{folder} must hold the original files of {name}, but lacks {', '.join(missing)}; put "
        + ", ".join(f"{url}{file} (sha256 {expected_sha256(url + file)})" for file in missing)
        + f" there, or {instead} to have them downloaded"
    )


def expected_sha256(url: str) -> str:
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
        VERSION = tfds.core.Version(PREPARED_VERSION)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({"images": images, "labels": labels}),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            paths = {key: _fetch(dl_manager, url + file, manual) for key, file in IDX_FILES.items()}
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
    expected = expected_sha256(url)
    try:
        if local is None:  # a quick look first: with no network, the download retries for minutes
            requests.head(url, timeout=20)
        return Path(dl_manager.download(url))
    except NonMatchingChecksumError:
        actual = f"is {file_sha256(local)}" if local else "is not"
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


def content_digest(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """36 hex digits of SHA-256 (MLflow takes no more) over names, types, shapes and contents."""
    digest = hashlib.sha256(name.encode())
    for key, array in arrays.items():
        digest.update(f"\n{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:36]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
