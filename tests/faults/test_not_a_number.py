"""Trials that diverge, and trials whose functions raise: they end, and the others go on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweep.records import TrialRecord
from tests.faults.harness import Site, assert_nothing_lost, projected, site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
EPOCHS = 4
STEPS = """
    constant: {peak_lr: {log_uniform: [1e-2, 0.3]}}
    piecewise_constant:
      values: [0.05, {log_uniform: [1e-2, 1e30]}]
      boundaries_epochs: [{choice: [0, 1, 2, 3]}]"""
FIELDS: dict[str, Any] = {"images": 256, "epochs": EPOCHS}
RULES = """
import sys

def rate(t, *, mood):
    if mood == 0.11:
        raise KeyError("a rate for no driver")
    if mood == 0.22 and sys.argv[0].endswith("default_worker.py"):
        raise RuntimeError("a rate for no worker")
    return 0.05

def momentum(t, *, mood):
    if mood == 0.33:
        raise RuntimeError("a momentum for no driver")
    if mood == 0.44 and sys.argv[0].endswith("default_worker.py"):
        raise KeyError("a momentum for no worker")
    return 0.9
"""
RATES = f"""{STEPS}
    custom: {{function: 'rules.py:rate', mood: {{uniform: [0, 1]}}}}"""
MOMENTA = """momentum_schedule:
    custom: {function: 'rules.py:momentum', mood: {uniform: [0, 1]}}"""


def stepping(epoch: int) -> dict[str, Any]:
    """A point whose learning rate explodes within that epoch."""
    body = {"values": [0.05, 1e30], "boundaries_epochs": [epoch - 1]}
    return {"schedule": {"piecewise_constant": body}}


def constant(rate: float) -> dict[str, Any]:
    return {"schedule": {"constant": {"peak_lr": rate}}}


def custom(mood: float) -> dict[str, Any]:
    return {"schedule": {"custom": {"mood": mood}}}


def with_momentum(point: dict[str, Any], mood: float = 0.5) -> dict[str, Any]:
    return point | {"momentum_schedule": {"custom": {"mood": mood}}}


def enqueued(points: list[dict[str, Any]]) -> tuple[str, ...]:
    return ("launch", "faults.yaml", "--set", f"enqueue={json.dumps(points)}")


def assert_no_number_is_missing(here: Site) -> None:
    """No NaN and no infinity stands in any file or metric; the diverged epochs have an end."""
    for path in here.directory.rglob("*.json*"):
        assert not {"NaN", "Infinity"} & set(path.read_text().replace(":", " ").split()), path
    for metrics in projected(here).histories.values():
        for points in metrics.values():
            assert all(math.isfinite(value) and abs(value) < 1e300 for value in points.values())


def assert_diverged_at(here: Site, trials: list[TrialRecord], epochs: dict[int, int]) -> None:
    runs = projected(here).trials
    for number, epoch in epochs.items():
        trial, tags = trials[number], runs[number].data.tags
        assert (trial.state, len(trial.reports)) == ("diverged", epoch)
        assert trial.reports[-1]["diverged"]
        assert (tags["state"], tags["diverged_epoch"]) == ("diverged", str(epoch))
        assert tags["message"] == f"the loss stopped being finite in epoch {epoch}"
        assert runs[number].data.metrics["epoch"] == epoch


def test_a_trial_that_diverges_or_raises_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [constant(0.1), stepping(1), custom(0.11), stepping(2), custom(0.22), custom(0.5)]
    points += [constant(0.2), stepping(EPOCHS), custom(0.6)]
    points = [with_momentum(point) for point in points]
    points[6:6] = [with_momentum(constant(0.1), 0.33), with_momentum(custom(0.5), 0.44)]
    raised = {
        2: "rules.py:rate raised KeyError: 'a rate for no driver'",
        4: "RuntimeError: a rate for no worker",
        6: "rules.py:momentum raised RuntimeError: a momentum for no driver",
        7: "KeyError: 'a momentum for no worker'",
    }
    monkeypatch.chdir(tmp_path)  # where the functions are
    # One at a time, for three failures in a row would end the sweep.
    with site(tmp_path, trials=len(points), families=RATES, at_once=1, **FIELDS) as here:
        (tmp_path / "rules.py").write_text(RULES)
        file = tmp_path / "faults.yaml"
        file.write_text(file.read_text().replace("momentum: {uniform: [0, 0.9]}", MOMENTA))
        assert "Traceback" not in here.run(*enqueued(points))
        _, trials = here.read()
        for number, error in raised.items():
            assert_error_is_kept(here, trials[number], error)
        for number in (4, 7):  # on the driver a function is asked for its curve only
            assert "Traceback (most recent call last)" in trials[number].message
            assert 'rules.py", line ' in trials[number].message
        assert_diverged_at(here, trials, {1: 1, 3: 2, 9: EPOCHS})
        assert {trials[number].state for number in (0, 5, 8, 10)} == {"complete"}
        assert trials[5].value == trials[10].value  # their curves are equal
        assert_no_number_is_missing(here)
        assert_nothing_lost(here, incidents=0, failed=raised)


def test_a_sweep_of_diverging_trials_fails_with_advice(tmp_path: Path) -> None:
    points = [stepping(epoch) | {"momentum": 0.5} for epoch in range(1, EPOCHS + 1)]
    with site(tmp_path, trials=len(points), families=STEPS, **FIELDS) as here:
        told = here.run(*enqueued(points), code=1)
        assert "every trial diverged; lower the upper end of peak_lr" in told
        assert "Traceback" not in told
        _, trials = here.read()
        assert_diverged_at(here, trials, {n: n + 1 for n in range(EPOCHS)})
        assert_no_number_is_missing(here)
        assert_nothing_lost(here, incidents=0, state="failed")


def assert_error_is_kept(here: Site, trial: TrialRecord, error: str) -> None:
    """Beside the trial and in MLflow."""
    kept = (here.directory / "trials" / f"{trial.number:04d}" / "error.txt").read_text()
    assert kept == trial.message + "\n"
    assert error in kept
    run = projected(here).trials[trial.number]
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")
    client = MlflowClient(here.tracking_uri)
    folder = here.folder / f"artifacts-{trial.number}"
    folder.mkdir()
    artifact = client.download_artifacts(run.info.run_id, "error.txt", str(folder))
    assert Path(artifact).read_text() == trial.message
