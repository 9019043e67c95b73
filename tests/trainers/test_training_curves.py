"""One compiled program for all families, and the curve that it used."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from tests.trainers.small_runs import (
    CURVE,
    DATASET,
    NUMBERS,
    SETTINGS,
    STEPS,
    Run,
    run,
    small_dataset,
    with_other_images_from,
)
from trainers.devices import count_programs
from trainers.plateau import Plateau
from trainers.schedules import SCHEDULES, learning_rate_curve, plateau_rule
from trainers.training import Settings, fit, train_epoch

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
