"""Every schedule family, a curve for the momentum and a user's own file through a real sweep."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from mlflow import MlflowClient

from search_spaces.defaults import DEFAULT_SPACES
from sweep.directory import read_sweep
from sweep.records import SweepRecord, TrialRecord
from trainers.schedules import SCHEDULES, learning_rate_curve, momentum_curve, plateau_rule

pytestmark = [
    pytest.mark.slow,
    # MLflow itself uses a SQLAlchemy option that is to go.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

SWEEP = str(Path(sys.executable).with_name("sweep"))
CHANGED = {
    # Every epoch is bad, so that the rate halves from the third epoch on.
    "reduce_on_plateau": {"peak_lr": 0.3, "patience_epochs": 0, "factor": 0.5, "threshold": 1},
    "custom": {"function": "rules.py:shrink", "start": 0.2, "interval": "epoch"},
}
# Fails in a Ray worker: only what the driver read may be used there.
RULES = """\
import sys

if "default_worker" in sys.argv[0]:
    raise ImportError("a worker must not need this file")

RATE = 0.5


def shrink(epoch, *, start):
    return start * rate() ** epoch


def rate():
    return RATE
"""


def middle(leaf: object) -> object:
    """One value for every range of a default space."""
    if isinstance(leaf, list):
        return [middle(entry) for entry in leaf]
    if not isinstance(leaf, dict):
        return leaf
    ((kind, ends),) = leaf.items()
    return ends[0] if kind == "choice" else (ends[0] * ends[1]) ** 0.5


class Finished(NamedTuple):
    folder: Path
    sweep: SweepRecord
    trials: list[TrialRecord]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SWEEP, *arguments], cwd=folder, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def every_family(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("every_family")
    (folder / "rules.py").write_text(RULES)
    schedule = {
        family: {key: middle(leaf) for key, leaf in space.items()}
        for family, space in DEFAULT_SPACES.items()
    }
    document = {
        "version": 1,
        "name": "every",
        "data": {"dataset": "digits", "validation_examples": 287},
        "training": {"num_epochs": 4, "batch_size": 64},
        "space": {
            "schedule": schedule | CHANGED,
            "momentum_schedule": {"mirror": {"low": 0.5, "high": 0.9}},
            "warmup_fraction": 0.1,
            "warmup_shape": "cosine",
        },
        "search": {"algorithm": "grid"},
    }
    (folder / "every.yaml").write_text(json.dumps(document))
    completed = sweep(folder, "launch", "every.yaml")
    assert completed.returncode == 0, completed.stderr
    return Finished(folder, *read_sweep(folder / "sweeps" / "every"))


def test_every_family_trains_in_the_one_program_of_a_worker(every_family: Finished) -> None:
    families = [trial.parameters["schedule"] for trial in every_family.trials]
    assert sorted(families) == sorted(SCHEDULES)
    assert {trial.state for trial in every_family.trials} == {"complete"}
    workers = [report["worker"] for trial in every_family.trials for report in trial.reports]
    assert {(worker["traced"], worker["compiled"]) for worker in workers} == {(1, 1)}
    assert len({worker["pid"] for worker in workers}) <= (os.cpu_count() or 1)


def test_what_mlflow_shows_is_what_was_used_bit_for_bit(every_family: Finished) -> None:
    """Learning rates, scaled by plateaus, and momenta."""
    client = MlflowClient(f"sqlite:///{every_family.folder}/sweeps/mlflow.db")
    experiment = client.get_experiment_by_name("sweep")
    assert experiment is not None
    steps = every_family.sweep.steps_per_epoch
    for trial in every_family.trials:
        (run,) = client.search_runs(
            [experiment.experiment_id], f"tags.`sweep.trial` = '{trial.number}'"
        )
        planned = learning_rate_curve(trial.space, num_epochs=4, steps_per_epoch=steps)
        momenta = momentum_curve(trial.space, planned, steps_per_epoch=steps)
        assert momenta is not None
        used = {
            "learning_rate": planned.reshape(4, steps) * scales(trial, steps)[:, None],
            "momentum": momenta.reshape(4, steps),
        }
        for key, rows in used.items():
            points = client.get_metric_history(run.info.run_id, key)
            assert [point.step for point in points] == list(range(4 * steps))
            shown = np.array([point.value for point in points], np.float32)
            assert shown.tobytes() == rows.tobytes()
            hashes = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
            assert [report[f"{key}_sha256"] for report in trial.reports] == hashes


def scales(trial: TrialRecord, steps: int) -> np.ndarray:
    plateau = plateau_rule(trial.space, num_epochs=4, steps_per_epoch=steps)
    if plateau is None:
        return np.ones(4, np.float32)
    losses = [report["val_loss"] for report in trial.reports]
    found = plateau.scales(losses[:3])
    assert found == [1, 1, 0.5, 0.25]
    return np.array(found, np.float32)


def test_a_trial_with_feedback_is_trained_again_to_the_last_digit(every_family: Finished) -> None:
    for family in ("reduce_on_plateau", "custom"):
        (number,) = (t.number for t in every_family.trials if t.parameters["schedule"] == family)
        export = ("export", "every", "--trial", str(number), "-o", "one.yaml")
        assert sweep(every_family.folder, *export).returncode == 0
        trained = sweep(every_family.folder, "train", "one.yaml")
        assert "(equal)" in trained.stdout, trained.stdout + trained.stderr
        assert "not the one of the sweep" not in trained.stderr


def test_a_changed_function_is_refused_on_resume(tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(RULES)
    document = {
        "version": 1,
        "name": "own",
        "data": {"dataset": "digits", "validation_examples": 287},
        "training": {"num_epochs": 1, "batch_size": 64},
        "space": {"schedule": {"custom": {**CHANGED["custom"], "start": {"uniform": [0.1, 0.2]}}}},
        "search": {"num_trials": 2},
    }
    (tmp_path / "own.yaml").write_text(json.dumps(document))
    assert sweep(tmp_path, "launch", "own.yaml").returncode == 0
    directory = tmp_path / "sweeps" / "own"
    assert (directory / "functions" / "0-rules.py").read_text() == RULES
    interrupt(directory)
    rules.write_text(RULES.replace("0.5", "0.4"))
    refused = sweep(tmp_path, "resume", "own")
    assert refused.returncode == 1
    assert "rules.py must be as at the launch of own, but it is not" in refused.stderr
    assert "functions/0-rules.py" in refused.stderr
    rules.write_text(RULES)
    assert sweep(tmp_path, "resume", "own").returncode == 0


def interrupt(directory: Path) -> None:
    """Leave the sweep as a driver that was stopped leaves it."""
    from sweep.directory import open_ledger
    from sweep.lease import driving

    with driving(directory) as lease:
        open_ledger(directory, lease=lease).set_state("interrupted")
