"""Children that fork from a process which has imported all they need, act, and die at a place."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from search_spaces import load_config, planned_steps
from sweep.capacity import Capacity
from sweep.delivery import MLFLOW_ENVIRONMENT
from sweep.directory import create_ledger, latest_driver, open_ledger
from sweep.halt import Halt
from sweep.lease import driving
from sweep.naming import launching
from sweep.results import write_best
from sweep.search import LedgerScheduler, LedgerSearcher, Referee
from sweep.slots import Slots
from sweep.study import Ledger
from tests.faults.harness import Site

ROOT = Path(__file__).parents[2]
SERVE = """
import os, sys
{setup}
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.environ["SWEEP_CRASH_AT"] = line.strip()
        os._exit({action} or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
MAKE = (
    f"from pathlib import Path; from {__name__} import make",
    "make(Path(sys.argv[1]), sys.argv[2] or None)",
)
DRIVE = (f"from pathlib import Path; from {__name__} import drive", "drive(Path(sys.argv[1]))")
SHIP = (
    "import mlflow.store.tracking.sqlalchemy_store; from sweep.shipping import main; "
    "from sweep.tracking import connect, deliver",
    "main(connect, deliver, [sys.argv[1] + '/sweeps/faults', '--once'])",
)


@contextmanager
def children(
    here: Site, action: tuple[str, str], *arguments: str, **variables: str
) -> Iterator[Callable[[str], int]]:
    """Gives a function: a child acts, and dies at a place; its exit code."""
    script = SERVE.format(setup=action[0], action=action[1])
    environment = os.environ | MLFLOW_ENVIRONMENT | here.environment | variables
    with subprocess.Popen(
        [sys.executable, "-c", script, str(here.folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as server:
        requests, answers = server.stdin, server.stdout
        assert requests
        assert answers

        def act(place: str) -> int:
            print(place, file=requests, flush=True)
            return int(answers.readline())

        yield act
        requests.close()


def make(folder: Path, storage: str | None) -> None:
    """What a child does: the part of a launch that makes the sweep, without Ray."""
    directory = folder / "sweeps" / "faults"
    config = load_config(folder / "faults.yaml")
    with launching(directory):
        create_ledger(
            directory,
            config,
            storage=storage,
            tracking_uri=f"sqlite:///{folder}/sweeps/mlflow.db",
            steps_per_epoch=planned_steps(config),
            facts={"sweep_id": "s", "dataset_digest": "d", "user": "ada", "config_sha256": "c"},
        )


def drive(folder: Path) -> None:
    """What a child does: the part of a driver that proposes, records and judges trials.

    Two trials are open; the first of them gets its next epoch. Of five one fails, one diverges.
    """
    directory = folder / "sweeps" / "faults"
    with driving(directory, above=latest_driver(directory)) as lease:
        ledger = open_ledger(directory, lease=lease)
        referee, halt = Referee(ledger), Halt(directory)
        searcher = LedgerSearcher(ledger, referee, halt, Capacity(Slots(1, 0, 2), None))
        scheduler = LedgerScheduler(ledger, referee, halt)
        ledger.set_state("running")
        jobs: list[dict[str, Any]] = []
        while True:
            while len(jobs) < 2 and (job := searcher.suggest("")) != LedgerSearcher.FINISHED:
                jobs.append(job)
            if not jobs:
                break
            jobs[0]["skip_epochs"] += 1
            result = invented(ledger, jobs[0]["number"], jobs[0]["skip_epochs"])
            trial = SimpleNamespace(config=jobs[0])
            if scheduler.on_trial_result(None, trial, result) == LedgerScheduler.STOP:
                jobs.pop(0)
        ledger.set_state("finished")
        write_best(ledger.sweep(), ledger.trials())
    assert "jax" not in sys.modules


def invented(ledger: Ledger, number: int, epoch: int) -> dict[str, Any]:
    """What a trial's process would tell the driver of an epoch."""
    if (number % 5, epoch) == (2, 2):
        return {"reports": [], "failure": "it broke", "trouble": None}
    steps = ledger.sweep().steps_per_epoch
    row = ledger.curve(ledger.space(number))[(epoch - 1) * steps : epoch * steps]
    diverged = (number % 5, epoch) == (4, 2)
    loss = float("nan") if diverged else 1 / (1 + number * 7 % 5 + epoch)
    report = {
        "epoch": epoch,
        "learning_rate_sha256": hashlib.sha256(row.tobytes()).hexdigest(),
        "train_loss": loss,
        "val_loss": loss,
        "val_accuracy": 1 - loss,
        "seconds": 0.1,
        "diverged": diverged,
        "worker": {"node": "n", "pid": 7},
    }
    return {"reports": [report], "failure": None, "trouble": None}
