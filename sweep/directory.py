"""A sweep's directory: made whole, opened, and refused where it is not as it was left."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from search_spaces import (
    SweepConfig,
    config_to_yaml,
    grid_points,
    load_config,
    point_to_parameters,
)
from sweep.delivery import without_password
from sweep.errors import CommandError
from sweep.files import drop_partial_line, locked, write_text
from sweep.functions import keep_sources
from sweep.study import STARTED, Ledger, SweepRecord, TrialRecord, now_ms

_FORMAT = 1
_LOCK_GRACE_S = 10  # how old a lock must be that only a killed driver can have left
_NO_SAMPLER = optuna.samplers.RandomSampler(0)  # for a study that is only read


def create_ledger(
    directory: Path,
    config: SweepConfig,
    *,
    storage: str | None,
    tracking_uri: str,
    steps_per_epoch: int,
    facts: Mapping[str, str],
) -> Ledger:
    """A new sweep: its directory, frozen config and study, with known points enqueued."""
    known = _known_points(config)
    if config.search.algorithm == "grid":
        config = _ending_with(config, len(known))
    text = config_to_yaml(config)
    header = {
        "format": _FORMAT,
        "name": directory.name,
        "storage": storage,
        "tracking_uri": tracking_uri,
        "created_ms": now_ms(),
        "config_sha256": _sha256(text),
    }
    with _made_whole(directory) as folder:
        write_text(folder / "config.yaml", text)
        keep_sources(config, folder)
        study = _create_study(folder, directory.name, storage, config)
        study.set_user_attr("steps_per_epoch", steps_per_epoch)
        study.set_user_attr("facts", dict(facts))
        for parameters in known:
            study.enqueue_trial(parameters)
        write_text(folder / "sweep.json", json.dumps(header, indent=2) + "\n")
    return open_ledger(directory, proposing=True)


@contextmanager
def _made_whole(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` that takes its place once all is written, or is gone."""
    folder = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.rename(directory)
    except OSError as error:
        if directory.exists():
            raise CommandError(f"{directory} exists already", exit_code=4) from error
        raise CommandError(f"{directory} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def driving(directory: Path) -> Iterator[None]:
    """The right to write a sweep: one process at a time has it, until it ends or dies."""
    try:
        with locked(directory / "driver.lock", patience_s=0):
            yield
    except TimeoutError as error:
        raise CommandError(
            f"{directory.name} is being run by another process; follow it with: "
            f"sweep status {directory.name}",
            exit_code=4,
        ) from error


def is_driven(directory: Path) -> bool:
    """Whether a process runs the sweep now."""
    try:
        with driving(directory):
            return False
    except CommandError:
        return True


def _known_points(config: SweepConfig) -> list[dict[str, Any]]:
    """The points that are tried first, in order and once each: enqueued ones, then a grid's."""
    known = [point_to_parameters(config, point) for point in config.enqueue]
    known += grid_points(config) if config.search.algorithm == "grid" else []
    return list(
        {json.dumps(parameters, sort_keys=True): parameters for parameters in known}.values()
    )


def _ending_with(config: SweepConfig, known: int) -> SweepConfig:
    """`config` with no more trials than it knows points."""
    num_trials = min(config.search.num_trials or known, known)
    search = config.search.model_copy(update={"num_trials": num_trials})
    return config.model_copy(update={"search": search})


def _create_study(
    folder: Path, name: str, storage: str | None, config: SweepConfig
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            storage=_storage(folder, storage),
            study_name=name,
            direction=config.search.goal,
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise CommandError(
            f"the storage holds a study {name} already; launch under another --name",
            exit_code=4,
        ) from error
    except Exception as error:
        if storage is None:
            raise
        raise CommandError(
            f"the storage must be one that Optuna can open, but: {error}; give a URL such as "
            "sqlite:////folder/studies.db, or leave --storage out for a file of the sweep's own",
            exit_code=5,
        ) from error


def open_ledger(directory: Path, *, proposing: bool = False) -> Ledger:
    """An existing sweep, to be read, or with `proposing` to be gone on with.

    Raises CommandError for a directory that is not a sweep or whose config was changed.
    """
    header = read_header(directory)
    frozen = directory / "config.yaml"
    if not frozen.exists() or _sha256(frozen.read_text()) != header["config_sha256"]:
        raise CommandError(
            f"{frozen} is not what this sweep was launched with; "
            "restore it, or launch the changed config under a new name"
        )
    config = load_config(frozen)
    if proposing and header["storage"] is None:
        with (directory / "study.journal").open("ab+") as journal:
            drop_partial_line(journal)
    try:
        study = optuna.load_study(
            storage=_storage(directory, header["storage"]),
            study_name=header["name"],
            sampler=_NO_SAMPLER,
        )
    except Exception as error:
        place = without_password(header["storage"] or str(directory / "study.journal"))
        raise CommandError(
            f"the study of {directory} cannot be read from {place}: {error}"
        ) from error
    if proposing:
        # Each launch has a stream of its own, so that a resumed sweep does not repeat proposals.
        started = len(study.get_trials(deepcopy=False, states=STARTED))
        study.sampler = _sampler(config, (config.search.seed + started) % 2**32)
    return Ledger(directory, config, header, study)


def read_header(directory: Path) -> dict[str, Any]:
    """What `sweep.json` says: where the study and the tracking server are."""
    path = directory / "sweep.json"
    if not path.exists():
        raise CommandError(f"{directory} is not a sweep: it holds no sweep.json")
    try:
        header = json.loads(path.read_text())
        found = header["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise CommandError(f"{path} is damaged: {error}") from error
    if found != _FORMAT:
        raise CommandError(f"{path} must have format {_FORMAT}, but it has {found}")
    return header


def read_sweep(directory: Path) -> tuple[SweepRecord, list[TrialRecord]]:
    """A sweep and its trials as they stand now."""
    ledger = open_ledger(directory)
    sweep = ledger.sweep()
    if sweep.state == "running" and not is_driven(directory):
        sweep = sweep._replace(state="interrupted")  # its driver died
    return sweep, ledger.trials()


def _storage(directory: Path, url: str | None) -> Any:
    if url is None:
        # Absolute: the journal's lock is a link to it, which must lead there from anywhere.
        path = str(directory.resolve() / "study.journal")
        lock = JournalFileSymlinkLock(path, grace_period=_LOCK_GRACE_S)
        return JournalStorage(JournalFileBackend(path, lock))
    return url


def _sampler(config: SweepConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.search.algorithm == "tpe":
        with warnings.catch_warnings():
            # Modelling a family's parameters together, family by family, is marked experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, seed=seed
            )
    if config.search.algorithm == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
