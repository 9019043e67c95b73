import hashlib
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from trainers.checkpoints import load_checkpoint, previous_path
from trainers.data import Dataset
from trainers.devices import count_programs
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.models import apply_cnn
from trainers.plateau import Plateau
from trainers.schedules import SCHEDULES, learning_rate_curve, plateau_rule
from trainers.training import (
    EpochReport,
    Settings,
    TrainState,
    evaluate,
    fit,
    init_state,
    on_device,
    run_fingerprint,
    steps_per_epoch,
    train_epoch,
)

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


@pytest.fixture(scope="module")
def uninterrupted() -> Run:
    return run()


# Oracle


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


@jax.jit
def plain_gradients(params: Any, images: jax.Array, labels: Any) -> tuple[Any, Any]:
    """Of the mean over the batch."""
    return jax.value_and_grad(lambda p: jnp.mean(plain_losses(p, images, labels)))(params)


def plain_epoch(
    params: Any, batch_size: int, loss_reduction: str, transform: optax.GradientTransformation
) -> tuple[Any, float]:
    """Parameters and training loss after one pass in order, with optax throughout."""
    state, losses = transform.init(params), []
    for start in range(0, 90, batch_size):
        batch = slice(start, start + batch_size)
        images = DATASET.train_images[batch].astype(np.float32)
        loss, gradients = plain_gradients(params, images, DATASET.train_labels[batch])
        if loss_reduction == "sum":
            gradients = jax.tree.map(partial(jnp.multiply, len(images)), gradients)
        update, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, update)
        losses.append(float(loss) * len(images))
    return params, sum(losses) / (len(losses) if loss_reduction == "sum" else 90)


