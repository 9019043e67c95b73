"""The MLflow projection of a sweep, and the process that keeps it up to date (the shipper).

    python -m sweep.tracking DIRECTORY [--once]

A sweep's directory and ledger are the truth, its MLflow runs a projection that can be rebuilt at
any time: runs are found by tag, and a point sent again is the same point. How far the delivery has
come is read back from the runs themselves, so nothing kept here can disagree with the server.
"""

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep import delivery, projection, shipping
from sweep.artifacts import deliver_checkpoint, deliver_leaderboard, deliver_pictures, upload
from sweep.curves import draw_curve
from sweep.delivery import Destination, Parent, TrialDelivery
from sweep.description import description
from sweep.errors import CommandError
from sweep.files import locked
from sweep.projection import RUN_STATUS, Point
from sweep.records import SweepRecord, TrialRecord
from sweep.results import shown_state, trial_name
from trainers.crashes import reach
from trainers.files import remove_leftovers, sync_directory, temporary_for

if TYPE_CHECKING:  # MLflow reads its environment when it is imported, so open_client() does it
    from mlflow import MlflowClient
    from mlflow.entities import Run

_POOL = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
DESCRIPTION_S = 10.0  # between two descriptions of a sweep that runs
# Without it the UI opens an experiment on its pages for language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def connect(sweep: SweepRecord) -> Destination:
    """The sweep's place on its tracking server; experiment and parent run are made if missing."""
    uri = sweep.tracking_uri
    if lost := delivery.lost_records(sweep.directory, uri):
        raise CommandError(lost, exit_code=5)
    with contextlib.ExitStack() as stack:
        if uri.startswith("sqlite:////"):  # its first opening creates the tables: one at a time
            database = delivery.sqlite_path(uri)
            stack.enter_context(locked(database.with_name(database.name + ".lock")))
            make_store(database)
        client = open_client(uri)
        experiment_id = open_experiment(client, sweep)
    runs = find_runs(client, experiment_id, sweep.facts["sweep_id"])
    parent = runs.pop(None, None) or create_parent(client, experiment_id, sweep)
    if not (parent.inputs and parent.inputs.dataset_inputs):
        log_dataset(client, parent.info.run_id, sweep)
    held = Parent(parent.info.run_id, parent.info.status, parent.data.tags, parent.data.params)
    trials = {number: held_of(run) for number, run in runs.items() if number is not None}
    return Destination(client, experiment_id, held, trials)


def make_store(database: Path) -> None:
    """Make the tables of a SQLite store that does not exist, all or none; its lock must be held.

    MLflow makes them step by step, and never goes on where it was killed in between.
    """
    remove_leftovers(database)
    if database.exists():
        return
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        new = Path(folder) / database.name
        before = os.environ.pop(_POOL, None)
        os.environ[_POOL] = "NullPool"  # so that no connection to it stays open
        try:
            open_client(f"sqlite:///{new}").search_experiments(max_results=1)
        finally:
            del os.environ[_POOL]
            if before is not None:
                os.environ[_POOL] = before
        with temporary_for(database) as file:
            file.write(new.read_bytes())
            file.flush()
            os.fsync(file.fileno())
            reach("make store")
            with contextlib.suppress(FileExistsError):  # another program has been faster
                os.link(file.name, database)
    sync_directory(database.parent)
    reach("made store")


def open_client(uri: str) -> "MlflowClient":
    """A client that gives up soon, and says little."""
    delivery.set_environment()
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def open_experiment(client: "MlflowClient", sweep: SweepRecord) -> str:
    """The id of the sweep's experiment, created if it does not exist."""
    from mlflow.exceptions import MlflowException

    name = sweep.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            place = delivery.artifact_location(sweep.tracking_uri)
            reach("create experiment")
            created = client.create_experiment(name, place, _EXPERIMENT_TAGS)
            reach("created experiment")
            return created
        except MlflowException:
            found = client.get_experiment_by_name(name)  # somebody else was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"the MLflow experiment must not be deleted, but {name!r} is; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found.experiment_id


