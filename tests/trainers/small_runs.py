"""Short runs on invented images, for tests of the training program."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainers.data import Dataset
from trainers.training import EpochReport, Settings, TrainState, fit

NUM_EPOCHS = 3
SETTINGS = Settings(num_epochs=NUM_EPOCHS, batch_size=40)
STEPS = 3  # of 40, 40 and 10 images
NUMBERS = {"momentum": 0.5, "weight_decay": 0.01}
CURVE = np.linspace(0.1, 0.02, NUM_EPOCHS * STEPS, dtype=np.float32)


def small_dataset(num_train: int, num_val: int) -> Dataset:
    random = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 10, count).astype(np.int32)
        images = random.integers(0, 200, (count, 8, 8, 1)) + 5 * labels[:, None, None, None]
        return images.astype(np.uint8), labels

    return Dataset(
        "noise", *split(num_train), *split(num_val), *split(1), num_classes=10, digest="0" * 36
    )


DATASET = small_dataset(90, 30)


class Run(NamedTuple):
    reports: list[EpochReport]
    state: TrainState

    @property
    def facts(self) -> list[str]:
        """All but the time, as text, in which one NaN equals another."""
        return [repr(report._replace(seconds=0.0)) for report in self.reports]

    @property
    def bits(self) -> list[bytes]:
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(self.state)]


def run(
    curve: np.ndarray = CURVE,
    *,
    dataset: Dataset = DATASET,
    numbers: dict[str, float] = NUMBERS,
    settings: Settings = SETTINGS,
    **options: Any,
) -> Run:
    epochs = fit(dataset, curve, numbers, settings, **options)
    reports = []
    while True:
        try:
            reports.append(next(epochs))
        except StopIteration as end:
            return Run(reports, end.value)


def interrupted(path: Path, after: int) -> list[EpochReport]:
    epochs = fit(DATASET, CURVE, NUMBERS, SETTINGS, checkpoint_path=path)
    reports = [next(epochs) for _ in range(after)]
    epochs.close()
    return reports


def with_other_images_from(step: int) -> Dataset:
    images = DATASET.train_images.copy()
    images[step * 40 :] = 255 - images[step * 40 :]
    return DATASET._replace(train_images=images)


def plain_logits(params: Any, images: jax.Array) -> jax.Array:
    hidden = images / jnp.float32(255)
    for name in ("conv1", "conv2"):
        hidden = lax.conv_general_dilated(
            hidden,
            params[name]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        hidden = jnp.maximum(hidden + params[name]["bias"], 0)
    flat = hidden.reshape(len(images), -1)
    return flat @ params["dense"]["kernel"] + params["dense"]["bias"]


def plain_losses(params: Any, images: jax.Array, labels: Any) -> jax.Array:
    return -jax.nn.log_softmax(plain_logits(params, images))[jnp.arange(len(labels)), labels]
