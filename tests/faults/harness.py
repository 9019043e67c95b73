"""Real sweeps that are killed, cut off and corrupted, and what must hold afterwards."""

import atexit
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from sweep.directory import read_sweep
from sweep.metrics import checkpoint_path
from sweep.projection import RUN_STATUS, parameters
from sweep.records import ENDED, SweepRecord, TrialRecord
from sweep.results import best_config_yaml, best_trial

COMPILED = tempfile.mkdtemp(prefix="sweep-jax-")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
PICTURES = {"report.html", "atlas.html", "atlas.png"}
SWEEP = str(Path(sys.executable).with_name("sweep"))
FAMILIES = """
    constant: {peak_lr: {log_uniform: [1e-2, 0.3]}}
    exponential_decay: {peak_lr: {log_uniform: [1e-2, 0.3]}, decay_rate: {uniform: [0.1, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-2, 0.3]}, final_fraction: {choice: [0, 0.1]}}"""
CONFIG = """\
version: 1
name: faults
data: {{dataset: digits, validation_examples: 297, train_examples: {images}}}
training: {{model: cnn, optimizer: sgd, num_epochs: {epochs}, batch_size: 64, seed: 0}}
space:
  schedule:{families}
  momentum: {{uniform: [0, 0.9]}}
search: {{algorithm: {algorithm}, num_trials: {trials}, seed: 5}}
pruning: {{algorithm: {pruning}, grace_epochs: 2, reduction_factor: 2}}
resources: {{gpus_per_trial: 0, cpus_per_trial: 1, max_concurrent: {at_once}}}
"""


