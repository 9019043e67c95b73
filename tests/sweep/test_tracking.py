"""The MLflow projection, against a real tracking server and against a SQLite file."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search_spaces import parse_config
from sweep.projection import applied_curve, trial_tags
from sweep.tracking import connect, deliver
from tests.tracked import (
    EPOCHS,
    FACTS,
    OUTCOMES,
    STEPS,
    all_outcomes,
    artifact,
    artifacts,
    curve_of,
    history,
    picture,
    project,
    runs_of,
    sweep_record,
    trial_record,
)

# MLflow itself uses a SQLAlchemy option that is to go.
pytestmark = [
    pytest.mark.usefixtures("shipper_environment"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


def test_every_outcome_has_its_status_and_tags(uri: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, uri)
    trials = all_outcomes()
    assert project(sweep, trials) == ()
    runs = runs_of(sweep)
    parent = runs[None]
    for trial, (_, _, status, tags) in zip(trials, OUTCOMES, strict=True):
        run = runs[trial.number]
        assert run.info.status == status
        assert run.info.run_name == f"000{trial.number}-cosine_decay-peak3.0e-1"
        assert tags.items() <= run.data.tags.items()
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["mlflow.source.git.commit"] == FACTS["git_commit"]
        assert run.data.tags["mlflow.user"] == "ada"
        assert run.data.tags["worker.host"] == "node-1"
        assert run.data.params == {
            "schedule": "cosine_decay",
            "peak_lr": "0.3",
            "momentum": "0.30000000000000004",
        }
        assert (run.info.start_time, run.info.end_time) == (trial.started_ms, trial.ended_ms)
        ended = trial.state != "running"
        assert ("learning_rate.png" in artifacts(sweep, run)) == ended
    assert artifact(sweep, runs[4], "error.txt", tmp_path) == trials[4].message.encode()


@pytest.mark.parametrize(("ids", "told"), [([], None), (["3"], "3"), (["0", "2"], "0,2")])
def test_a_run_tells_the_gpus_of_its_worker_if_it_has_any(
    ids: list[str], told: str | None, tmp_path: Path
) -> None:
    sweep = sweep_record(tmp_path, "sqlite:///unused.db")
    trial = trial_record(0, "complete")
    last = trial.reports[-1] | {"worker": {"node": "10.0.0.7", "gpu_ids": ids}}
    trial = trial._replace(reports=(*trial.reports[:-1], last))
    tags = trial_tags(sweep, trial, applied_curve(sweep, trial))
    assert tags["worker.node"] == "10.0.0.7"
    assert tags.get("worker.gpu_ids") == told


def test_metrics_are_the_records_bit_for_bit(uri: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, uri)
    trials = all_outcomes()
    project(sweep, trials)
    runs = runs_of(sweep)
    for trial in trials:
        run, done = runs[trial.number], len(trial.reports) * STEPS
        expected = [
            (step, float(rate), trial.reports[step // STEPS]["timestamp_ms"])
            for step, rate in enumerate(curve_of(trial.space)[:done].tolist())
        ]
        assert history(sweep, run, "learning_rate") == expected
        for key in ("train_loss", "val_loss", "val_accuracy", "epoch"):
            assert history(sweep, run, key) == [
                (r["epoch"] * STEPS, r[key], r["timestamp_ms"])
                for r in trial.reports
                if r[key] is not None
            ]


def test_the_parent_run_tells_the_sweep(uri: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, uri, state="finished")
    trials = [
        trial_record(0, "complete", value=0.5),
        trial_record(1, "pruned", 2, value=0.99),
        trial_record(2, "complete", peak_lr=0.1, value=0.75),
        trial_record(3, "complete", value=0.6),
    ]
    project(sweep, trials)
    parent = runs_of(sweep)[None]
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "tracked-1"
    assert [point[:2] for point in history(sweep, parent, "best_val_accuracy")] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.75),
        (4, 0.75),
    ]
    note = parent.data.tags["mlflow.note.content"]
    for part in (
        "Which rate?",
        "3 complete, 1 pruned",
        "0002-cosine_decay-peak1.0e-1",
        "0.75",
        "sweep export tracked-1 -o best.yaml",
    ):
        assert part in note
    assert parent.data.tags["sweep.jax_version"] == "0.10.2"
    assert parent.data.params["training.batch_size"] == "64"
    assert parent.inputs is not None
    [used] = parent.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "d" * 36)
    config = artifact(sweep, parent, "config.yaml", tmp_path)
    assert parse_config(config.decode()) == sweep.config
    assert b"peak_lr: 0.1" in artifact(sweep, parent, "best.yaml", tmp_path)
    table = json.loads(artifact(sweep, parent, "leaderboard.json", tmp_path))
    assert table["columns"][:3] == ["rank", "trial", "run name"]
    assert [row[:2] for row in table["data"]] == [[1, 2], [2, 3], [3, 0], [None, 1]]
    [listed] = json.loads(parent.data.tags["mlflow.loggedArtifacts"])
    assert listed == {"path": "leaderboard.json", "type": "table"}


@pytest.mark.parametrize(
    ("state", "status", "child"),
    [
        ("running", "RUNNING", "RUNNING"),
        ("interrupted", "KILLED", "KILLED"),
        ("failed", "FAILED", "KILLED"),
    ],
)
def test_a_sweep_that_ends_leaves_no_run_running(
    database: str, tmp_path: Path, state: str, status: str, child: str
) -> None:
    sweep = sweep_record(tmp_path, database, state=state)
    trial = trial_record(0, "running", 2)
    project(sweep, [trial])
    runs = runs_of(sweep)
    assert (runs[None].info.status, runs[0].info.status) == (status, child)
    resumed = sweep._replace(state="running")
    project(resumed, [trial])
    runs = runs_of(sweep)
    assert (runs[None].info.status, runs[0].info.status) == ("RUNNING", "RUNNING")
    assert runs[0].data.tags["state"] == "running"


# Again, and after faults: the same server state.


def test_projecting_again_changes_nothing(uri: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, uri)
    trials = all_outcomes()
    project(sweep, trials)
    once = picture(sweep)
    project(sweep, trials)
    assert picture(sweep) == once


def test_epoch_by_epoch_gives_what_one_delivery_gives(database: str, tmp_path: Path) -> None:
    trials = all_outcomes()
    sweep = sweep_record(tmp_path, database)
    whole = sweep._replace(facts=sweep.facts | {"sweep_id": uuid.uuid4().hex})
    project(whole._replace(state="finished"), trials)
    destination = connect(sweep)
    for epochs in range(EPOCHS):
        partial = [
            trial._replace(state="running", ended_ms=None, reports=trial.reports[:epochs])
            for trial in trials
        ]
        *_, destination = deliver(destination, sweep, partial)
    list(deliver(destination, sweep._replace(state="finished"), trials))
    step_by_step, at_once = picture(sweep), picture(whole)
    for run in (*step_by_step.values(), *at_once.values()):
        del run.tags["sweep.id"]
    assert step_by_step == at_once


class CountingClient:
    """A client that notes the names of the methods called on it."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.client, name)


