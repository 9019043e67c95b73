"""From a config to a finished sweep: Ray, the ledger, the shipper, and a Tune run over them."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from rich.console import Console

from search_spaces import SweepConfig, planned_steps
from sweep.budget import is_spent, raise_budget
from sweep.capacity import TUNE_LIMIT, Capacity, new_workers_start
from sweep.cluster import chosen, connected, disconnect
from sweep.commands import command_for
from sweep.delivery import Shipper, default_tracking_uri, is_folder
from sweep.directory import create_ledger, latest_driver, open_ledger
from sweep.errors import CommandError
from sweep.facts import load_data, sweep_facts
from sweep.files import NO_ROOM
from sweep.functions import check_sources, pickled_functions
from sweep.halt import Halt, Interrupted, Leave, at_last, say, told
from sweep.lease import driving
from sweep.naming import launching
from sweep.nodes import check_versions
from sweep.reach import check_reached
from sweep.records import ENDED, SweepRecord, TrialRecord
from sweep.resources import await_slots, find_slots
from sweep.results import best_trial, write_best
from sweep.search import LedgerScheduler, LedgerSearcher, Referee
from sweep.secrecy import check_tracking
from sweep.storechecks import check_store, collect, own_place
from sweep.study import Ledger
from sweep.trial import Shared, TrialActor
from trainers.data import Dataset

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
        if self.sweep.state in ("failed", "cancelled"):
            return 1
        return 0 if self.delivered else 3


Show = Callable[[Ledger], None]


def launch(
    config: SweepConfig,
    directory: Path,
    *,
    address: str | None = None,
    insecure: bool = False,
    storage: str | None = None,
    checkpoints: str | None = None,
    manual_dir: Path | None = None,
    show: Show = lambda ledger: None,
) -> Outcome:
    """Run a new sweep in `directory`, which must not exist yet; `show` is called while it runs.

    `checkpoints` is the address of an object store, for nodes that share no folder.
    """
    tracking_uri = default_tracking_uri(directory.parent)
    check_tracking(tracking_uri)
    if is_folder(tracking_uri):
        raise CommandError(
            f"MLFLOW_TRACKING_URI must be of a server or a database, but {tracking_uri} is a "
            "folder; set it to sqlite:////FOLDER/mlflow.db, or unset it",
            exit_code=2,
        )
    with _interruptible(directory) as halt, contextlib.ExitStack() as name:
        name.enter_context(launching(directory))
        dataset = load_data(config, manual_dir)
        pickled_functions(config)  # or it is refused before anything is made
        facts = sweep_facts(config, dataset)
        place = checkpoints and own_place(checkpoints, directory.name, facts["sweep_id"])
        with connected(address, insecure=insecure):
            capacity = _ready(config, directory, address, place)
            create_ledger(
                directory,
                config,
                storage=storage,
                tracking_uri=tracking_uri,
                steps_per_epoch=planned_steps(config),
                facts=facts,
                checkpoints=place,
            )
            with driven(directory) as ledger:
                name.close()  # its driver's lease takes over
                return _run(ledger, halt, show, lambda tend: _tune(ledger, dataset, capacity, tend))


def resume(
    directory: Path,
    *,
    budget: Mapping[str, float],
    takeover: bool = False,
    address: str | None = None,
    insecure: bool = False,
    manual_dir: Path | None = None,
    show: Show,
) -> Outcome:
    """Go on with a sweep whose driver was interrupted; its unfinished trials come first.

    `budget` raises num_trials or hours. Of a sweep that has ended, and has nothing more to spend,
    only what the tracking server lacks is delivered.
    """
    with _interruptible(directory) as halt, driven(directory, takeover=takeover) as ledger:
        raise_budget(ledger, budget)
        if ledger.sweep().state in ENDED and not budget:
            return _run(ledger, halt, show, None)
        ledger.set_state("running")  # so that it is told of what others ask for from here on
        check_sources(ledger.config, directory)
        dataset = _same_data(ledger, manual_dir)
        with connected(address, insecure=insecure):
            capacity = _ready(ledger.config, directory, address, ledger.checkpoints)
            return _run(ledger, halt, show, lambda tend: _tune(ledger, dataset, capacity, tend))


def _ready(
    config: SweepConfig, directory: Path, address: str | None, checkpoints: str | None
) -> Capacity:
    """What runs at once; a cluster that is not ours is looked at before anything is made there."""
    ours = chosen(address) == "local"
    slots = find_slots(config) if ours else await_slots(config)
    newcomers = None if ours else check_versions()
    if checkpoints:
        check_store(checkpoints)
    elif not ours:
        check_reached(directory.parent)
    return Capacity(slots, config.resources.max_concurrent, newcomers)


@contextmanager
def driven(directory: Path, *, takeover: bool = False) -> Iterator[Ledger]:
    """The sweep's ledger, to be written by this process alone."""
    with driving(directory, takeover=takeover, above=latest_driver(directory)) as lease:
        yield open_ledger(directory, lease=lease, takeover=takeover)


