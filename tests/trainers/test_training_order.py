"""What the seed decides, and in which order a run sees its examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.trainers.small_runs import (
    CURVE,
    DATASET,
    NUMBERS,
    SETTINGS,
    STEPS,
    Run,
    plain_losses,
    run,
    with_other_images_from,
)
from trainers.data import Dataset
from trainers.training import init_state, on_device


def test_a_run_can_be_repeated(uninterrupted: Run) -> None:
    again = run(dataset=on_device(DATASET))
    assert (again.facts, again.bits) == (uninterrupted.facts, uninterrupted.bits)
    assert [report.epoch for report in again.reports] == [1, 2, 3]
    assert not any(report.diverged for report in again.reports)


SPLITS = ("train_images", "train_labels", "val_images", "val_labels")


def kept_aligned(array: np.ndarray) -> np.ndarray:
    """A read-only copy at an address that XLA takes."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    copy.flags.writeable = False
    return copy


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere data is always copied")
def test_read_only_data_is_trained_on_where_it_lies_and_stays_as_it_is(uninterrupted: Run) -> None:
    dataset = DATASET._replace(**{name: kept_aligned(getattr(DATASET, name)) for name in SPLITS})
    placed = on_device(dataset)
    for name in SPLITS:
        assert getattr(placed, name).unsafe_buffer_pointer() == getattr(dataset, name).ctypes.data
    again = run(dataset=placed)
    assert (again.facts, again.bits) == (uninterrupted.facts, uninterrupted.bits)
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(dataset, name), getattr(DATASET, name))


def test_data_that_may_be_written_to_is_copied() -> None:
    dataset = DATASET._replace(train_images=kept_aligned(DATASET.train_images))
    dataset.train_images.flags.writeable = True
    placed = on_device(dataset)
    dataset.train_images[...] = 0
    np.testing.assert_array_equal(placed.train_images, DATASET.train_images)


def test_the_seed_decides_the_first_parameters_and_the_optimizer_does_not() -> None:
    first, again, other = (
        init_state(DATASET, SETTINGS._replace(seed=seed, optimizer=optimizer)).params
        for seed, optimizer in ((0, "sgd"), (0, "adam"), (1, "sgd"))
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.any(first["dense"]["kernel"] == other["dense"]["kernel"])


def permuted(seed: int, epoch: int) -> Dataset:
    order = np.arange(90)
    np.random.default_rng((seed, epoch)).shuffle(order)
    images, labels = DATASET.train_images[order], DATASET.train_labels[order]
    return DATASET._replace(train_images=images, train_labels=labels)


@pytest.mark.parametrize("seed", [0, 5])
def test_shuffling_is_a_matter_of_seed_and_epoch(seed: int) -> None:
    settings = SETTINGS._replace(seed=seed, num_epochs=2)
    shuffled = run(CURVE[: 2 * STEPS], settings=settings)
    ordered, first, second = (
        run(CURVE[: 2 * STEPS], dataset=dataset, settings=settings._replace(shuffle=False))
        for dataset in (DATASET, permuted(seed, 1), permuted(seed, 2))
    )
    assert shuffled.facts[0] == first.facts[0]
    assert shuffled.facts[1] != first.facts[1]
    assert len({run.facts[0] for run in (ordered, first, second)}) == 3


def test_without_shuffling_every_epoch_sees_the_data_as_it_lies() -> None:
    settings = SETTINGS._replace(shuffle=False, num_epochs=2)
    rates, numbers = np.array([0.1, 0, 0] * 2, np.float32), NUMBERS | {"momentum": 0.0}
    one, other = (
        run(rates, dataset=dataset, numbers=numbers, settings=settings)
        for dataset in (DATASET, with_other_images_from(1))
    )
    assert [report.val_loss for report in one.reports] == [
        report.val_loss for report in other.reports
    ]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_counts_once_in_an_epoch(shuffle: bool) -> None:
    resting = run(np.zeros_like(CURVE), settings=SETTINGS._replace(shuffle=shuffle))
    params = init_state(DATASET, SETTINGS).params
    images, labels = jnp.float32(DATASET.train_images), jnp.asarray(DATASET.train_labels)
    expected = float(np.mean(np.asarray(plain_losses(params, images, labels), np.float64)))
    losses = [report.train_loss for report in resting.reports]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
