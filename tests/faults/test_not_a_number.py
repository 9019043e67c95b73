"""Trials that diverge, and trials whose functions raise: they end, and the others go on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweep.records import TrialRecord
from tests.faults.harness import CONFIG, Site, assert_nothing_lost, projected, site

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
FIELDS = {"images": 256, "epochs": EPOCHS, "families": STEPS}
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
RAISING = """
    custom: {function: 'rules.py:rate', mood: {uniform: [0, 1]}}"""
RAISING_MOMENTUM = """momentum_schedule:
    custom: {function: 'rules.py:momentum', mood: {uniform: [0, 1]}}"""


def stepping(epoch: int) -> dict[str, Any]:
    """A point whose learning rate explodes within that epoch."""
    body = {"values": [0.05, 1e30], "boundaries_epochs": [epoch - 1]}
    return {"schedule": {"piecewise_constant": body}, "momentum": 0.5}


def constant(rate: float) -> dict[str, Any]:
    return {"schedule": {"constant": {"peak_lr": rate}}, "momentum": 0.5}


def raising(rate_mood: float, momentum_mood: float) -> dict[str, Any]:
    momentum = {"custom": {"mood": momentum_mood}}
    return {"schedule": {"custom": {"mood": rate_mood}}, "momentum_schedule": momentum}


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


def test_divergence_at_any_epoch_ends_its_trial_only(tmp_path: Path) -> None:
    points = [constant(0.1), stepping(1), stepping(2), constant(0.2), stepping(EPOCHS)]
    with site(tmp_path, trials=len(points), **FIELDS) as here:
        here.run(*enqueued(points))
        _, trials = here.read()
        assert_diverged_at(here, trials, {1: 1, 2: 2, 4: EPOCHS})
        assert [trials[number].state for number in (0, 3)] == ["complete", "complete"]
        assert_no_number_is_missing(here)
        assert_nothing_lost(here, incidents=0)


def test_a_sweep_of_diverging_trials_fails_with_advice(tmp_path: Path) -> None:
    points = [stepping(epoch) for epoch in range(1, EPOCHS + 1)]
    with site(tmp_path, trials=len(points), **FIELDS) as here:
        told = here.run(*enqueued(points), code=1)
        assert "every trial diverged; lower the upper end of peak_lr" in told
        assert "Traceback" not in told
        sweep, trials = here.read()
        assert sweep.state == "failed"
        assert_diverged_at(here, trials, {n: n + 1 for n in range(EPOCHS)})
        assert_no_number_is_missing(here)
        assert projected(here).parent.info.status == "FAILED"


def test_a_function_that_raises_fails_its_trial_only(tmp_path: Path) -> None:
    fine = [raising(0.5 + n / 100, 0.5) for n in range(5)]
    faulty = [raising(0.11, 0.5), raising(0.22, 0.5), raising(0.5, 0.33), raising(0.5, 0.44)]
    points = [fine[0], faulty[0], fine[1], faulty[1], fine[2], faulty[2], fine[3], faulty[3]]
    points.append(fine[4])
    fields = FIELDS | {"algorithm": "random", "pruning": "none", "families": RAISING}
    with site(tmp_path, trials=len(points), **FIELDS) as here:
        (tmp_path / "rules.py").write_text(RULES)
        text = CONFIG.format(trials=len(points), **fields)
        text = text.replace("momentum: {uniform: [0, 0.9]}", RAISING_MOMENTUM)
        (tmp_path / "faults.yaml").write_text(text)
        told = here.run(*enqueued(points))
        assert "Traceback" not in told
        _, trials = here.read()
        states = [trial.state for trial in trials]
        assert states == ["complete", "failed"] * 4 + ["complete"]
        assert {len(trial.reports) for trial in trials[::2]} == {EPOCHS}
        assert len({trial.value for trial in trials[::2]}) == 1  # their curves are equal
        raised = ("rules.py:rate raised KeyError: 'a rate for no driver'",)
        raised += ("RuntimeError: a rate for no worker",)
        raised += ("rules.py:momentum raised RuntimeError: a momentum for no driver",)
        raised += ("KeyError: 'a momentum for no worker'",)
        for trial, error in zip(trials[1::2], raised, strict=True):
            assert_error_is_kept(here, trial, error)
        for trial in trials[3::4]:  # on the driver a function is asked for its curve only
            assert "Traceback (most recent call last)" in trial.message
            assert 'rules.py", line ' in trial.message


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
