"""The files, pictures and data sets of a sweep's MLflow runs."""

import json
import math
import os
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep import delivery, pictures
from sweep.control import deliver_now
from sweep.delivery import Drawing
from sweep.directory import open_ledger
from sweep.metrics import checkpoint_path
from sweep.records import SweepRecord, TrialRecord
from sweep.tracking import connect, deliver
from tests.faults.harness import PICTURES, Site, projected, site
from tests.tracked import (
    all_outcomes,
    artifact,
    artifacts,
    make_ledger,
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


def held(sweep: SweepRecord, name: str, folder: Path) -> str:
    """The text of an artifact of the sweep's own run."""
    return artifact(sweep, runs_of(sweep)[None], name, folder).decode()


def written(sweep: SweepRecord, name: str) -> int:
    """When an artifact of the sweep's own run was stored, in nanoseconds."""
    place = runs_of(sweep)[None].info.artifact_uri
    assert place is not None
    return Path(place.removeprefix("file://"), name).stat().st_mtime_ns


# Pictures


def test_pictures_are_drawn_when_the_sweep_is_over_and_once(database: str, tmp_path: Path) -> None:
    sweep, trials = sweep_record(tmp_path, database, state="finished"), all_outcomes()
    project(sweep, trials)
    assert set(artifacts(sweep, runs_of(sweep)[None])) >= PICTURES
    assert "0001-cosine_decay" in held(sweep, "report.html", tmp_path)
    first = {name: written(sweep, name) for name in PICTURES}
    project(sweep, trials)
    assert {name: written(sweep, name) for name in PICTURES} == first
    more = [*trials, trial_record(5, "complete", value=0.987654)]
    project(sweep, more)
    assert "987654" in held(sweep, "report.html", tmp_path)
    assert all(written(sweep, name) > first[name] for name in PICTURES)


def test_a_sweep_that_runs_is_drawn_when_it_is_due(database: str, tmp_path: Path) -> None:
    sweep, trials = sweep_record(tmp_path, database), all_outcomes()
    destination = connect(sweep)
    for due_s, drawn in ((time.monotonic() + 1000, False), (time.monotonic(), True)):
        destination = destination._replace(drawing=Drawing(due_s))
        *_, destination = deliver(destination, sweep, trials)
        assert ("report.html" in artifacts(sweep, runs_of(sweep)[None])) == drawn
    assert destination.drawing.due_s > time.monotonic()
    first = written(sweep, "report.html")
    more = [*trials, trial_record(5, "complete", value=0.987654)]
    *_, destination = deliver(destination, sweep, more)
    assert written(sweep, "report.html") == first
    *_, destination = deliver(destination, sweep._replace(state="interrupted"), more)
    assert written(sweep, "report.html") == first
    *_, destination = deliver(destination, sweep._replace(state="finished"), more)
    assert written(sweep, "report.html") > first


@pytest.mark.parametrize("trouble", [None, "ValueError: no"])
def test_drawing_takes_little_of_the_time(trouble: str | None) -> None:
    drawing = pictures.rested(time.monotonic() - 2, trouble)
    assert drawing.due_s - time.monotonic() > 0.98 * 2 / 0.015
    assert drawing.trouble == trouble


@pytest.mark.parametrize(
    ("state", "drawing", "due"),
    [
        ("running", Drawing(), False),
        ("running", Drawing(0.0), True),
        ("running", Drawing(0.0, "no"), True),
        ("paused", Drawing(0.0), False),
        ("interrupted", Drawing(0.0), False),
        ("finished", Drawing(), True),
        ("stopped", Drawing(math.inf), True),
        ("failed", Drawing(math.inf, "no"), False),
        ("cancelled", Drawing(0.0, "no"), True),
    ],
)
def test_when_pictures_are_due(state: str, drawing: Drawing, due: bool, tmp_path: Path) -> None:
    assert pictures.is_due(drawing, sweep_record(tmp_path, "", state=state)) == due


def test_pictures_are_named_by_what_they_show(tmp_path: Path) -> None:
    sweep, trials = sweep_record(tmp_path, ""), all_outcomes()
    seen = [
        (sweep, trials),
        (sweep, trials[1:]),
        (sweep._replace(state="finished"), trials),
        (sweep, [trials[0]._replace(state="pruned"), *trials[1:]]),
        (sweep, [trials[0]._replace(reports=trials[0].reports[:1]), *trials[1:]]),
        (sweep, [trials[0]._replace(value=0.123), *trials[1:]]),
    ]
    assert len({pictures.fingerprint(*each) for each in seen}) == len(seen)
    assert pictures.fingerprint(sweep, all_outcomes()) == pictures.fingerprint(sweep, trials)


def test_pictures_that_cannot_be_drawn_keep_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plotly is broken in the shipper; once it is mended, the pictures come."""
    directory, broken = tmp_path / "tracked-1", tmp_path / "broken"
    make_ledger(directory, f"sqlite:///{tmp_path}/mlflow.db", state="finished")
    (broken / "plotly").mkdir(parents=True)
    (broken / "plotly" / "__init__.py").write_text("raise ImportError('no plotly today')\n")
    path = os.pathsep.join([str(broken), str(Path(__file__).parents[2])])
    monkeypatch.setenv("PYTHONPATH", path)
    reason = "ImportError: no plotly today"
    held_all = "MLflow holds all of tracked-1: 2 trials"
    assert deliver_now(directory) == (f"{held_all}, but no new pictures: {reason}", 0)
    sweep, status = open_ledger(directory).sweep(), delivery.read_status(directory)
    assert status.pictures == reason
    assert (status.error, status.undelivered_trials) == (None, 0)
    parent = runs_of(sweep)[None]
    assert parent.info.status == "FINISHED"
    assert set(artifacts(sweep, parent)) & {"leaderboard.json", *PICTURES} == {"leaderboard.json"}
    monkeypatch.delenv("PYTHONPATH")
    assert deliver_now(directory) == (held_all, 0)
    assert delivery.read_status(directory).pictures is None
    assert set(artifacts(sweep, parent)) >= PICTURES


# The other files, data sets and tags


def test_the_environment_tells_code_packages_and_machines(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    facts = sweep.facts | {"git_dirty": "True", "cpu": "a fast one", "memory_gib": "3.5"}
    trial = trial_record(0, "complete")
    worker = {"node": "n", "platform": "gpu", "device_kind": "H", "gpu_ids": ["1"], "pid": 7}
    reports = tuple(report | {"worker": worker} for report in trial.reports)
    trials = [trial._replace(number=n, reports=reports) for n in range(2)]
    sweep = sweep._replace(facts=facts)
    project(sweep, trials)
    told = json.loads(held(sweep, "environment.json", tmp_path))
    assert told["code"] == {"git_commit": facts["git_commit"], "git_dirty": "True"}
    assert told["packages"] == {"jax": "0.10.2"}
    assert told["sweep"]["cpu"] == "a fast one"
    known = {key: value for key, value in worker.items() if key != "pid"}
    assert told["workers"] == [known | {"trials": 2}]


def test_tags_tell_the_worker_and_leave_out_what_it_lacks(database: str, tmp_path: Path) -> None:
    sweep = sweep_record(tmp_path, database)
    workers = [
        {"node": "n", "device_kind": "H", "gpu_ids": ["0", "3"]},
        {"node": "m", "device_kind": "cpu", "gpu_ids": [], "rack": "", "lane": None},
        {"node": "m", "device_id": 0, "gpu_ids": "1"},
    ]
    trials = []
    for number, worker in enumerate(workers):
        trial = trial_record(number, "complete")
        reports = tuple(report | {"worker": worker} for report in trial.reports)
        trials.append(trial._replace(reports=reports))
    project(sweep, trials)
    runs = runs_of(sweep)
    found = [
        {k: v for k, v in runs[n].data.tags.items() if k.startswith("worker.")} for n in range(3)
    ]
    assert found == [
        {"worker.node": "n", "worker.device_kind": "H", "worker.gpu_ids": "0,3"},
        {"worker.node": "m", "worker.device_kind": "cpu"},
        {"worker.node": "m", "worker.device_id": "0", "worker.gpu_ids": "1"},
    ]


def datasets(sweep: SweepRecord) -> dict[int | None, list[tuple[str, str]]]:
    return {
        number: [(used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs]
        for number, run in runs_of(sweep).items()
        if run.inputs
    }


def test_every_run_has_its_dataset_once(database: str, tmp_path: Path) -> None:
    sweep, trials = sweep_record(tmp_path, database), all_outcomes()
    once = {number: [("digits", "d" * 36)] for number in (None, *range(len(trials)))}
    for _ in range(2):
        project(sweep, trials)
        assert datasets(sweep) == once
    # A shipper died between a run's creation and its dataset.
    client, late = MlflowClient(database), trial_record(5, "complete")
    tags = {"sweep.id": sweep.facts["sweep_id"], "sweep.kind": "trial", "sweep.trial": "5"}
    client.create_run(runs_of(sweep)[None].info.experiment_id, late.started_ms, tags)
    project(sweep, [*trials, late])
    assert datasets(sweep) == once | {5: [("digits", "d" * 36)]}


def test_the_state_of_the_winner_lies_in_its_run(database: str, tmp_path: Path) -> None:
    sweep, trials = sweep_record(tmp_path, database), all_outcomes()
    for number, trained in ((1, b"first"), (5, b"second")):
        path = checkpoint_path(tmp_path / "trials", number)
        path.parent.mkdir(parents=True)
        path.write_bytes(trained)

    def kept() -> list[int | None]:
        runs = runs_of(sweep)
        return [n for n, run in runs.items() if "checkpoint" in artifacts(sweep, run)]

    project(sweep, trials)
    assert kept() == []
    for _ in range(2):
        project(sweep._replace(state="finished"), trials)
        assert kept() == [1]
    project(sweep._replace(state="running"), trials)
    better: list[TrialRecord] = [*trials, trial_record(5, "complete", value=0.99)]
    project(sweep._replace(state="stopped"), better)
    assert sorted(n for n in kept() if n is not None) == [1, 5]
    assert artifact(sweep, runs_of(sweep)[5], "checkpoint", tmp_path) == b"second"
    assert runs_of(sweep)[None].data.tags["sweep.checkpoint_trial"] == "5"


# A real sweep

FAMILIES = """
    constant: {peak_lr: {choice: [0.001, 0.1, 1000000]}}
    cosine_decay: {peak_lr: {choice: [0.001, 0.1, 1000000]}}"""


def page(here: Site) -> str:
    return projected(here).parent.data.tags["mlflow.note.content"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_with_pruned_and_diverged_trials(tmp_path: Path) -> None:
    few = {"images": 256, "epochs": 4, "trials": 12, "pruning": "asha"}
    with site(tmp_path, families=FAMILIES, **few) as here:
        command = here.start(SWEEP_CRASH_AT="recorded@9")  # it is killed in the middle
        assert command.wait() < 0
        here.run("sync", "faults")
        text = page(here)
        assert "**interrupted**" in text
        assert "sweep resume faults" in text.splitlines()
        here.run()
        sweep, trials = here.read()
        states = [trial.state for trial in trials]
        assert set(states) == {"complete", "pruned", "diverged"}
        runs = projected(here)
        text = page(here)
        for state in set(states):
            assert f"{states.count(state)} {state}" in text
            found = MlflowClient(here.tracking_uri).search_runs(
                [runs.parent.info.experiment_id], f"tags.state = '{state}'"
            )
            assert {int(run.data.tags["trial"]) for run in found} == {
                trial.number for trial in trials if trial.state == state
            }
        diverged = next(trial for trial in trials if trial.state == "diverged")
        tags = runs.trials[diverged.number].data.tags
        assert tags["diverged_epoch"] == str(len(diverged.reports))
        assert "Winner: trial " in text
        assert set(artifacts(sweep, runs.parent)) >= PICTURES
        drawn = {name: written(sweep, name) for name in PICTURES}
        here.run("sync", "faults")
        assert {name: written(sweep, name) for name in PICTURES} == drawn
        assert page(here) == text
