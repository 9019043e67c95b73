"""Whole sweeps through the command line: real Ray, real training, a real MLflow server."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweep.directory import read_sweep
from sweep.records import SweepRecord, TrialRecord
from tests.tracking_server import free_port, serving
from trainers.schedules import learning_rate_curve

pytestmark = [
    pytest.mark.slow,
    # MLflow itself uses a SQLAlchemy option that is to go.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

SWEEP = str(Path(sys.executable).with_name("sweep"))
# Every family once, and two learning rates that overflow.
KNOWN_POINTS = """[
  {schedule: {constant: {peak_lr: 1.0e+20}}, warmup_fraction: 0.05, momentum: 0.0},
  {schedule: {constant: {peak_lr: 0.01}}, warmup_fraction: 0.0, momentum: 0.5},
  {schedule: {exponential_decay: {peak_lr: 0.1, decay_rate: 0.1}},
   warmup_fraction: 0.1, momentum: 0.9},
  {schedule: {inverse_time_decay: {peak_lr: 0.1, decay_rate: 10}},
   warmup_fraction: 0.1, momentum: 0.9},
  {schedule: {polynomial_decay: {peak_lr: 0.1, power: 2, final_fraction: 0.1}},
   warmup_fraction: 0.1, momentum: 0.9},
  {schedule: {piecewise_constant: {values: [0.1, 0.01, 0.001]}},
   warmup_fraction: 0.1, momentum: 0.9},
  {schedule: {cosine_decay: {peak_lr: 0.1, final_fraction: 0.01}},
   warmup_fraction: 0.1, momentum: 0.9},
  {schedule: {custom: {init_lr: 0.1}}, warmup_fraction: 0.1, momentum: 0.9},
  {schedule: {constant: {peak_lr: 3.0e+19}}, warmup_fraction: 0.19, momentum: 0.0}]"""
WITH_DIVERGING = [
    "space.schedule.constant.peak_lr={log_uniform: [1.0e-3, 1.0e+20]}",
    f"enqueue={' '.join(KNOWN_POINTS.split())}",
]


class Finished(NamedTuple):
    """A sweep that has ended, as each of the places that know of it tells it."""

    completed: subprocess.CompletedProcess[str]
    sweep: SweepRecord
    trials: list[TrialRecord]
    study: optuna.Study
    client: MlflowClient
    parent: Run
    runs: Mapping[int, Run]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SWEEP, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def overrides(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server"), free_port()) as uri:
        yield uri


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory, server: str) -> Finished:
    """The quickstart's own 24 trials, with points among them that diverge."""
    folder = tmp_path_factory.mktemp("quickstart")
    arguments = ("launch", "quickstart", *overrides(*WITH_DIVERGING))
    completed = run(folder, *arguments, MLFLOW_TRACKING_URI=server)
    assert completed.returncode == 0, completed.stderr
    return finished(completed, folder / "sweeps" / "quickstart", server)


def finished(completed: subprocess.CompletedProcess[str], directory: Path, server: str) -> Finished:
    sweep, trials = read_sweep(directory)
    storage = JournalStorage(JournalFileBackend(str(directory / "study.journal")))
    study = optuna.load_study(
        study_name=sweep.name, storage=storage, sampler=optuna.samplers.RandomSampler()
    )
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(sweep.config.tracking.experiment)
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.`sweep.id` = '{sweep.facts['sweep_id']}'",
        max_results=1000,
    )
    (parent,) = [run for run in found if "sweep.trial" not in run.data.tags]
    children = [run for run in found if "sweep.trial" in run.data.tags]
    runs = {int(run.data.tags["sweep.trial"]): run for run in children}
    assert len(runs) == len(children)
    return Finished(completed, sweep, trials, study, client, parent, runs)


def test_a_sweep_ends_with_a_winner_and_what_to_type_next(quickstart: Finished) -> None:
    out = quickstart.completed.stdout
    best = max(t.value for t in quickstart.trials if t.state == "complete" and t.value is not None)
    assert re.search(rf"^winner   trial \d+: \w+, val_accuracy {best}$", out, re.MULTILINE)
    assert "sweep ui quickstart" in out
    assert "sweep export quickstart -o best.yaml" in out
    assert "24 of 24 trials" in quickstart.completed.stderr
    assert best > 0.9