def adamw(rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.adamw(rate, 0.8, 0.95, 1e-3, weight_decay=0.1)


def decayed_nesterov(rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    nesterov = optax.sgd(rate, momentum=0.9, nesterov=True)
    return optax.chain(optax.add_decayed_weights(0.1), nesterov)


@pytest.mark.parametrize(
    ("optimizer", "numbers", "twin", "loss_reduction", "batch_size"),
    [
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "mean", 40),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "sum", 40),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "mean", 20),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "mean", 100),
        ("nesterov", {"momentum": 0.9, "weight_decay": 0.1}, decayed_nesterov, "mean", 40),
        ("adamw", {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}, adamw, "mean", 40),
    ],
)
def test_an_epoch_is_a_plain_loop_with_optax(
    optimizer: str,
    numbers: dict[str, float],
    twin: Callable[[Any], optax.GradientTransformation],
    loss_reduction: str,
    batch_size: int,
) -> None:
    """Batches of 40 and 100 are no multiple of 32, and 40 and 20 leave a smaller last one."""
    settings = Settings(1, batch_size, "cnn", optimizer, 7, False, loss_reduction)
    rates = np.linspace(0.02, 0.05, -(-90 // batch_size), dtype=np.float32)
    rates /= 20 if loss_reduction == "sum" else 1
    ours = run(rates, numbers=numbers, settings=settings)
    start = init_state(DATASET, settings).params
    params, loss = plain_epoch(
        start, batch_size, loss_reduction, twin(lambda step: jnp.asarray(rates)[step])
    )
    np.testing.assert_allclose(ours.reports[0].train_loss, loss, rtol=1e-5)
    for one, other, first in zip(
        *map(jax.tree.leaves, (ours.state.params, params, start)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
        assert not np.allclose(one, first, rtol=1e-4, atol=2e-6)
    validation = plain_losses(params, jnp.float32(DATASET.val_images), DATASET.val_labels)
    np.testing.assert_allclose(ours.reports[0].val_loss, validation.mean(), rtol=1e-4)


def test_an_evaluation_is_the_mean_over_a_split_longer_than_one_batch() -> None:
    big = small_dataset(300, 1)
    params = init_state(big, SETTINGS).params
    images, labels = big.train_images, big.train_labels
    logits = np.asarray(apply_cnn(params, jnp.float32(images) / 255), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(300), labels]
    loss, accuracy = evaluate(params, jnp.asarray(images), jnp.asarray(labels), model="cnn")
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-6)
    assert accuracy == np.mean(logits.argmax(1) == labels)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"), [(90, 40, 3), (80, 40, 2), (81, 40, 3), (5, 40, 1)]
)
def test_the_last_batch_may_be_smaller(num_examples: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(num_examples, batch_size) == steps


# One program, and the curve it used

FAMILIES: dict[str, dict[str, Any]] = {
    "constant": {"peak_lr": 0.05},
    "exponential_decay": {"peak_lr": 0.05, "decay_rate": 0.1},
    "step_decay": {"peak_lr": 0.05, "decay_rate": 0.1, "decay_steps": 2},
    "inverse_time_decay": {"peak_lr": 0.05, "decay_rate": 3.0, "staircase": True},
    "inverse_sqrt": {"peak_lr": 0.05, "timescale_fraction": 0.3},
    "linear_decay": {"peak_lr": 0.05},
    "polynomial_decay": {"peak_lr": 0.05, "power": 2.0},
    "cosine_decay": {"peak_lr": 0.05, "final_fraction": 0.1},
    "rex": {"peak_lr": 0.05},
    "cosine_restarts": {"peak_lr": 0.05, "cycle_steps": 2},
    "one_cycle": {"peak_lr": 0.05, "rise_fraction": 0.3},
    "warmup_stable_decay": {"peak_lr": 0.05, "decay_fraction": 0.5, "shape": "1-sqrt"},
    "cyclic": {"peak_lr": 0.05, "cycle_steps": 2, "init_fraction": 0.1},
    "piecewise_constant": {"values": [0.05, 0.01], "boundaries_epochs": [1.5]},
    "interpolate": {"values": [0.05, 0.02, 0.0], "knots_fraction": [0, 0.4, 1]},
    "reduce_on_plateau": {"peak_lr": 0.05, "patience_epochs": 5},
    "custom": {"function": "trainers.schedules:divide_by_three", "init_lr": 0.05},
}


def cache_size() -> int:
    """How many programs JAX holds for an epoch; its type stubs leave the method out."""
    return getattr(train_epoch, "_cache_size")()  # noqa: B009


class FamilyRuns(NamedTuple):
    curves: dict[str, np.ndarray]
    runs: dict[str, Run]
    train_programs: Counter[str]
    evaluate_programs: Counter[str]
    cached: int


@pytest.fixture(scope="module")
def family_runs(tmp_path_factory: pytest.TempPathFactory) -> FamilyRuns:
    """Each family once, with hyperparameters of its own, on data of a size no other test has."""
    dataset, folder = small_dataset(41, 31), tmp_path_factory.mktemp("families")
    settings = Settings(num_epochs=2, batch_size=16)
    train_programs, evaluate_programs = count_programs("train_epoch"), count_programs("_evaluate")
    cached = cache_size()
    curves, runs = {}, {}
    for index, family in enumerate(SCHEDULES):
        space = {"schedule": {family: FAMILIES[family]}, "warmup_steps": index % 2}
        curves[family] = learning_rate_curve(space, num_epochs=2, steps_per_epoch=3)
        numbers = {"momentum": 0.1 * index, "weight_decay": 0.01 * index}
        options: dict[str, Any] = {
            "momentum": np.linspace(0.9, 0.8, 6, dtype=np.float32) if index % 3 else None,
            "plateau": plateau_rule(space, num_epochs=2, steps_per_epoch=3),
            "checkpoint_path": folder / family,
        }
        epochs = fit(dataset, curves[family], numbers, settings, **options)
        next(epochs)
        epochs.close()
        runs[family] = run(
            curves[family], dataset=dataset, numbers=numbers, settings=settings, **options
        )
    cached = cache_size() - cached
    return FamilyRuns(curves, runs, train_programs, evaluate_programs, cached)


def test_one_program_serves_every_family_hyperparameter_and_resumed_run(
    family_runs: FamilyRuns,
) -> None:
    assert len(family_runs.runs) == len(SCHEDULES)
    assert family_runs.cached == 1
    assert family_runs.train_programs == {"traced": 1, "compiled": 1}
    assert family_runs.evaluate_programs == {"traced": 1, "compiled": 1}


@pytest.mark.parametrize("family", SCHEDULES)
def test_the_used_curve_is_the_curve_bit_for_bit(family: str, family_runs: FamilyRuns) -> None:
    rows = family_runs.curves[family].reshape(2, 3)
    used = [report.learning_rate_sha256 for report in family_runs.runs[family].reports]
    assert used == [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]


def test_a_momentum_curve_is_consumed_step_by_step() -> None:
    constant = np.full(len(CURVE), NUMBERS["momentum"], np.float32)
    plain, same = run(CURVE), run(CURVE, momentum=constant)
    jax.tree.map(np.testing.assert_array_equal, plain.state.params, same.state.params)
    used = [report.momentum_sha256 for report in same.reports]
    rows = constant.reshape(-1, STEPS)
    assert used == [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
    losses = set()
    for step in range(1, len(CURVE)):  # the first has no velocity to keep
        changed = constant.copy()
        changed[step] += 0.05
        losses.add(run(CURVE, momentum=changed).reports[-1].val_loss)
    assert len(losses | {plain.reports[-1].val_loss}) == len(CURVE)


def test_a_momentum_curve_drives_b1_of_adam() -> None:
    settings = SETTINGS._replace(optimizer="adam")
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    options: dict[str, Any] = {"settings": settings, "numbers": numbers}
    plain, driven = (
        run(CURVE, **options, momentum=momentum).reports[-1].val_loss
        for momentum in (None, np.full(len(CURVE), 0.5, np.float32))
    )
    halved = run(CURVE, settings=settings, numbers={**numbers, "b1": 0.5}).reports[-1].val_loss
    assert driven == halved != plain


def test_a_plateau_scales_the_rates_of_the_epochs_after_it(tmp_path: Path) -> None:
    """Every epoch counts as bad here, so that each next one runs at half the rate."""
    curve = np.full(4 * STEPS, 0.01, np.float32)
    settings = SETTINGS._replace(num_epochs=4)
    plateau = Plateau(factor=0.5, patience=0, threshold=1, cooldown=0, min_fraction=0.25)
    rows = [curve[:STEPS] * np.float32(scale) for scale in (1, 1, 0.5, 0.25)]
    expected = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
    whole = run(curve, settings=settings, plateau=plateau)
    assert [report.learning_rate_sha256 for report in whole.reports] == expected
    epochs = fit(DATASET, curve, NUMBERS, settings, plateau=plateau, checkpoint_path=tmp_path / "c")
    for _ in range(2):
        next(epochs)
    epochs.close()
    resumed = run(curve, settings=settings, plateau=plateau, checkpoint_path=tmp_path / "c")
    assert [report.learning_rate_sha256 for report in resumed.reports] == expected
    assert resumed.reports[-1].val_loss == whole.reports[-1].val_loss


def with_other_images_from(step: int) -> Dataset:
    images = DATASET.train_images.copy()
    images[step * 40 :] = 255 - images[step * 40 :]
    return DATASET._replace(train_images=images)


@pytest.mark.parametrize("rates", [[0.1, 0, 0], [0.1, 0.1, 0]])
def test_learning_rates_of_0_leave_the_parameters_alone_from_there_on(rates: list[float]) -> None:
    """So what the steps from there on see is of no matter to the parameters."""
    settings = SETTINGS._replace(num_epochs=1, shuffle=False)
    curve, step = np.array(rates, np.float32), rates.index(0)
    one, other = (
        run(curve, dataset=dataset, settings=settings)
        for dataset in (DATASET, with_other_images_from(step))
    )
    assert one.reports[0].val_loss == other.reports[0].val_loss
    jax.tree.map(np.testing.assert_array_equal, one.state.params, other.state.params)
    assert one.reports[0].train_loss != other.reports[0].train_loss


def test_epochs_at_learning_rate_0_change_no_parameter() -> None:
    curve = np.where(np.arange(len(CURVE)) < STEPS, CURVE, np.float32(0))
    resting = run(curve)
    first, *rest = resting.reports
    assert {report.val_loss for report in rest} == {first.val_loss}
    one_epoch = run(CURVE[:STEPS], settings=SETTINGS._replace(num_epochs=1))
    jax.tree.map(np.testing.assert_array_equal, resting.state.params, one_epoch.state.params)


@pytest.mark.parametrize("step", range(len(CURVE)))
def test_every_learning_rate_matters(step: int, uninterrupted: Run) -> None:
    curve = CURVE.copy()
    curve[step] *= 1.5
    changed = run(curve)
    assert changed.bits != uninterrupted.bits
    epoch = step // STEPS
    assert changed.facts[:epoch] == uninterrupted.facts[:epoch]
    assert changed.reports[epoch].val_loss != uninterrupted.reports[epoch].val_loss


@pytest.mark.parametrize("name", NUMBERS)
def test_every_hyperparameter_matters(name: str, uninterrupted: Run) -> None:
    assert run(numbers=NUMBERS | {name: 0.3}).bits != uninterrupted.bits


# Order and seed


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


# Divergence

TOO_FAST = np.where(np.arange(len(CURVE)) < STEPS, CURVE, np.float32(1e30))


def test_a_diverging_run_ends_with_that_epoch_and_keeps_no_checkpoint_of_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "checkpoint"
    reports = run(TOO_FAST, checkpoint_path=path).reports
    assert [report.epoch for report in reports] == [1, 2]
    assert [report.diverged for report in reports] == [False, True]
    assert not (math.isfinite(reports[1].train_loss) and math.isfinite(reports[1].val_loss))
    fingerprint = run_fingerprint(DATASET, TOO_FAST, NUMBERS, SETTINGS)
    kept = load_checkpoint(path, init_state(DATASET, SETTINGS), fingerprint)
    assert kept.epoch == 1
    assert kept.reports == [reports[0]._asdict()]
    assert not previous_path(path).exists()
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(kept.state))


def test_a_last_step_that_diverges_shows_in_the_validation_alone(tmp_path: Path) -> None:
    curve = np.where(np.arange(len(CURVE)) == STEPS - 1, np.float32(1e30), CURVE)
    (only,) = run(curve, checkpoint_path=tmp_path / "checkpoint").reports
    assert math.isfinite(only.train_loss)
    assert not math.isfinite(only.val_loss)
    assert only.diverged
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_diverges_again_when_resumed(tmp_path: Path) -> None:
    whole = run(TOO_FAST, checkpoint_path=tmp_path / "checkpoint")
    again = run(TOO_FAST, checkpoint_path=tmp_path / "checkpoint", skip_epochs=1)
    assert again.facts == whole.facts[1:]


def test_a_run_that_diverges_at_once_leaves_no_checkpoint(tmp_path: Path) -> None:
    (only,) = run(np.full_like(CURVE, 1e30), checkpoint_path=tmp_path / "checkpoint").reports
    assert only.diverged
    assert list(tmp_path.iterdir()) == []


# Resuming


@pytest.mark.parametrize("after", range(NUM_EPOCHS + 1))
@pytest.mark.parametrize("skip_all", [True, False], ids=["skip", "yield again"])
def test_a_resumed_run_is_the_uninterrupted_one(
    after: int, skip_all: bool, uninterrupted: Run, tmp_path: Path
) -> None:
    path, skip = tmp_path / "checkpoint", after if skip_all else 0
    before = interrupted(path, after)
    resumed = run(checkpoint_path=path, skip_epochs=skip)
    assert resumed.reports[: after - skip] == before[skip:]
    assert resumed.facts == uninterrupted.facts[skip:]
    assert resumed.bits == uninterrupted.bits


def test_resuming_carries_the_state_of_the_optimizer(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "numbers": HYPERPARAMETERS["adam"],
        "settings": SETTINGS._replace(optimizer="adam"),
    }
    epochs = fit(DATASET, CURVE, *options.values(), checkpoint_path=tmp_path / "checkpoint")
    next(epochs)
    epochs.close()
    resumed = run(**options, checkpoint_path=tmp_path / "checkpoint")
    whole = run(**options)
    assert (resumed.facts, resumed.bits) == (whole.facts, whole.bits)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_damaged_checkpoint_costs_one_epoch_and_no_result(
    skip: int, uninterrupted: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    interrupted(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    resumed = run(checkpoint_path=path, skip_epochs=skip)
    assert "an earlier state is taken" in caplog.text
    assert resumed.facts == uninterrupted.facts[min(skip, 1) :]
    assert resumed.bits == uninterrupted.bits


@pytest.mark.parametrize(
    "change",
    [
        {"curve": CURVE * np.float32(0.5)},
        {"numbers": NUMBERS | {"momentum": 0.6}},
        {"settings": SETTINGS._replace(seed=1)},
        {"settings": SETTINGS._replace(shuffle=False)},
        {"dataset": DATASET._replace(digest="1" * 36)},
    ],
    ids=["curve", "numbers", "seed", "shuffle", "dataset"],
)
def test_a_checkpoint_of_another_run_is_left_alone(change: dict[str, Any], tmp_path: Path) -> None:
    interrupted(tmp_path / "checkpoint", 2)
    resumed = run(**change, checkpoint_path=tmp_path / "checkpoint")
    assert resumed.facts == run(**change).facts


def test_the_fingerprint_tells_apart_what_trains_differently() -> None:
    fewer = {name: getattr(DATASET, name)[:80] for name in ("train_images", "train_labels")}
    validated = {name: getattr(DATASET, name)[:5] for name in ("val_images", "val_labels")}
    plateau = Plateau(factor=0.5, patience=0, threshold=1, cooldown=0, min_fraction=0.25)
    runs: list[tuple[Any, ...]] = [
        (DATASET, CURVE, NUMBERS, SETTINGS),
        (DATASET._replace(**fewer), CURVE, NUMBERS, SETTINGS),
        (DATASET._replace(**validated), CURVE, NUMBERS, SETTINGS),
        (DATASET._replace(digest="0"), CURVE, NUMBERS, SETTINGS),
        (DATASET, CURVE / 2, NUMBERS, SETTINGS),
        (DATASET, CURVE, NUMBERS | {"momentum": 0.4}, SETTINGS),
        (DATASET, CURVE, NUMBERS, SETTINGS._replace(seed=9)),
        (DATASET, CURVE, NUMBERS, SETTINGS, CURVE),
        (DATASET, CURVE, NUMBERS, SETTINGS, None, plateau),
        (DATASET, CURVE, NUMBERS, SETTINGS, None, plateau._replace(patience=1)),
    ]
    assert len({run_fingerprint(*run) for run in runs}) == len(runs)


def test_the_fingerprint_does_not_depend_on_the_order_of_the_hyperparameters() -> None:
    backwards = dict(reversed(NUMBERS.items()))
    one, other = (run_fingerprint(DATASET, CURVE, n, SETTINGS) for n in (NUMBERS, backwards))
    assert one == other


# Errors


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (CURVE[:-1], r"the curve must be float32 \(9,\), but got float32\(8,\)"),
        (CURVE.astype(np.float64), r"the curve must be float32 \(9,\), but got float64\(9,\)"),
        (CURVE.reshape(3, 3), r"the curve must be float32 \(9,\), but got float32\(3, 3\)"),
        (-CURVE, "the curve must be finite and >= 0 at every step, but it is not"),
        (CURVE * np.float32(np.nan), "the curve must be finite and >= 0 at every step"),
        (CURVE * np.float32(np.inf), "the curve must be finite and >= 0 at every step"),
    ],
    ids=["short", "float64", "rows", "negative", "nan", "inf"],
)
def test_a_curve_that_does_not_fit_is_refused(curve: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        next(fit(DATASET, curve, NUMBERS, SETTINGS))
