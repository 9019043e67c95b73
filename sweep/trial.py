"""What runs on a worker: one Ray actor trains one trial after another. The main path is here."""

import errno
import os
import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import tune

from sweep.files import NO_ROOM
from sweep.metrics import checkpoint_path
from sweep.stores import Store, fetch, keep, open_store
from trainers.data import Dataset
from trainers.devices import claim, count_programs, describe

_REPORT_EVERY_S = 0.1  # a report costs the driver some milliseconds
# trainers.runs imports jax, which reads its environment once: so only after claim().


class Shared(NamedTuple):
    """What all trials of a sweep have in common; it reaches a node once, through Ray."""

    dataset: Dataset  # without its test split; read-only on a worker, in memory that all share
    settings: dict[str, Any]  # of trainers.training.Settings
    functions: bytes  # pickled, the user's own by name: a worker may lack their files
    trials: str  # the folder of the trials' own folders
    checkpoints: str | None = None  # where their training states go instead, see sweep/stores.py


class TrialActor(tune.Trainable):
    """A Ray Tune trainable that keeps its data and its compiled program from trial to trial."""

    def setup(self, config: dict, shared: Shared | None = None) -> None:
        """Once per worker process: claim the device and put the data on it."""
        assert shared is not None
        self.broken = None
        try:
            self.prepare(shared)
        except Exception:  # Tune would lose the reason
            node = ray.util.get_node_ip_address()
            self.broken = f"a worker on node {node} could not start:\n{traceback.format_exc()}"
        self.reset_config(config)

    def prepare(self, shared: Shared) -> None:
        """What can go wrong in setup(), which is no fault of a trial."""
        assert self.trial_resources is not None
        resources = self.trial_resources.required_resources
        claim(num_cpus=int(resources.get("CPU", 1)), gpu_share=resources.get("GPU", 0))
        from trainers.training import Settings, on_device

        self.dataset, self.settings = on_device(shared.dataset), Settings(**shared.settings)
        self.functions, self.trials = pickle.loads(shared.functions), Path(shared.trials)
        self.store = open_store(shared.checkpoints) if shared.checkpoints else None
        if self.store:
            self.scratch = tempfile.TemporaryDirectory(prefix="sweep-trial-")
            self.trials = Path(self.scratch.name)
        self.programs = count_programs("train_epoch")
        self.worker = describe() | {
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "num_cpus": resources.get("CPU", 1),
            "gpu_ids": [str(gpu) for gpu in ray.get_gpu_ids()],  # of the node; JAX counts its own
        }

    def reset_config(self, new_config: dict) -> bool:
        """Once per trial: `new_config` is {number, space, skip_epochs}; nothing runs yet."""
        self.reports = self.train_trial(**new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch, or several short ones, and report; an exception is a result as well."""
        if self.broken:
            return {"reports": [], "broken": self.broken}
        reports, failure, trouble, started = [], None, None, time.monotonic()
        try:
            for report in self.reports:
                worker = self.worker | dict(self.programs)
                reports.append(report._asdict() | {"diverged": report.diverged, "worker": worker})
                if time.monotonic() - started > _REPORT_EVERY_S:
                    break
            if not reports:
                failure = "no epoch was left to train"
        except OSError as error:
            if error.errno not in NO_ROOM:
                failure = traceback.format_exc()
            else:
                trouble = (error.errno, error.strerror, error.filename)
        except Exception:
            failure = traceback.format_exc()
        return {"reports": reports, "failure": failure, "trouble": trouble}

    def train_trial(self, number: int, space: dict, skip_epochs: int) -> Iterator[Any]:
        """One trial, epoch by epoch: parameters -> learning-rate curve -> training run."""
        from trainers.runs import fit_point

        path = checkpoint_path(self.trials, number)
        if self.store:
            fetch(self.store, number, path)
        elif not (self.trials.parent / "sweep.json").exists():  # a node that has joined since
            fault = f"node {self.worker['node']} does not share that folder"
            raise OSError(errno.EIO, fault, str(self.trials.parent))
        reports = fit_point(
            self.dataset,
            space,
            self.settings,
            functions=self.functions,
            checkpoint_path=path,
            skip_epochs=skip_epochs,
        )
        yield from kept(reports, self.store, number, path) if self.store else reports


def kept(reports: Iterator[Any], store: Store, number: int, path: Path) -> Iterator[Any]:
    """Reports of a trial, each once the state that holds it is in the store as well."""
    written = path.stat().st_ino if path.exists() else None
    for report in reports:
        now = path.stat().st_ino if path.exists() else None
        if now not in (None, written):  # else the report was in the state that the trial began with
            keep(store, number, report.epoch, path)
            written = now
        yield report
    shutil.rmtree(path.parent, ignore_errors=True)