def test_trials_ended_in_every_way(quickstart: Finished) -> None:
    states = Counter(trial.state for trial in quickstart.trials)
    assert sum(states.values()) == 24
    assert states["diverged"] >= 2
    assert states["pruned"] >= 1
    assert states["complete"] >= 5
    assert set(states) == {"complete", "pruned", "diverged"}
    families = {trial.parameters["schedule"] for trial in quickstart.trials}
    assert families == set(quickstart.sweep.config.space.schedule)


def test_each_worker_traces_and_compiles_the_program_once(quickstart: Finished) -> None:
    programs: dict[int, set[tuple[int, int]]] = {}
    for trial in quickstart.trials:
        for report in trial.reports:
            worker = report["worker"]
            programs.setdefault(worker["pid"], set()).add((worker["traced"], worker["compiled"]))
    assert 1 <= len(programs) <= (os.cpu_count() or 1)
    assert all(counts == {(1, 1)} for counts in programs.values()), programs


def test_study_files_and_mlflow_agree_trial_by_trial(quickstart: Finished) -> None:
    assert [t.number for t in quickstart.trials] == list(range(24)) == sorted(quickstart.runs)
    for trial, frozen in zip(quickstart.trials, quickstart.study.trials, strict=True):
        run = quickstart.runs[trial.number]
        told = {"complete": TrialState.COMPLETE}.get(trial.state, TrialState.PRUNED)
        assert frozen.state == told
        assert trial.state != "complete" or frozen.value == trial.value
        values = {r["epoch"]: r["val_accuracy"] for r in trial.reports if not r["diverged"]}
        assert frozen.intermediate_values == values
        assert run.info.status == "FINISHED"
        assert run.data.tags["state"] == trial.state
        assert run.data.params == {k: _text(v) for k, v in trial.parameters.items()}
        history = _history(quickstart, trial, "val_accuracy")
        steps = quickstart.sweep.steps_per_epoch
        assert {step // steps: value for step, value in history.items()} == {
            r["epoch"]: r["val_accuracy"] for r in trial.reports
        }
        assert trial.state != "complete" or len(trial.reports) == 10


def test_a_diverged_trial_is_never_best_and_has_no_value(quickstart: Finished) -> None:
    diverged = [t for t in quickstart.trials if t.state == "diverged"]
    for trial in diverged:
        assert trial.value is None
        assert trial.reports[-1]["diverged"]
        assert None in (trial.reports[-1]["train_loss"], trial.reports[-1]["val_loss"])
        tags = quickstart.runs[trial.number].data.tags
        assert tags["diverged_epoch"] == str(trial.reports[-1]["epoch"])
        for metric in quickstart.runs[trial.number].data.metrics.values():
            assert np.isfinite(metric)
            assert abs(metric) < 1e308


def test_the_logged_curve_is_the_used_one_bit_for_bit(quickstart: Finished) -> None:
    config, steps = quickstart.sweep.config, quickstart.sweep.steps_per_epoch
    families = set()
    for trial in quickstart.trials:
        curve = learning_rate_curve(
            trial.space, num_epochs=config.training.num_epochs, steps_per_epoch=steps
        )
        assert hashlib.sha256(curve.tobytes()).hexdigest() == trial.curve_sha256
        history = _history(quickstart, trial, "learning_rate")
        logged = np.array([history[step] for step in sorted(history)], np.float32)
        assert sorted(history) == list(range(steps * len(trial.reports)))
        assert logged.tobytes() == curve[: len(logged)].tobytes()
        for report in trial.reports:
            row = curve[(report["epoch"] - 1) * steps : report["epoch"] * steps]
            assert report["learning_rate_sha256"] == hashlib.sha256(row.tobytes()).hexdigest()
        families.add(trial.parameters["schedule"])
    assert families == set(config.space.schedule)


