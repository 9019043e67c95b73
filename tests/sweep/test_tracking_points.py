"""The metrics, parameters and tags that are sent to MLflow, and those that are not."""

import hashlib
import math
from pathlib import Path

import pytest

from search_spaces import parse_config
from sweep.curves import thin_curve
from sweep.projection import applied_curve, best_points, curve_points
from tests.tracked import (
    CONFIG,
    EPOCHS,
    STEPS,
    artifacts,
    curve_of,
    history,
    project,
    runs_of,
    space_of,
    sweep_record,
    trial_record,
)

# MLflow itself uses a SQLAlchemy option that is to go.
pytestmark = [
    pytest.mark.usefixtures("shipper_environment"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


def test_a_curve_that_was_not_consumed_is_not_logged(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    first, later = trial_record(0, "complete"), trial_record(1, "complete")
    forged = [report | {"learning_rate_sha256": "0" * 64} for report in first.reports]
    trials = [
        first._replace(reports=tuple(forged)),
        later._replace(reports=(*later.reports[:2], *forged[2:])),
    ]
    assert project(sweep, trials) == ()
    runs = runs_of(sweep)
    assert [runs[n].data.tags["curve_mismatch"] for n in (0, 1)] == ["1", "3"]
    assert [len(history(sweep, runs[n], "learning_rate")) for n in (0, 1)] == [0, 2 * STEPS]
    assert "learning_rate.png" not in artifacts(sweep, runs[0]) + artifacts(sweep, runs[1])
    assert len(history(sweep, runs[0], "val_loss")) == EPOCHS


def test_a_space_that_makes_no_curve_is_a_mismatch(tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, "")
    trial = trial_record(0, "failed")._replace(space=space_of(-1.0))
    curve = applied_curve(sweep, trial)
    assert (curve.values, curve.verified_epochs, curve.mismatch) == (None, 0, 1)


def test_no_value_that_is_not_finite_is_sent(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    trial = trial_record(0, "diverged", 2)
    bad = {"train_loss": math.inf, "val_loss": math.nan, "val_accuracy": None}
    trial = trial._replace(reports=(trial.reports[0], trial.reports[1] | bad), value=None)
    project(sweep, [trial])
    run = runs_of(sweep)[0]
    values = [v for key in run.data.metrics for _, v, _ in history(sweep, run, key)]
    assert len(values) == 3 + 2 + 2 * STEPS
    assert all(map(math.isfinite, values))


def test_more_points_than_one_request_may_carry(uri: str, tmp_path: Path) -> None:
    steps = 1000
    sweep = sweep_record(tmp_path, uri, steps_per_epoch=steps)
    trial = trial_record(0, "complete", steps=steps)
    project(sweep, [trial])
    curve = curve_of(trial.space, steps)
    expected = [(step, float(curve[step])) for step in thin_curve(curve).tolist()]
    assert len(expected) == 2500
    sent = history(sweep, runs_of(sweep)[0], "learning_rate")
    assert [point[:2] for point in sent] == expected


def test_a_stopped_trial_shows_the_last_rate_it_used(tmp_path: Path) -> None:
    steps = 1400  # the last step of epoch 2 is none of the evenly spaced ones
    sweep = sweep_record(tmp_path, "", steps_per_epoch=steps)
    for state, expected in (("pruned", 2 * steps - 1), ("running", 2 * steps - 2)):
        trial = trial_record(0, state, 2, steps=steps)
        curve = applied_curve(sweep, trial)
        sent = list(curve_points(sweep, trial, curve, after_epoch=0))
        assert sent[-1].step == expected, state


def test_long_and_odd_parameter_values(uri: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, uri)
    odd = {
        "schedule": "custom",
        "function": "größe" + "x" * 7000,
        "staircase": True,
        "tiny": 5e-324,
    }
    trial = trial_record(0, "complete", parameters=odd)
    for _ in range(2):
        assert project(sweep, [trial]) == ()
    sent = runs_of(sweep)[0].data.params
    assert len(sent["function"]) <= 6000
    assert sent["function"].endswith(
        f"sha256 {hashlib.sha256(odd['function'].encode()).hexdigest()[:16]})"
    )
    assert (sent["staircase"], float(sent["tiny"])) == ("True", 5e-324)


def test_best_so_far_follows_the_goal_and_the_order_of_ending(tmp_path: Path) -> None:
    config = parse_config(
        CONFIG.replace(
            "{algorithm: random, num_trials: 4}",
            "{algorithm: random, num_trials: 4, metric: val_loss}",
        )
    )
    ends = [(3, "complete", 0.5), (1, "diverged", None), (2, "complete", 0.9), (4, "failed", 0.1)]
    trials = [
        trial_record(number, state, value=value, ended_ms=ended)
        for number, (ended, state, value) in enumerate(ends)
    ]
    points = best_points(config, trials)
    assert [(p.key, p.value, p.timestamp_ms, p.step) for p in points] == [
        ("best_val_loss", 0.9, 2, 2),
        ("best_val_loss", 0.5, 3, 3),
    ]