def test_what_is_delivered_is_not_sent_again(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    destination = connect(sweep)
    counting: Any = CountingClient(destination.client)
    destination = destination._replace(client=counting)
    *_, destination = deliver(destination, sweep, [trial_record(0, "running", 0)])
    counting.calls.clear()
    trials = [trial_record(0, "complete"), trial_record(1, "complete")]
    *_, destination = deliver(destination, sweep, trials)
    calls = ["log_batch", "log_artifacts", "set_terminated"]
    parent = ["log_batch"]
    assert counting.calls == [*calls, "create_run", "log_inputs", *calls, *parent]
    counting.calls.clear()
    list(deliver(destination, sweep, trials))
    assert counting.calls == []


def test_duplicate_runs_are_reconciled(uri: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, uri)
    trials = all_outcomes()
    project(sweep, trials)
    once, runs = picture(sweep), runs_of(sweep)
    client = MlflowClient(uri)
    for number, run in runs.items():
        for later in (0, 1):
            tags = {"sweep.id": sweep.facts["sweep_id"], "sweep.kind": run.data.tags["sweep.kind"]}
            tags |= {} if number is None else {"sweep.trial": str(number)}
            client.create_run(run.info.experiment_id, run.info.start_time + later, tags)
    project(sweep, trials)
    assert picture(sweep) == once
    assert {run.info.run_id for run in runs_of(sweep).values()} == {
        run.info.run_id for run in runs.values()
    }


def test_a_run_cut_off_before_its_end_is_delivered_again(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    trials = all_outcomes()
    project(sweep, trials)
    once, client = picture(sweep), MlflowClient(database)
    for run in runs_of(sweep).values():
        client.update_run(run.info.run_id, status="RUNNING")
    project(sweep, trials)
    assert picture(sweep) == once


def test_a_run_deleted_by_hand_comes_back(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    trials = [trial_record(0, "running", 2)]
    *_, destination = deliver(connect(sweep), sweep, trials)
    MlflowClient(database).delete_run(destination.trials[0].run_id)
    trials = [trial_record(0, "complete"), trial_record(1, "complete")]
    *_, destination = deliver(destination, sweep, trials)
    [refusal] = destination.refusals
    assert refusal.startswith("trial 0: ")
    assert destination.trials[1].state == "complete"
    assert project(sweep, trials) == ()
    assert runs_of(sweep)[0].info.status == "FINISHED"


def test_a_deleted_experiment_is_explained(database: str, tmp_path: Path) -> None:
    client = MlflowClient(database)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(ValueError, match="must not be deleted, but 'gone' is; restore it with"):
        connect(sweep_record(tmp_path, database, experiment="gone"))