def test_the_parent_run_is_enough_by_itself(quickstart: Finished) -> None:
    parent, client = quickstart.parent, quickstart.client
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in quickstart.runs.values()} == {
        parent.info.run_id
    }
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "leaderboard.json", "best.yaml"} <= names
    folder = client.download_artifacts(parent.info.run_id, "best.yaml")
    assert Path(folder).read_text() == (quickstart.sweep.directory / "best.yaml").read_text()
    child = next(iter(quickstart.runs.values()))
    assert "learning_rate.png" in {i.path for i in client.list_artifacts(child.info.run_id)}


def test_the_winner_trains_again_to_the_last_digit(quickstart: Finished) -> None:
    directory = quickstart.sweep.directory
    again = run(directory, "train", "best.yaml", "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["value"] == result["expected"]
    assert 0.9 < result["test_accuracy"] <= 1


def test_real_images_from_search_to_retraining(tmp_path: Path, manual_dir: Path) -> None:
    cache = {"SWEEP_CACHE_DIR": str(tmp_path / "cache")}
    settings = overrides(
        "data.train_examples=5120",
        "data.validation_examples=2000",
        "training.num_epochs=2",
        "search.num_trials=4",
        "pruning.algorithm=none",
    )
    arguments = ("launch", "fashion_mnist", *settings, "--manual-dir", str(manual_dir))
    launched = run(tmp_path, *arguments, **cache)
    assert launched.returncode == 0, launched.stderr
    exported = run(tmp_path, "export", "fashion-mnist-schedules", "-o", "best.yaml")
    assert exported.returncode == 0, exported.stderr
    again = run(tmp_path, "train", "best.yaml", "--json", **cache)
    result = json.loads(again.stdout)
    assert result["value"] == result["expected"] > 0.5


def test_a_server_that_is_down_changes_no_result(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    settings = overrides("search.num_trials=2", "training.num_epochs=2")
    settings += overrides("pruning.algorithm=none")
    launched = run(tmp_path, "launch", "quickstart", *settings, MLFLOW_TRACKING_URI=uri)
    assert launched.returncode == 3, launched.stderr
    assert "sweep status quickstart" in launched.stdout
    assert launched.stderr.count("takes nothing at present") == 1
    status = json.loads(run(tmp_path, "status", "quickstart", "--json").stdout)
    assert status["trials"] == {"complete": 2}
    assert status["undelivered"]["trials"] == 2
    assert status["undelivered"]["epochs"] == 4


def test_an_all_diverging_sweep_fails_with_advice(tmp_path: Path) -> None:
    space = "space.schedule={constant: {peak_lr: {log_uniform: [1.0e+18, 1.0e+20]}}}"
    launched = run(tmp_path, "launch", "quickstart", *overrides(space, "search.num_trials=2"))
    assert launched.returncode == 1, launched.stderr
    assert "every trial diverged; lower the upper end of peak_lr" in launched.stdout
    assert "winner" not in launched.stdout


def test_more_gpus_than_any_node_has_is_said_before_launch(tmp_path: Path) -> None:
    launched = run(tmp_path, "launch", "quickstart", *overrides("resources.gpus_per_trial=9"))
    assert launched.returncode == 2
    assert "gpus_per_trial must fit on one node, but got 9" in launched.stderr
    assert "Traceback" not in launched.stderr
    assert not (tmp_path / "sweeps" / "quickstart").exists()


@pytest.mark.parametrize("algorithm", ["grid", "cmaes"])
def test_other_searches(tmp_path: Path, algorithm: str) -> None:
    ranges = {
        "grid": "peak_lr: {choice: [0.1, 0.3]}, final_fraction: {choice: [0, 0.1]}",
        "cmaes": "peak_lr: {log_uniform: [0.01, 1]}, final_fraction: {uniform: [0, 0.1]}",
    }
    settings = overrides(
        f"space={{schedule: {{cosine_decay: {{{ranges[algorithm]}}}}}}}",
        f"search={{algorithm: {algorithm}, num_trials: 4}}",
        "training.num_epochs=2",
        "pruning.algorithm=none",
    )
    launched = run(tmp_path, "launch", "quickstart", *settings)
    assert launched.returncode == 0, launched.stderr
    _, trials = read_sweep(tmp_path / "sweeps" / "quickstart")
    points = {(t.parameters["peak_lr"], t.parameters["final_fraction"]) for t in trials}
    assert len(points) == 4
    if algorithm == "grid":
        assert points == {(0.1, 0), (0.1, 0.1), (0.3, 0), (0.3, 0.1)}


def training_driver(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """A launch of the quickstart that has reported its first epochs, and its directory."""
    driver = subprocess.Popen(
        [SWEEP, "launch", "quickstart", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    directory = folder / "sweeps" / "quickstart"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(directory.glob("trials/*/metrics.jsonl")):
        time.sleep(0.05)
    return driver, directory


def test_an_interrupted_sweep_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    settings = overrides("training.num_epochs=200", "search.num_trials=3", "pruning.algorithm=none")
    driver, directory = training_driver(tmp_path, *settings)
    second = run(tmp_path, "resume", "quickstart")
    assert second.returncode == 4
    assert "quickstart is being run by process " in second.stderr
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert "sweep resume quickstart" in out
    sweep, before = read_sweep(directory)
    assert sweep.state == "interrupted"
    cut = {t.number: t for t in before if t.state == "running"}
    assert cut
    assert all(0 < len(t.reports) < 200 for t in cut.values())

    resumed = run(tmp_path, "resume", "quickstart")
    assert resumed.returncode == 0, resumed.stderr
    sweep, after = read_sweep(directory)
    assert sweep.state == "finished"
    assert [t.number for t in after] == [0, 1, 2]
    for trial in after:
        assert trial.state == "complete"
        assert [r["epoch"] for r in trial.reports] == list(range(1, 201))
        if trial.number in cut:
            done = cut[trial.number]
            assert trial.parameters == done.parameters
            assert trial.reports[: len(done.reports)] == done.reports


def test_a_killed_driver_is_seen_and_its_sweep_goes_on(tmp_path: Path) -> None:
    settings = overrides("training.num_epochs=100", "search.num_trials=4", "pruning.algorithm=none")
    driver, directory = training_driver(tmp_path, *settings)
    driver.kill()
    driver.communicate()
    sweep, before = read_sweep(directory)
    assert sweep.state == "interrupted"
    resumed = run(tmp_path, "resume", "quickstart")
    assert resumed.returncode == 0, resumed.stderr
    sweep, after = read_sweep(directory)
    assert sweep.state == "finished"
    assert [t.number for t in after] == [0, 1, 2, 3]
    for trial in after:
        assert [r["epoch"] for r in trial.reports] == list(range(1, 101))
    for trial in before:
        assert after[trial.number].parameters == trial.parameters
        assert after[trial.number].reports[: len(trial.reports)] == trial.reports


def test_a_trainer_that_always_fails_does_not_use_the_budget_up(tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(
        "import os\n"
        "def rate(t):\n"
        "    if {'RAY_JOB_ID', 'RAY_RAYLET_PID'} & set(os.environ):  # on a worker\n"
        "        raise OSError('no such disk')\n"
        "    return 0.1\n"
    )
    space = "space={schedule: {custom: {function: rule.py:rate}}, momentum: {uniform: [0, 0.9]}}"
    settings = overrides(space.replace("rule.py", str(tmp_path / "rule.py")))
    settings += overrides("search.num_trials=20", "training.num_epochs=4")
    launched = run(tmp_path, "launch", "quickstart", *settings)
    assert launched.returncode == 1, launched.stdout
    assert "trials in a row failed" in launched.stderr
    assert "no such disk" in launched.stderr
    _, trials = read_sweep(tmp_path / "sweeps" / "quickstart")
    assert {t.state for t in trials} <= {"failed", "running"}
    assert len(trials) < 8


def _history(sweep: Finished, trial: TrialRecord, key: str) -> dict[int, float]:
    """The points of a metric by step; none may be there twice."""
    points = sweep.client.get_metric_history(sweep.runs[trial.number].info.run_id, key)
    steps = [point.step for point in points]
    assert len(set(steps)) == len(steps)
    return {point.step: point.value for point in points}


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