class Site:
    """A folder with one sweep file, and the environment its commands run in."""

    def __init__(self, folder: Path, tracking_uri: str | None = None, **fields: Any):
        defaults = {"images": 1024, "epochs": 4, "algorithm": "random", "trials": 16}
        defaults |= {"pruning": "none", "families": FAMILIES, "at_once": 2}
        fields = defaults | fields
        self.folder, self.directory = folder, folder / "sweeps" / "faults"
        self.trials, self.epochs = fields["trials"], fields["epochs"]
        self.at_once = fields["at_once"]
        self.marks, self.identity = folder / "marks", uuid.uuid4().hex
        self.marks.mkdir(parents=True)
        self.commands: list[Command] = []
        (folder / "faults.yaml").write_text(CONFIG.format(**fields))
        self.tracking_uri = tracking_uri or f"sqlite:///{folder}/sweeps/mlflow.db"
        self.environment = {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "SWEEP_CRASH_MARKS": str(self.marks),
            "SWEEP_FAULT_SITE": self.identity,
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "",
            # What the sites' programs are compiled to, so that each is compiled once.
            "JAX_COMPILATION_CACHE_DIR": COMPILED,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def start(self, *arguments: str, **variables: str) -> "Command":
        """Start `sweep ARGUMENTS`; by default launch or resume, whichever is due."""
        if not arguments:
            begun = (self.directory / "sweep.json").exists()
            arguments = ("resume", "faults") if begun else ("launch", "faults.yaml")
        command = Command(self.folder, [SWEEP, *arguments], self.environment | variables)
        self.commands.append(command)
        return command

    def run(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """What the command prints; it must end with that exit code."""
        command = self.start(*arguments, **variables)
        assert command.wait() == code, command.output()
        return command.output()

    def passed(self) -> Counter[str]:
        """How often any process came to each place of trainers/crashes.py."""
        path = self.marks / "passed"
        return Counter(path.read_text().splitlines() if path.exists() else [])

    def recorded(self) -> int:
        """How many epochs are recorded so far."""
        return self.passed()["recorded"]

    def told(self, place: str) -> dict[int, list[int]]:
        """The epochs of each trial that came to a place, in order, as often as they did."""
        path, epochs = self.marks / "passed", defaultdict(list)
        for line in path.read_text().splitlines():
            if told := re.fullmatch(rf"{place}: (\d+) (\d+)", line):
                epochs[int(told[1])].append(int(told[2]))
        return epochs

    def processes(self) -> list[int]:
        """What runs of this sweep, by the environment it was started with, and what that started.

        A process that gives itself a long name, as Ray's agents do, writes over its environment.
        """
        wanted = f"SWEEP_FAULT_SITE={self.identity}".encode()
        found, parents = set(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def end_processes(self) -> None:
        """Kill what runs of this sweep, and wait for what was started here."""
        signalled(self.processes(), signal.SIGKILL)
        for command in self.commands:
            command.wait(30)

    def read(self) -> tuple[SweepRecord, list[TrialRecord]]:
        return read_sweep(self.directory)

    def keeps(self, number: int) -> bool:
        """Whether the state of a trial is still there."""
        return (self.directory / "trials" / f"{number:04d}" / "checkpoint").exists()

    def accepted(self) -> dict[int, dict[str, Any]]:
        """The trials the ledger has accepted so far, with their parameters."""
        if not (self.directory / "sweep.json").exists():
            return {}
        return {trial.number: trial.parameters for trial in self.read()[1]}


class Command:
    """A `sweep` command that runs, in a process group of its own."""

    def __init__(self, folder: Path, arguments: list[str], variables: Mapping[str, str]):
        self._log = folder / f"{len(list(folder.glob('*.log'))):03}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["env", "--default-signal=INT", *arguments],  # a background shell ignores it
                cwd=folder,
                env=os.environ | variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float = 280) -> int:
        return self.process.wait(seconds)

    def wait_for(self, seconds: float) -> None:
        """Wait until it ends; TimeoutError if it does not."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str, seconds: float = 120) -> None:
        """Wait until the output matches."""
        until(lambda: re.search(pattern, self.output()), self.output, seconds)


def until(condition: Any, told: Any = lambda: "", seconds: float = 120) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {told()}"
        time.sleep(0.05)


class Projected(NamedTuple):
    """What MLflow holds of a sweep."""

    parent: Run
    trials: dict[int, Run]
    histories: dict[int, dict[str, dict[int, float]]]  # trial -> metric -> step -> value


def projected(site: Site) -> Projected:
    """What MLflow holds, where no trial has two runs and no metric two values at a step."""
    client = MlflowClient(tracking_uri=site.tracking_uri)
    sweep, _ = site.read()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`sweep.id` = '{sweep.facts['sweep_id']}'"
    runs = client.search_runs(experiments, query, max_results=1000)
    parents = [run for run in runs if run.data.tags["sweep.kind"] == "parent"]
    children = [run for run in runs if run.data.tags["sweep.kind"] == "trial"]
    numbers = Counter(run.data.tags["sweep.trial"] for run in children)
    assert len(parents) == 1
    assert set(numbers.values()) <= {1}, numbers
    trials = {int(run.data.tags["sweep.trial"]): run for run in children}
    histories: dict[int, dict[str, dict[int, float]]] = {}
    for number, run in trials.items():
        histories[number] = {}
        for key in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, key)
            assert len({point.step for point in points}) == len(points), (number, key)
            histories[number][key] = {point.step: point.value for point in points}
    return Projected(parents[0], trials, histories)


def assert_nothing_lost(
    site: Site,
    accepted: Mapping[int, Mapping[str, Any]] | None = None,
    *,
    incidents: int | None = None,
    state: str = "finished",
    failed: Collection[int] = (),
    thawed: bool = False,
) -> None:
    """After the sweep is over, the ledger, the files and MLflow agree, and lack nothing.

    `accepted`: trials that were known before an incident must have kept their parameters. With
    `incidents`, at most one epoch of each running trial was trained again at each. A sweep that was
    to be stopped has as many trials as it came to. `failed`: the trials that were to raise.
    `thawed`: some processes were frozen, so that they told late what they had done.
    """
    sweep, trials = site.read()
    assert sweep.state == state
    if state != "stopped":
        assert len(trials) == site.trials
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state for trial in trials} <= {"complete", "pruned", "diverged", "failed"}
    assert [trial.number for trial in trials if trial.state == "failed"] == sorted(failed)
    for number, known in (accepted or {}).items():
        assert trials[number].parameters == known
    for trial in trials:
        epochs = [report["epoch"] for report in trial.reports]
        assert epochs == list(range(1, len(epochs) + 1))
        assert trial.damage == ""
        assert len(epochs) == site.epochs or trial.state != "complete"
    assert_files_are_whole(site, sweep, trials)
    assert_projected(site, sweep, trials)
    if incidents is not None:
        assert_little_is_repeated(site, incidents, in_order=not thawed)
    until(lambda: not site.processes(), site.processes)
    assert_trains_to_the_same(site, trials)


def assert_files_are_whole(site: Site, sweep: SweepRecord, trials: list[TrialRecord]) -> None:
    """The best config is that of the best trial, and only complete trials keep their state."""
    best = best_trial(sweep.config, trials)
    assert (site.directory / "best.yaml").exists() == (best is not None)
    if best is not None:
        assert (site.directory / "best.yaml").read_text() == best_config_yaml(sweep, best)
    for trial in trials:
        assert site.keeps(trial.number) == (trial.state == "complete"), trial.number
    assert list(site.directory.rglob("*.part")) == []


def kept_state(site: Site, trial: TrialRecord) -> Path:
    """Where the training state of a trial lies."""
    return checkpoint_path(site.directory / "trials", trial.number)


def assert_little_is_repeated(site: Site, incidents: int, *, in_order: bool) -> None:
    """No epoch whose state was kept is trained again, and of the others few."""
    for number, epochs in site.told("checkpoint replaced").items() if in_order else ():
        steps = {later - earlier for earlier, later in itertools.pairwise([0, *epochs])}
        assert steps <= {1, 2}, (number, epochs)  # 2: killed before it could tell
    trained = site.told("checkpoint").values()
    assert sum(len(epochs) - len(set(epochs)) for epochs in trained) <= incidents * site.at_once


def assert_projected(site: Site, sweep: SweepRecord, trials: list[TrialRecord]) -> None:
    """MLflow holds each trial once, with each epoch once, as the metric files hold it."""
    held = projected(site)
    best = best_trial(sweep.config, trials)
    due = {"config.yaml", "environment.json", "leaderboard.json", *(["best.yaml"] if best else [])}
    assert artifacts(site, held.parent) >= due | (PICTURES if sweep.state in ENDED else set())
    assert held.parent.info.status == RUN_STATUS[sweep.state]
    assert held.parent.data.tags["sweep.state"] == sweep.state
    assert sorted(held.trials) == [trial.number for trial in trials]
    for trial in trials:
        run = held.trials[trial.number]
        assert run.data.tags["state"] == trial.state
        assert run.info.status == RUN_STATUS[trial.state]
        assert run.data.params == parameters(trial.parameters)
        rates = held.histories[trial.number].get("learning_rate", {})
        assert max(rates, default=-1) == len(trial.reports) * sweep.steps_per_epoch - 1
        due = {"error.txt" if trial.state == "failed" else "learning_rate.png"}
        if trial == best and sweep.state in ENDED and kept_state(site, trial).exists():
            due.add("checkpoint")
        assert artifacts(site, run) >= due
        assert run.inputs is not None
        names = [used.dataset.name for used in run.inputs.dataset_inputs]
        assert names == [sweep.config.data.dataset]
        for key in ("train_loss", "val_loss", "val_accuracy"):
            told = {
                report["epoch"] * sweep.steps_per_epoch: report[key]
                for report in trial.reports
                if report[key] is not None
            }
            assert held.histories[trial.number].get(key, {}) == told, (trial.number, key)


def artifacts(site: Site, run: Run) -> set[str]:
    """The names of a run's artifacts."""
    client = MlflowClient(tracking_uri=site.tracking_uri)
    return {file.path for file in client.list_artifacts(run.info.run_id)}


_RETRAIN = """
import json, sys
from pathlib import Path
from trainers.devices import claim
claim(num_cpus=1, gpu_share=0)
from sweep.directory import read_sweep
from sweep.facts import load_data
from trainers.runs import fit_point
from trainers.training import Settings, on_device
sweep, trials = read_sweep(Path(sys.argv[1]))
trials = [trial for trial in trials if trial.reports]
data = on_device(load_data(sweep.config, None))
settings = Settings(**sweep.config.training.model_dump())
for trial in trials:
    losses = []
    for report in fit_point(data, trial.space, settings):
        losses.append([report.train_loss, report.val_loss, report.val_accuracy])
        if len(losses) == len(trial.reports):
            break
    print(json.dumps(losses))
"""


def assert_trains_to_the_same(site: Site, trials: list[TrialRecord]) -> None:
    """Each trial's figures are those of a run that nothing disturbed, to the last bit."""
    command = [sys.executable, "-c", _RETRAIN, str(site.directory)]
    environment = os.environ | site.environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    keys = ("train_loss", "val_loss", "val_accuracy")
    trained = [trial for trial in trials if trial.reports]
    for trial, line in zip(trained, done.stdout.splitlines(), strict=True):
        expected = [
            [None if value != value or abs(value) == float("inf") else value for value in row]
            for row in json.loads(line)
        ]
        assert [[report[key] for key in keys] for report in trial.reports] == expected


def signalled(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def site(folder: Path, tracking_uri: str | None = None, **fields: Any) -> Iterator[Site]:
    """A site whose processes are gone afterwards, whatever happened."""
    made = Site(folder, tracking_uri, **fields)
    try:
        yield made
    finally:
        made.end_processes()