def find_runs(client: "MlflowClient", experiment_id: str, sweep_id: str) -> dict[int | None, "Run"]:
    """The sweep's runs by trial number, its parent run under None; duplicates are deleted.

    A request to create a run may be served twice. The oldest run stays; of runs equally old (a
    start is part of the record) the one that holds most.
    """
    found: list[Run] = []
    token = None
    while True:
        query = f"tags.`sweep.id` = '{sweep_id}'"
        page = client.search_runs([experiment_id], query, max_results=200, page_token=token)
        found += page
        if not (token := page.token):
            break
    found.sort(key=lambda run: (run.info.start_time, -_amount(run), run.info.run_id))
    kept: dict[int | None, Run] = {}
    for run in found:
        number = run.data.tags.get("sweep.trial")
        if kept.setdefault(None if number is None else int(number), run) is not run:
            client.delete_run(run.info.run_id)
    return kept


def _amount(run: "Run") -> float:
    data = run.data
    return data.metrics.get("epoch", 0) + len(data.metrics) + len(data.params) + len(data.tags)


def held_of(run: "Run") -> TrialDelivery:
    """What a trial's run holds; without a state if it was not delivered to the end."""
    state = run.data.tags.get("state", "")
    settled = RUN_STATUS.get(state) == run.info.status
    epochs = int(run.data.metrics.get("epoch", 0))
    return TrialDelivery(run.info.run_id, epochs, state if settled else "")


def create_parent(client: "MlflowClient", experiment_id: str, sweep: SweepRecord) -> "Run":
    """The sweep's new parent run."""
    tags = projection.parent_tags(sweep)
    reach("create parent run")
    run = client.create_run(experiment_id, sweep.created_ms, tags, run_name=sweep.name)
    reach("created parent run")
    return run


def log_dataset(client: "MlflowClient", run_id: str, sweep: SweepRecord) -> None:
    """Tells a run its dataset; told again, it stays one."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if digest := sweep.facts.get("dataset_digest"):
        name = sweep.config.data.dataset
        dataset = Dataset(name, digest[:36], source_type="local", source=name)
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        reach("log dataset")
        client.log_inputs(run_id, [used])
        reach("logged dataset")


def deliver(
    destination: Destination, sweep: SweepRecord, trials: list[TrialRecord]
) -> Iterator[Destination]:
    """Sends what the server does not hold yet; yields the destination after every trial sent.

    What the server refuses is noted and passed over; any other trouble is raised.
    """
    from mlflow.exceptions import MlflowException

    destination = destination._replace(refusals=())
    for trial in trials:
        held = destination.trials.get(trial.number)
        if held is not None and is_current(held, sweep, trial):
            continue
        try:
            sent = deliver_trial(destination, held, sweep, trial)
        except MlflowException as error:
            if not 400 <= error.get_http_status_code() < 429:
                raise
            refusal = f"trial {trial.number}: {delivery.one_line(error)}"
            destination = destination._replace(refusals=(*destination.refusals, refusal))
        else:
            destination = destination._replace(trials={**destination.trials, trial.number: sent})
        yield destination
    parent = deliver_parent(destination.client, destination.parent, sweep, trials)
    destination = deliver_checkpoint(destination._replace(parent=parent), sweep, trials)
    yield destination
    yield from deliver_pictures(destination, sweep, trials)


def is_current(held: TrialDelivery, sweep: SweepRecord, trial: TrialRecord) -> bool:
    """Whether nothing of a trial is left to send."""
    state = shown_state(sweep, trial)
    return held.epochs >= len(trial.reports) and held.state == state


def deliver_trial(
    destination: Destination, held: TrialDelivery | None, sweep: SweepRecord, trial: TrialRecord
) -> TrialDelivery:
    """Sends what a trial's run lacks; its status comes last and vouches for the rest."""
    client, parent_id = destination.client, destination.parent.run_id
    state = shown_state(sweep, trial)
    if held is None:
        tags = projection.fixed_trial_tags(sweep, trial, parent_id)
        name, experiment_id = trial_name(trial), destination.experiment_id
        reach("create trial run")
        run = client.create_run(experiment_id, trial.started_ms, tags, run_name=name)
        reach("created trial run")
        held = TrialDelivery(run.info.run_id, 0, "")
    elif state == "running" and held.state != "running":
        client.update_run(held.run_id, status="RUNNING")
    if not held.state:  # its tags come after the dataset
        log_dataset(client, held.run_id, sweep)
    curve = projection.applied_curve(sweep, trial)
    after = held.epochs if held.state else 0
    points = projection.curve_points(sweep, trial, curve, after_epoch=after)
    points = [*points, *projection.epoch_points(sweep, trial, after_epoch=after)]
    news = state != held.state or after == 0 or curve.mismatch is not None
    log(
        client,
        held.run_id,
        points,
        projection.parameters(trial.parameters) if news else {},
        projection.trial_tags(sweep, trial, curve) if news else {},
    )
    if state != "running":
        if files := trial_files(sweep, trial, curve):
            upload(client, held.run_id, files)
        reach("end trial run")
        client.set_terminated(held.run_id, RUN_STATUS[state], projection.end_ms(trial))
        reach("ended trial run")
    # More are held while a damaged metric file is filled again; the same points are not sent twice.
    return TrialDelivery(held.run_id, max(held.epochs, len(trial.reports)), state)


