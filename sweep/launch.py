"""From a config to a finished sweep: Ray, the ledger, the shipper, and a Tune run over them."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import tune

from search_spaces import SweepConfig, planned_steps
from sweep.delivery import default_tracking_uri
from sweep.directory import create_ledger, driving, open_ledger
from sweep.errors import CommandError
from sweep.facts import sweep_facts
from sweep.files import write_text
from sweep.functions import check_sources, pickled_functions
from sweep.resources import find_slots
from sweep.results import best_config_yaml, best_trial
from sweep.search import LedgerScheduler, LedgerSearcher, Referee
from sweep.slots import Slots, this_machine
from sweep.study import Ledger, SweepRecord, TrialRecord
from sweep.trial import Shared, TrialActor
from trainers.data import Dataset, load_dataset

# Read by Ray when it starts. A process without a GPU share must see no GPU; Tune's own loggers and
# working directories are not used.
_RAY_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
_WORKER_LOSSES = 3  # how often a trial whose worker died is taken up again


class Outcome(NamedTuple):
    """A sweep after its driver has ended."""

    sweep: SweepRecord
    trials: list[TrialRecord]
    delivered: bool  # whether the tracking server holds all of it
    signal: int  # what interrupted it, or 0

    @property
    def exit_code(self) -> int:
        """0: finished; 1: no winner; 3: MLflow does not hold all of it; 128 + n: signal n."""
        if self.signal:
            return 128 + self.signal
        if self.sweep.state == "failed":
            return 1
        return 0 if self.delivered else 3


Show = Callable[[Ledger], None]


def launch(
    config: SweepConfig,
    directory: Path,
    *,
    address: str | None = None,
    storage: str | None = None,
    manual_dir: Path | None = None,
    show: Show = lambda ledger: None,
) -> Outcome:
    """Run a new sweep in `directory`, which must not exist yet; `show` is called while it runs."""
    dataset = load_data(config, manual_dir)
    pickled_functions(config)  # or it is refused before anything is made
    with connected(address):
        slots = find_slots(config)
        ledger = create_ledger(
            directory,
            config,
            storage=storage,
            tracking_uri=default_tracking_uri(directory.parent),
            steps_per_epoch=planned_steps(config),
            facts=sweep_facts(config, dataset),
        )
        with driving(directory):
            return _run(ledger, show, lambda over: _tune(ledger, dataset, slots, show, over))


def resume(
    directory: Path, *, address: str | None = None, manual_dir: Path | None = None, show: Show
) -> Outcome:
    """Go on with a sweep whose driver was interrupted; its unfinished trials come first.

    Of a sweep that has ended only what the tracking server lacks is delivered.
    """
    with driving(directory):
        ledger = open_ledger(directory, proposing=True)
        if ledger.sweep().state in ("finished", "failed"):
            return _run(ledger, show, lambda over: None)
        check_sources(ledger.config, directory)
        dataset = _same_data(ledger, manual_dir)
        with connected(address):
            slots = find_slots(ledger.config)
            return _run(ledger, show, lambda over: _tune(ledger, dataset, slots, show, over))


def _same_data(ledger: Ledger, manual_dir: Path | None) -> Dataset:
    dataset = load_data(ledger.config, manual_dir)
    digest = ledger.sweep().facts["dataset_digest"]
    if dataset.digest != digest:
        raise CommandError(
            f"the data set must be the one of the launch, {digest}, but it is {dataset.digest}"
        )
    return dataset


def load_data(config: SweepConfig, manual_dir: Path | None) -> Dataset:
    """The data set that a config names."""
    return load_dataset(
        config.data.dataset,
        validation_examples=config.data.validation_examples,
        validation_split=config.data.validation_split,
        train_examples=config.data.train_examples,
        manual_dir=manual_dir,
    )


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or to a new one of this machine."""
    os.environ.update(_RAY_ENVIRONMENT)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _knock(address)
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            num_cpus=int(this_machine()["CPU"]) if address == "local" else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CommandError(
            f"no Ray cluster answers at {address}: {error}\n"
            "Start one with `ray start --head`, or leave --address out to use this machine.",
            exit_code=5,
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Refuse a `host:port` where nobody listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _run(ledger: Ledger, show: Show, search: Callable[[Callable[[], int]], None]) -> Outcome:
    """`search` until the budget is used up or someone interrupts; deliver what came out."""
    started = time.monotonic()
    ledger.set_state("running")
    shipper = _start_shipper(ledger.directory)
    state = "interrupted"
    with _interruptible() as interrupted:
        try:
            search(interrupted)
            if not interrupted():
                best = best_trial(ledger.config, ledger.trials())
                state = "finished" if best else "failed"
        finally:
            ledger.add_seconds(time.monotonic() - started)
            ledger.set_state(state)
            write_best(ledger)
            delivered = _finish_shipper(shipper)
    return Outcome(ledger.sweep(), ledger.trials(), delivered, interrupted())


def _tune(
    ledger: Ledger, dataset: Dataset, slots: Slots, show: Show, interrupted: Callable[[], int]
) -> None:
    """A Tune run over what remains; it is the executor only, and nothing of it is kept."""
    total = ledger.config.search.num_trials
    remaining = -1 if total is None else total - ledger.asked() + len(ledger.interrupted())
    if remaining == 0:
        return
    referee = Referee(ledger)
    scratch = (ledger.directory / ".tune").resolve()
    resources = {"CPU": slots.cpus_per_trial, "GPU": slots.gpus_per_trial}
    shared = Shared(
        dataset._replace(test_images=dataset.test_images[:0], test_labels=dataset.test_labels[:0]),
        ledger.config.training.model_dump(),
        pickled_functions(ledger.config),
        str(ledger.trials_directory.resolve()),
    )
    trainable = tune.with_parameters(TrialActor, shared=shared)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([resources])),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(ledger, referee, interrupted),
            scheduler=LedgerScheduler(ledger, referee, interrupted),
            num_samples=remaining,
            max_concurrent_trials=slots.concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{trial.config['number']:04d}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(scratch),
            callbacks=[ShowProgress(lambda: show(ledger))],
            failure_config=tune.FailureConfig(max_failures=_WORKER_LOSSES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if referee.given_up and (total is None or ledger.asked() < total):
        raise CommandError(
            f"{len(referee.failures)} trials in a row failed, so no more are started; the last:\n"
            f"{referee.failures[-1].strip()}\n"
            f"Once that is mended, go on with: sweep resume {ledger.directory.name}"
        )


class ShowProgress(tune.Callback):
    """Calls `show` after each of the controller's steps, which come at least every 0.1 s."""

    def __init__(self, show: Callable[[], None]):
        self._show = show

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Draw; a display that breaks, as when its reader goes away, stops no sweep."""
        try:
            self._show()
        except Exception:
            self._show = lambda: None

    def __getstate__(self) -> dict[str, Any]:
        return {}


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """The signal, Ctrl-C or SIGTERM, that asked the sweep to stop after the running epochs, or 0.

    A second signal does not wait for them.
    """
    caught: list[int] = []

    def handle(number: int, frame: Any) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt
        print("stopping after the running epochs; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_best(ledger: Ledger) -> None:
    """Write `best.yaml` into the sweep's directory, once there is a best trial."""
    best = best_trial(ledger.config, ledger.trials())
    if best:
        write_text(ledger.directory / "best.yaml", best_config_yaml(ledger.sweep(), best))


def _start_shipper(directory: Path) -> subprocess.Popen[bytes]:
    """The process that writes to MLflow; it lives until its standard input ends, as ours does."""
    log = directory / "tracking" / "shipper.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "sweep.tracking", str(directory)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _finish_shipper(shipper: subprocess.Popen[bytes]) -> bool:
    """Let the shipper deliver what is left; whether it could."""
    assert shipper.stdin is not None
    shipper.stdin.close()
    return shipper.wait() == 0
