"""A sweep's directory: made whole, opened, and refused where it is not as it was left."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from search_spaces import (
    ConfigError,
    SweepConfig,
    changed_keys,
    config_to_yaml,
    grid_points,
    parse_config,
    point_to_parameters,
)
from sweep.budget import BUDGET
from sweep.commands import command_for
from sweep.databases import kept_address
from sweep.delivery import absolute_uri, without_password
from sweep.errors import CommandError
from sweep.files import write_text
from sweep.functions import keep_sources
from sweep.lease import Lease, current_holder
from sweep.lines import DamagedError, Lines
from sweep.naming import create_study, making_folder
from sweep.proposals import is_proposed
from sweep.records import SweepRecord, TrialRecord, now_ms
from sweep.samplers import sampler_for
from sweep.storage import open_storage
from sweep.study import Ledger
from trainers.crashes import reach
from trainers.files import sync_directory

_FORMAT = 2
_NO_SAMPLER = optuna.samplers.RandomSampler(0)  # for a study that is only read


def create_ledger(
    directory: Path,
    config: SweepConfig,
    *,
    storage: str | None,
    tracking_uri: str,
    steps_per_epoch: int,
    facts: Mapping[str, str],
    checkpoints: str | None = None,
) -> Ledger:
    """A new sweep: its directory, frozen config and study, with known points enqueued."""
    known = _known_points(config)
    storage = storage and kept_address(absolute_uri(storage))
    if config.search.algorithm == "grid":
        config = _ending_with(config, len(known))
    text = config_to_yaml(config)
    header = {
        "format": _FORMAT,
        "name": directory.name,
        "storage": storage,
        "tracking_uri": absolute_uri(tracking_uri),
        "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME") or config.tracking.experiment,
        "created_ms": now_ms(),
        **({"checkpoints": checkpoints} if checkpoints else {}),
    }
    with _made_whole(directory) as folder:
        write_text(folder / "config.yaml", text)
        keep_sources(config, folder)
        study = _create_study(folder, directory.name, storage, config)
        study.set_user_attr("config", text)
        study.set_user_attr("steps_per_epoch", steps_per_epoch)
        study.set_user_attr("facts", dict(facts))
        study.set_user_attr("known_points", len(known))
        for parameters in known:
            study.enqueue_trial(parameters)
        header["sha256"] = _sha256(json.dumps(header))
        write_text(folder / "sweep.json", json.dumps(header, indent=2) + "\n")
    return open_ledger(directory, proposing=True)


@contextmanager
def _made_whole(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` that takes its place once all is written, or is gone."""
    folder = making_folder(directory)
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.rename(directory)
        sync_directory(directory.parent)
        reach("made")
    except OSError as error:
        if directory.exists():
            raise CommandError(f"{directory} exists already", exit_code=4) from error
        raise CommandError(f"{directory} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        place = open_storage(folder, storage, None, new=True)
        return create_study(name, place, config.search.goal, shared=storage is not None)
    except CommandError:
        raise
    except Exception as error:
        if storage is None:
            raise
        raise CommandError(
            f"the storage must be one that Optuna can open, but: {_reason(error)}; give a URL such "
            "as sqlite:////folder/studies.db, or leave --storage out for a file of the sweep's own",
            exit_code=5,
        ) from error


def _reason(error: Exception) -> str:
    """The first line of what a database says, without a password."""
    return without_password(str(error)).partition("\n")[0]


def open_ledger(
    directory: Path,
    *,
    proposing: bool = False,
    lease: Lease | None = None,
    takeover: bool = False,
) -> Ledger:
    """An existing sweep, to be read, or with `proposing` to be gone on with under a lease.

    Raises CommandError for a directory that is not a sweep, or not as the sweep left it.
    """
    header = read_header(directory)
    journal = directory / "study.journal"
    place = without_password(header["storage"] or str(journal))
    try:
        study = optuna.load_study(
            storage=open_storage(directory, header["storage"], lease),
            study_name=header["name"],
            sampler=_NO_SAMPLER,
        )
    except DamagedError as error:
        raise CommandError(f"{error}; restore it from a backup") from error
    except KeyError as error:
        raise CommandError(
            f"{place} must hold the study of {directory}, but it does not; restore it from a backup"
        ) from error
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(
            f"the study of {directory} cannot be read from {place}: {_reason(error)}",
            exit_code=5 if header["storage"] else 1,
        ) from error
    config = _with_budget(_config_of(directory, study, place), study)
    _check_whole(directory, study, place)
    if lease and header["storage"]:
        lease.claim(study, takeover=takeover)
    ledger = Ledger(directory, config, header, study, lease)
    if proposing or lease:
        ledger.sampler_for = lambda number: sampler_for(config, number)
    return ledger


def latest_driver(directory: Path) -> int:
    """The number of the last driver that wrote a line of the sweep's files, 0 if there is none."""
    journal = directory / "study.journal"  # none where the study is in a database
    paths = [journal] if journal.exists() else directory.glob("trials/*/metrics.jsonl")
    return max((_last_writer(path) for path in paths), default=0)


def _last_writer(path: Path) -> int:
    lines = Lines(path)
    with contextlib.suppress(CommandError):  # damaged: said when the ledger is opened
        lines.new()
    return lines.driver


def _config_of(directory: Path, study: optuna.Study, place: str) -> SweepConfig:
    """The config as launched; `config.yaml` is a copy of it, made again if it is gone."""
    text = study.user_attrs.get("config")
    if text is None:
        raise CommandError(
            f"{place} must hold the config of {directory}, but it was cut before it; restore it "
            "from a backup"
        )
    config = parse_config(text)
    frozen = directory / "config.yaml"
    if frozen.exists() and frozen.read_bytes() == text.encode():
        return config
    try:
        changed = changed_keys(config, parse_config(frozen.read_text())) if frozen.exists() else []
    except (ConfigError, ValueError):  # damaged
        changed = []
    if changed:
        raise CommandError(
            f"{frozen} must be as launched, but {', '.join(changed)} changed; delete the file to "
            f"get it back, or launch the changed config under a new name. Only the budget may be "
            f"raised: {command_for('resume', directory, '--num-trials N --hours H')}",
            exit_code=2,
        )
    write_text(frozen, text)
    return config


def _with_budget(config: SweepConfig, study: optuna.Study) -> SweepConfig:
    """`config` with the budget that a resume has raised."""
    search = config.search.model_copy(update=study.user_attrs.get(BUDGET, {}))
    return config.model_copy(update={"search": search})


def _check_whole(directory: Path, study: optuna.Study, place: str) -> None:
    """Refuse a study that has lost its end: what it forgot would be tried a second time."""
    # Before the trials, for a driver may be at work: a folder is made after its trial is known.
    folders = [path.name for path in (directory / "trials").glob("[0-9]*")]
    attrs, trials = study.user_attrs, study.get_trials(deepcopy=False)
    for key in ("steps_per_epoch", "facts", "known_points"):
        if key not in attrs:
            raise CommandError(f"{place} was cut before {key}; restore it from a backup")
    if len(trials) < attrs["known_points"]:
        raise CommandError(
            f"{place} must hold {attrs['known_points']} points to try first, but it holds "
            f"{len(trials)} trials: it was cut; restore it from a backup"
        )
    proposed = {trial.number for trial in trials if is_proposed(trial)}
    forgotten = sorted(name for name in folders if name.isdecimal() and int(name) not in proposed)
    if forgotten:
        raise CommandError(
            f"{place} must know trial {int(forgotten[0])}, whose folder is "
            f"{directory / 'trials' / forgotten[0]}, but it was cut before it; restore it from a "
            "backup, or move that folder away to give up what it holds"
        )


def read_header(directory: Path) -> dict[str, Any]:
    """What `sweep.json` says: where the study and the tracking server are."""
    path = directory / "sweep.json"
    if not path.exists():
        raise CommandError(
            f"{directory} is not a sweep: it holds no sweep.json; if it was one, restore that file "
            "from a backup"
        )
    try:
        header = json.loads(path.read_text())
        found = header["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise CommandError(f"{path} is damaged: {error}; restore it from a backup") from error
    if found != _FORMAT:
        raise CommandError(
            f"{path} must have format {_FORMAT}, but it has {found}; it is of another release, or "
            "is damaged: restore it from a backup"
        )
    if header.pop("sha256", None) != _sha256(json.dumps(header)):
        raise CommandError(f"{path} must be as written, but it is not; restore it from a backup")
    return header


def read_sweep(directory: Path) -> tuple[SweepRecord, list[TrialRecord]]:
    """A sweep and its trials as they stand now."""
    ledger = open_ledger(directory)
    sweep = ledger.sweep()
    if sweep.state == "running" and not current_holder(directory):
        sweep = sweep._replace(state="interrupted")  # its driver died
    return sweep, ledger.trials()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