def trial_files(
    sweep: SweepRecord, trial: TrialRecord, curve: projection.AppliedCurve
) -> dict[str, bytes]:
    """The artifacts of a trial that has ended."""
    files = {}
    if trial.state != "running" and curve.values is not None and curve.mismatch is None:
        steps = curve.verified_epochs * sweep.steps_per_epoch
        title = trial_name(trial)
        files["learning_rate.png"] = draw_curve(curve.values, steps_run=steps, title=title)
    if trial.state == "failed":
        files["error.txt"] = trial.message.encode()
    return files


def deliver_parent(
    client: "MlflowClient", held: Parent, sweep: SweepRecord, trials: list[TrialRecord]
) -> Parent:
    """Sends what the parent run lacks."""
    points = projection.best_points(sweep.config, trials)
    wanted = projection.parent_tags(sweep)
    if sweep.state != "running" or time.monotonic() - held.described_s >= DESCRIPTION_S:
        wanted["mlflow.note.content"] = description(sweep, trials)
        held = held._replace(described_s=time.monotonic())
    tags = {key: value for key, value in wanted.items() if held.tags.get(key) != value}
    fixed = projection.sweep_parameters(sweep.config)
    missing = {key: value for key, value in fixed.items() if key not in held.parameters}
    log(client, held.run_id, points[held.points :], missing, tags)
    held = held._replace(points=len(points), tags={**held.tags, **wanted}, parameters=fixed)
    held = deliver_leaderboard(client, held, sweep, trials)
    status = RUN_STATUS[sweep.state]
    if status == held.status:
        return held
    if status == "RUNNING":
        client.update_run(held.run_id, status=status)
    else:
        ended = max([sweep.created_ms, *map(projection.end_ms, trials)])
        reach("end parent run")
        client.set_terminated(held.run_id, status, ended)
        reach("ended parent run")
    return held._replace(status=status)


def log(
    client: "MlflowClient",
    run_id: str,
    points: Sequence[Point],
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Sends points, parameters and tags in as few requests as MLflow's limits allow."""
    from mlflow.entities import Metric, Param, RunTag

    if not (points or parameters or tags):
        return
    reach("log batch")
    client.log_batch(
        run_id,
        [Metric(point.key, point.value, point.timestamp_ms, point.step) for point in points],
        [Param(key, value) for key, value in parameters.items()],
        [RunTag(key, value) for key, value in tags.items()],
    )
    reach("logged batch")


if __name__ == "__main__":
    sys.exit(shipping.main(connect, deliver))
