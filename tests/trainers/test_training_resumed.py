"""Runs that diverge, and runs that are cut off and resumed."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.trainers.small_runs import (
    CURVE,
    DATASET,
    NUM_EPOCHS,
    NUMBERS,
    SETTINGS,
    STEPS,
    Run,
    interrupted,
    run,
)
from trainers.checkpoints import load_checkpoint, previous_path
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.plateau import Plateau
from trainers.training import fit, init_state, run_fingerprint

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