@contextmanager
def _interruptible(directory: Path) -> Iterator[Halt]:
    """What may end the sweep; a signal that does not wait ends it here, with its exit code."""
    halt = Halt(directory)

    def way_on() -> str:
        begun = (directory / "sweep.json").exists()
        return f"go on with: {command_for('resume', directory)}" if begun else "nothing was begun"

    with halt.listening(), at_last(way_on):
        try:
            yield halt
        except Interrupted as stopped:
            raise CommandError(f"stopped at once; {way_on()}", stopped.exit_code) from None
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise CommandError(told(error, directory)) from error


def _same_data(ledger: Ledger, manual_dir: Path | None) -> Dataset:
    dataset = load_data(ledger.config, manual_dir)
    digest = ledger.sweep().facts["dataset_digest"]
    if dataset.digest != digest:
        raise CommandError(
            f"the data set must be the one of the launch, {digest}, but it is {dataset.digest}"
        )
    return dataset


class Tend(tune.Callback):
    """What is done after each of the controller's steps, which come at least every 0.1 s."""

    def __init__(self, ledger: Ledger, halt: Halt, show: Show, shipper: Shipper):
        self._ledger, self.halt, self._show, self._shipper = ledger, halt, show, shipper

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Draw, see to the shipper, and look whether someone wants the sweep to end.

        A display that breaks, as when its reader goes away, stops no sweep.
        """
        try:
            self._show(self._ledger)
        except Exception:
            self._show = lambda ledger: None
        with self.halt.guarding():
            self._shipper.tend()
            self._ledger.check()
            self.halt.poll()

    def abandon(self, error: CommandError) -> None:
        """End this process in order, but from another thread: Ray may hold the main one."""
        try:
            Console(stderr=True).show_cursor()
            say(str(error))
            self._shipper.leave(limit_s=5)
            self._ledger.set_state("interrupted")
            self._ledger.free()
        finally:
            os._exit(error.exit_code)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _run(ledger: Ledger, halt: Halt, show: Show, search: Callable[[Tend], None] | None) -> Outcome:
    """`search` until the budget is used up or someone interrupts; deliver what came out."""
    with halt.patient(ledger.driver):
        shipper = Shipper(ledger.directory, ledger.driver)
        try:
            if search:
                ledger.set_state("running")
                search(Tend(ledger, halt, show, shipper))
                state = _state_after(ledger, halt)
                collect(ledger, lambda: bool(halt.signal))
                ledger.set_state(state)
            else:
                collect(ledger, lambda: bool(halt.signal))
            write_best(ledger.sweep(), ledger.trials())
            delivered = shipper.finish(halt.deadline())
        except BaseException as error:
            shipper.leave(limit_s=5 if isinstance(error, CommandError) else 0)
            with contextlib.suppress(CommandError, OSError):  # taken over; a full disk
                if ledger.sweep().state == "running":
                    ledger.set_state("interrupted")
            raise
    return Outcome(ledger.sweep(), ledger.trials(), delivered, halt.signal)


def _state_after(ledger: Ledger, halt: Halt) -> str:
    """The state of a sweep whose search has ended; cancelled trials are ended here."""
    if halt.command == "cancel":
        ledger.cancel()
        return "cancelled"
    left_open = bool(ledger.interrupted())
    spent = is_spent(ledger, 0) and not left_open
    if halt.signal and (left_open or not (spent or halt.command)):
        return "interrupted"
    if halt.command == "pause" and not spent:
        return "paused"
    if halt.command == "stop" and not spent:
        ledger.cancel()
        return "stopped"
    return "finished" if best_trial(ledger.config, ledger.trials()) else "failed"


def _tune(ledger: Ledger, dataset: Dataset, capacity: Capacity, tend: Tend) -> None:
    """A Tune run over what remains; it is the executor only, and nothing of it is kept."""
    total = ledger.config.search.num_trials
    remaining = -1 if total is None else total - ledger.asked() + len(ledger.interrupted())
    if remaining == 0:
        return
    slots = capacity.slots
    ledger.set_slots(slots)
    referee = Referee(ledger)
    scratch = (ledger.directory / ".tune").resolve()
    resources = {"CPU": slots.cpus_per_trial, "GPU": slots.gpus_per_trial}
    shared = Shared(
        dataset._replace(test_images=dataset.test_images[:0], test_labels=dataset.test_labels[:0]),
        ledger.config.training.model_dump(),
        pickled_functions(ledger.config),
        str(ledger.trials_directory.resolve()),
        ledger.checkpoints,
    )
    trainable = tune.with_parameters(TrialActor, shared=shared)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([resources])),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(ledger, referee, tend.halt, capacity),
            scheduler=LedgerScheduler(ledger, referee, tend.halt),
            num_samples=remaining,
            max_concurrent_trials=TUNE_LIMIT,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{trial.config['number']:04d}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(scratch),
            callbacks=[capacity, tend],
            failure_config=tune.FailureConfig(max_failures=_WORKER_LOSSES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    with capacity.following(tend.abandon, ledger.directory.name):
        try:
            with new_workers_start():
                tuner.fit()
        except Leave:
            pass
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        disconnect()  # so that no worker writes any more when trials are ended
    if trouble := tend.halt.trouble:
        raise trouble
    if referee.given_up and (total is None or ledger.asked() < total):
        raise CommandError(
            f"{len(referee.failures)} trials in a row failed, so no more are started; the last:\n"
            f"{referee.failures[-1].strip()}\n"
            f"Once that is mended, go on with: {command_for('resume', ledger.directory)}"
        )
