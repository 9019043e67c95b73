"""Exported models as MLflow holds them: a folder, a model logged to a trial's run, a registry."""

import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sweep import delivery, predictor, projection
from sweep.commands import command_for
from sweep.delivery import one_line
from sweep.errors import CommandError
from sweep.records import SweepRecord, TrialRecord
from sweep.tracking import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

ALIAS = "champion"
_LOADER = "sweep_predictor"  # the module's name within a model
_WEIGHTS = "weights_sha256"  # the tag that a model is known by
_NAME = re.compile(r"[\w .-]+")


class Logged(NamedTuple):
    """What MLflow holds of a model."""

    run_id: str
    model_id: str
    version: str | None  # of the registered model


def save_pyfunc(folder: Path, described: dict[str, Any], examples: np.ndarray) -> None:
    """Write `folder`/mlflow from `folder`/predict.stablehlo; it loads without this project."""
    delivery.set_environment()
    with warnings.catch_warnings():  # MLflow warns of its own type hints
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(described["image_dtype"]), (-1, *described["image_shape"]))
    logits = TensorSpec(np.dtype("float32"), (-1, described["num_classes"]))
    with tempfile.TemporaryDirectory(prefix="sweep-loader-") as place:
        loader = Path(place, f"{_LOADER}.py")
        shutil.copyfile(predictor.__file__, loader)
        mlflow.pyfunc.save_model(
            folder / "mlflow",
            loader_module=_LOADER,
            code_paths=[str(loader)],
            data_path=str(folder / "predict.stablehlo"),
            signature=ModelSignature(Schema([images]), Schema([logits])),
            input_example=np.asarray(examples),
            pip_requirements=[f"{name}=={is_}" for name, is_ in described["packages"].items()],
        )


def log_model(
    sweep: SweepRecord,
    trial: TrialRecord,
    folder: Path,
    described: dict[str, Any],
    register: str | None,
) -> Logged:
    """Log `folder`/mlflow to a trial's run, and register it under a name as the champion.

    Done once for the same weights, however often it is called. Raises CommandError: exit code 3
    where MLflow does not hold the trial yet, 5 where MLflow cannot be reached.
    """
    if lost := delivery.lost_records(sweep.directory, sweep.tracking_uri):
        raise CommandError(f"{folder} holds the model, but {lost}", exit_code=5)
    try:
        client = open_client(sweep.tracking_uri)
        run = _run_of(client, sweep, trial)
        weights = described["sha256"]["model.safetensors"]
        model = _logged_model(client, run, trial, folder, weights)
        number = None if register is None else _register(client, register, run, model, weights)
    except CommandError:
        raise
    except Exception as error:  # of any kind, as MLflow's stores raise them
        raise CommandError(
            f"{folder} holds the model, but MLflow at "
            f"{delivery.without_password(sweep.tracking_uri)} does not take it: {one_line(error)}; "
            "once it does, give the same command again",
            exit_code=5,
        ) from error
    return Logged(run.info.run_id, model.model_id, number)


def check_name(name: str) -> None:
    """Refuse what MLflow would not take as a registered model's name, or a search mistake."""
    if not _NAME.fullmatch(name):
        raise CommandError(
            f"a registered model's name must be of letters, digits, space, '.', '_' and '-', but "
            f"got {name!r}",
            exit_code=2,
        )


def _run_of(client: "MlflowClient", sweep: SweepRecord, trial: TrialRecord) -> "Run":
    """The trial's run, as tracking.find_runs would choose it; nothing is made or deleted."""
    experiment = client.get_experiment_by_name(sweep.experiment)
    query = f"tags.`sweep.id` = '{sweep.facts['sweep_id']}' AND tags.trial = '{trial.number}'"
    found = client.search_runs([experiment.experiment_id], query) if experiment else []
    if not found:
        raise CommandError(
            f"MLflow does not hold trial {trial.number} of {sweep.name} yet; deliver it with: "
            f"{command_for('sync', sweep.directory)}, then give the same command again",
            exit_code=3,
        )
    return min(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _logged_model(
    client: "MlflowClient", run: "Run", trial: TrialRecord, folder: Path, weights: str
) -> "LoggedModel":
    """The run's model with these weights, uploaded unless it is there in full."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    query = f"source_run_id = '{run_id}' AND tags.{_WEIGHTS} = '{weights}'"
    found = client.search_logged_models([experiment_id], query)
    model = min(found, key=lambda model: (model.creation_timestamp, model.model_id), default=None)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name="model",
            source_run_id=run_id,
            tags={_WEIGHTS: weights},
            params=projection.parameters(trial.parameters),
            model_type="classifier",
        )
    if model.status != LoggedModelStatus.READY:
        client.log_model_artifacts(model.model_id, str(folder / "mlflow"))
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _register(
    client: "MlflowClient", name: str, run: "Run", model: "LoggedModel", weights: str
) -> str:
    """The version of the registered model that is this model; it becomes the champion."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    held = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.tags.get(_WEIGHTS) == weights and version.run_id == run.info.run_id
    ]
    version = min(held, key=lambda version: int(version.version), default=None)
    if version is None:
        version = client.create_model_version(
            name,
            model.artifact_location,  # a models:/ address would be asked of another server
            run.info.run_id,
            tags={_WEIGHTS: weights},
            model_id=model.model_id,
        )
    client.set_registered_model_alias(name, ALIAS, version.version)
    return version.version
