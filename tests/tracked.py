"""Records of a sweep that nobody trained, and what MLflow holds of it."""

import hashlib
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from search_spaces import config_to_yaml, parse_config
from sweep.directory import create_ledger
from sweep.records import SweepRecord, TrialRecord
from sweep.tracking import connect, deliver
from trainers.schedules import learning_rate_curve

STEPS, EPOCHS = 50, 4
CONFIG = """
version: 1
name: tracked
description: Which rate?
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 4, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}}
  momentum: {uniform: [0, 0.9]}
search: {algorithm: random, num_trials: 4}
"""
FACTS = {
    "user": "ada",
    "git_commit": "0123456789abcdef",
    "dataset_digest": "d" * 64,
    "config_sha256": "c" * 64,
    "jax_version": "0.10.2",
}


def sweep_record(folder: Path, uri: str, **changes: Any) -> SweepRecord:
    config = parse_config(CONFIG)
    (folder / "config.yaml").write_text(config_to_yaml(config))
    facts = FACTS | {"sweep_id": uuid.uuid4().hex}
    place = uri, config.tracking.experiment
    record = SweepRecord("tracked-1", folder, config, "running", STEPS, 1_000_000, *place, facts)
    return record._replace(**changes)


def space_of(peak_lr: float, family: str = "cosine_decay") -> dict[str, Any]:
    return {"schedule": {family: {"peak_lr": peak_lr}}, "momentum": 0.1 + 0.2}


def curve_of(space: dict[str, Any], steps: int = STEPS) -> np.ndarray:
    return learning_rate_curve(space, num_epochs=EPOCHS, steps_per_epoch=steps)


def report_of(curve: np.ndarray, epoch: int, **changes: Any) -> dict[str, Any]:
    steps = len(curve) // EPOCHS
    row = curve[(epoch - 1) * steps : epoch * steps]
    losses = {"train_loss": 1 / (2 + epoch), "val_loss": 1 / 3 / epoch, "val_accuracy": epoch / 7}
    return {
        "epoch": epoch,
        **losses,
        "learning_rate_sha256": hashlib.sha256(row.tobytes()).hexdigest(),
        "diverged": False,
        "seconds": 0.5,
        "timestamp_ms": 2_000_000 + 1000 * epoch,
        "worker": {"host": "node-1", "device": "cpu:0"},
    } | changes


def trial_record(
    number: int,
    state: str,
    epochs: int = EPOCHS,
    peak_lr: float = 0.3,
    steps: int = STEPS,
    **changes: Any,
) -> TrialRecord:
    space = space_of(peak_lr)
    curve = curve_of(space, steps)
    reports = tuple(report_of(curve, epoch) for epoch in range(1, epochs + 1))
    record = TrialRecord(
        number=number,
        state=state,
        space=space,
        parameters={"schedule": "cosine_decay", "peak_lr": peak_lr, "momentum": 0.1 + 0.2},
        reports=reports,
        value=reports[-1]["val_accuracy"] if reports else None,
        curve_sha256=hashlib.sha256(curve.tobytes()).hexdigest(),
        started_ms=2_000_000 + number,
        ended_ms=None if state == "running" else 2_100_000 + number,
        message="",
    )
    return record._replace(**changes)


OUTCOMES = [
    ("running", 2, "RUNNING", {"state": "running"}),
    ("complete", 4, "FINISHED", {"state": "complete"}),
    ("pruned", 2, "FINISHED", {"state": "pruned", "stopped_epoch": "2"}),
    ("diverged", 3, "FINISHED", {"state": "diverged", "diverged_epoch": "3"}),
    ("failed", 1, "FAILED", {"state": "failed", "message": "ValueError: no"}),
]


def all_outcomes() -> list[TrialRecord]:
    trials = [trial_record(n, state, epochs) for n, (state, epochs, _, _) in enumerate(OUTCOMES)]
    diverged = trials[3].reports[2] | {"train_loss": None, "val_loss": None, "diverged": True}
    trials[3] = trials[3]._replace(reports=(*trials[3].reports[:2], diverged))
    trials[4] = trials[4]._replace(message="Traceback:\n  line 1\nValueError: no\n")
    return trials


def project(sweep: SweepRecord, trials: list[TrialRecord]) -> tuple[str, ...]:
    """One whole delivery from nothing but the records; returns what was refused."""
    *_, destination = deliver(connect(sweep), sweep, trials)
    return destination.refusals


def runs_of(sweep: SweepRecord) -> dict[int | None, Run]:
    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name(sweep.config.tracking.experiment)
    assert experiment is not None
    query = f"tags.`sweep.id` = '{sweep.facts['sweep_id']}'"
    runs = client.search_runs([experiment.experiment_id], query)
    by_number: dict[int | None, Run] = {}
    for run in runs:
        number = run.data.tags.get("sweep.trial")
        key = None if number is None else int(number)
        assert key not in by_number, "two runs for one trial"
        by_number[key] = run
    return by_number


def history(sweep: SweepRecord, run: Run, key: str) -> list[tuple[int, float, int]]:
    points = MlflowClient(sweep.tracking_uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def artifacts(sweep: SweepRecord, run: Run) -> list[str]:
    return [file.path for file in MlflowClient(sweep.tracking_uri).list_artifacts(run.info.run_id)]


def artifact(sweep: SweepRecord, run: Run, name: str, folder: Path) -> bytes:
    client = MlflowClient(sweep.tracking_uri)
    return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


def make_ledger(directory: Path, uri: str, state: str = "running") -> None:
    """A sweep with one complete trial, and one that is open, two epochs in."""
    ledger = create_ledger(
        directory,
        parse_config(CONFIG),
        storage=None,
        tracking_uri=uri,
        steps_per_epoch=STEPS,
        facts=FACTS | {"sweep_id": uuid.uuid4().hex},
    )
    ledger.set_state("running")
    for number, epochs in ((0, EPOCHS), (1, 2)):
        assert ledger.ask() == number
        curve = ledger.curve(ledger.space(number))
        for epoch in range(1, epochs + 1):
            ledger.record(number, report_of(curve, epoch))
    ledger.end(0, "complete", "")
    ledger.set_state(state)


class Shown(NamedTuple):
    name: str
    status: str
    times: tuple[int, int | None]
    parameters: dict[str, str]
    tags: dict[str, str]
    points: dict[str, list[tuple[int, float, int]]]
    artifacts: list[str]


def picture(sweep: SweepRecord) -> dict[int | None, Shown]:
    """All that the server holds of a sweep, but for the ids of its runs."""
    return {
        number: Shown(
            run.info.run_name or "",
            run.info.status,
            (run.info.start_time, run.info.end_time),
            run.data.params,
            {key: v for key, v in run.data.tags.items() if key != "mlflow.parentRunId"},
            {key: history(sweep, run, key) for key in run.data.metrics},
            sorted(artifacts(sweep, run)),
        )
        for number, run in runs_of(sweep).items()
    }
