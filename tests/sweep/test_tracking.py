"""The MLflow projection, against a real tracking server and against a SQLite file."""

import contextlib
import hashlib
import json
import math
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow import MlflowClient

from search_spaces import parse_config
from sweep import delivery
from sweep.curves import thin_curve
from sweep.delivery import TrialDelivery
from sweep.directory import open_ledger
from sweep.files import locked
from sweep.projection import applied_curve, best_points, curve_points
from sweep.records import SweepRecord
from sweep.tracking import connect, deliver
from tests.tracked import (
    CONFIG,
    EPOCHS,
    FACTS,
    OUTCOMES,
    STEPS,
    all_outcomes,
    artifact,
    artifacts,
    curve_of,
    history,
    make_ledger,
    project,
    runs_of,
    space_of,
    sweep_record,
    trial_record,
)
from tests.tracking_server import free_port, serving

# MLflow itself uses a SQLAlchemy option that is to go.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, free_port()) as uri:
        yield uri


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('database')}/mlflow.db"


@pytest.fixture(params=["server", "database"])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in delivery.MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


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


# The runs of a sweep.


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


# What is sent.


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


# The process.


@contextlib.contextmanager
def shipping(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The shipper's process; killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "sweep.tracking", str(directory), *options]
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def ship_once(directory: Path) -> tuple[int, str]:
    with shipping(directory, "--once") as shipper:
        _, errors = shipper.communicate(timeout=60)
    return shipper.returncode, errors


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_the_shipper_outlives_a_server_that_starts_late(tmp_path: Path) -> None:
    port, directory = free_port(), tmp_path / "tracked-1"
    make_ledger(directory, f"http://127.0.0.1:{port}")
    with shipping(directory) as shipper:
        until(lambda: delivery.read_status(directory).error)
        status = delivery.read_status(directory)
        assert (status.undelivered_trials, status.undelivered_epochs) == (2, EPOCHS + 2)
        with serving(tmp_path, port):
            until(lambda: len(delivery.read_status(directory).trials) == 2)
            sweep = open_ledger(directory).sweep()
            assert runs_of(sweep)[1].info.status == "RUNNING"
            _, errors = shipper.communicate(timeout=30)  # ends its input: the driver is gone
            assert shipper.returncode == 0, errors
            runs = runs_of(sweep)
    assert "refused" in errors
    assert [runs[n].info.status for n in (None, 0, 1)] == ["KILLED", "FINISHED", "KILLED"]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text('{"trials": 7')])
def test_without_its_status_file_the_shipper_comes_to_the_same(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    directory = tmp_path / "tracked-1"
    make_ledger(directory, f"sqlite:///{tmp_path}/mlflow.db")
    assert ship_once(directory) == (0, "")
    ledger = open_ledger(directory)
    sweep, status = ledger.sweep(), delivery.read_status(directory)
    assert delivery.undelivered(status, ledger.trials()) == (0, 0)
    runs, once = runs_of(sweep), picture(sweep)
    assert status.trials[0] == TrialDelivery(runs[0].info.run_id, EPOCHS, "complete")
    damage(delivery.status_path(directory))
    assert ship_once(directory) == (0, "")
    assert picture(sweep) == once
    assert delivery.read_status(directory)._replace(updated_ms=0) == status._replace(updated_ms=0)


def test_the_shipper_gives_up_on_a_server_that_stays_away(tmp_path: Path) -> None:
    directory = tmp_path / "tracked-1"
    make_ledger(directory, f"http://ada:secret@127.0.0.1:{free_port()}")
    code, errors = ship_once(directory)
    assert code == 3
    status = delivery.read_status(directory)
    assert status.undelivered_trials == 2
    assert status.error is not None
    assert "refused" in status.error
    assert "secret" not in errors + delivery.status_path(directory).read_text()


def test_sigterm_stops_the_shipper_and_sigint_does_not(tmp_path: Path) -> None:
    directory = tmp_path / "tracked-1"
    make_ledger(directory, f"sqlite:///{tmp_path}/mlflow.db")
    with shipping(directory) as shipper:
        until(lambda: len(delivery.read_status(directory).trials) == 2)
        shipper.send_signal(signal.SIGINT)
        time.sleep(1)
        assert shipper.poll() is None
        shipper.send_signal(signal.SIGTERM)
        assert shipper.wait(10) == 0
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_directory_that_is_missing_is_refused(tmp_path: Path) -> None:
    code, errors = ship_once(tmp_path / "nothing")
    assert code == 2
    assert "DIRECTORY must be a sweep's directory" in errors


def test_one_shipper_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "tracking" / "lock"
    with (
        locked(path),
        pytest.raises(TimeoutError, match="must be free, but another process holds it"),
        locked(path, patience_s=0.1),
    ):
        pass
    with locked(path, patience_s=0.1):
        pass
