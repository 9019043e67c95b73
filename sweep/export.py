"""A trained model in a folder of its own: weights, config, program, MLflow model, and how to load.

model.safetensors   the weights, named by their path in the model
config.yaml         the config that trained it; `sweep train` trains it again
predict.stablehlo   images -> logits, weights inside, for jax.export
mlflow/             the same program as an MLflow model
model.json          what it is: shapes, versions, hashes
README.md           how to load each
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from search_spaces import SweepConfig
from sweep.commands import command_for
from sweep.errors import CommandError
from sweep.metrics import checkpoint_path
from sweep.records import SweepRecord, TrialRecord
from trainers.data import Dataset
from trainers.files import sync_directory

_FORMAT = "sweep-model 1"
_EXAMPLES = 2  # images in the example of an MLflow model


class TrainedModel(NamedTuple):
    """Parameters, and what has to be known to use them."""

    config: SweepConfig  # concrete
    config_text: str  # of it, as YAML
    params: Any
    dataset: Dataset
    value: float  # the config's metric after the last epoch


def trained_model(
    sweep: SweepRecord, trial: TrialRecord, config: SweepConfig, text: str, dataset: Dataset
) -> TrainedModel:
    """What a complete trial ended with, from its checkpoint; `config` and `text` are its own.

    Raises CommandError where the checkpoint is missing, damaged, or of another run of the trial.
    """
    import jax

    from trainers.checkpoints import CheckpointError
    from trainers.exporting import load_trained
    from trainers.training import Settings

    path = checkpoint_path(sweep.directory / "trials", trial.number)
    way_out = (
        "; train it again, and keep what comes out: "
        f"{command_for('export', sweep.directory, f'--trial {trial.number} -o best.yaml')}; "
        "sweep train best.yaml --model DIR"
    )
    settings = Settings(**config.training.model_dump())
    try:
        checkpoint = load_trained(path, dataset, settings)
    except FileNotFoundError as error:
        raise CommandError(
            f"trial {trial.number} must have its last state in {path}, but it is gone{way_out}"
        ) from error
    except CheckpointError as error:
        raise CommandError(f"{error}{way_out}") from error
    if difference := _difference(checkpoint.reports, trial, config):
        raise CommandError(
            f"{path} must be of the run that is recorded as trial {trial.number}, but its "
            f"{difference}{way_out}"
        )
    assert trial.value is not None
    params = jax.device_get(checkpoint.state.params)
    return TrainedModel(config, text, params, dataset, trial.value)


def _difference(
    reports: list[dict[str, Any]], trial: TrialRecord, config: SweepConfig
) -> str | None:
    """What is not in a checkpoint as it was recorded: epochs, learning rates, the metric."""
    if len(reports) != len(trial.reports):
        return f"epochs are {len(reports)}, not {len(trial.reports)}"
    for held, recorded in zip(reports, trial.reports, strict=True):
        if held["learning_rate_sha256"] != recorded["learning_rate_sha256"]:
            return f"learning rates of epoch {held['epoch']} are others"
    metric = config.search.metric
    if reports[-1][metric] != trial.value:
        return f"{metric} is {reports[-1][metric]}, not {trial.value}"
    return None


def write_model(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write a model's folder, whole or not at all, in the place of an older export only.

    Returns what its model.json says.
    """
    from sweep.registry import save_pyfunc
    from trainers.exporting import export_program, save_weights

    images = model.dataset.val_images
    name = model.config.training.model
    with _replacing(folder) as new:
        save_weights(new / "model.safetensors", model.params)
        program = export_program(model.params, model=name, image_shape=images.shape[1:])
        (new / "predict.stablehlo").write_bytes(program)
        (new / "config.yaml").write_text(model.config_text)
        described = _description(new, model)
        (new / "model.json").write_text(json.dumps(described, indent=2) + "\n")
        (new / "README.md").write_text(_readme(described))
        save_pyfunc(new, described, images[:_EXAMPLES])
    return described


def check_target(folder: Path) -> None:
    """Refuse a folder that an export must not take the place of."""
    if folder.is_dir() and (not any(folder.iterdir()) or _is_export(folder)):
        return
    if folder.exists():
        raise CommandError(
            f"{folder} must be new, empty, or an older export, but it is none of them; name "
            "another folder",
            exit_code=4,
        )


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / "model.json").read_text())["format"] == _FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which then takes the place of `folder`, or is gone."""
    folder = folder.resolve()
    check_target(folder)
    mark = uuid.uuid4().hex
    new, old = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("part", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        for path in (path for path in new.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        check_target(folder)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _description(folder: Path, model: TrainedModel) -> dict[str, Any]:
    from trainers.exporting import PLATFORMS, named_weights

    config, dataset = model.config, model.dataset
    origin = config.expected or {}
    files = ("model.safetensors", "predict.stablehlo", "config.yaml")
    return {
        "format": _FORMAT,
        "name": config.name,
        "sweep": origin.get("sweep"),
        "trial": origin.get("trial"),
        "metric": config.search.metric,
        "value": model.value,
        "model": config.training.model,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "image_shape": list(dataset.val_images.shape[1:]),  # height, width, channels
        "image_dtype": "uint8",
        "num_classes": dataset.num_classes,
        "weights": {name: list(array.shape) for name, array in named_weights(model.params).items()},
        "platforms": list(PLATFORMS),
        "packages": {name: version(name) for name in ("jax", "numpy", "flatbuffers", "mlflow")},
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files
        },
    }


def _readme(described: dict[str, Any]) -> str:
    shape = ", ".join(map(str, described["image_shape"]))
    origin = (
        f"Trial {described['trial']} of the sweep {described['sweep']}. "
        if described["sweep"]
        else ""
    )
    packages = described["packages"]
    return f"""\
# {described["name"]}

{origin}Model `{described["model"]}` trained on `{described["dataset"]}`: {described["metric"]} \
{described["value"]}.

It takes images, uint8 (n, {shape}) with values 0..255 as they are, and gives logits, float32 \
(n, {described["num_classes"]}); the greatest is the class.
`model.json` has the details, `config.yaml` trains it again: `sweep train config.yaml`.

With JAX alone (`pip install jax=={packages["jax"]} flatbuffers`), on CPU or CUDA:

```python
from pathlib import Path
from jax import export
program = export.deserialize(bytearray(Path("predict.stablehlo").read_bytes()))
logits = program.call(images)
```

With MLflow (`pip install -r mlflow/requirements.txt`):

```python
import mlflow
logits = mlflow.pyfunc.load_model("mlflow").predict(images)
```

The weights as arrays by name, for any framework (`pip install safetensors numpy`):

```python
from safetensors.numpy import load_file
weights = load_file("model.safetensors")
```

The weights in the model they were trained in (`pip install` of this project):

```python
from trainers.exporting import load_weights, predict
model = {{"model": "{described["model"]}"}}
shapes = {{"image_shape": ({shape}), "num_classes": {described["num_classes"]}}}
logits = predict(load_weights("model.safetensors", **model, **shapes), images, **model)
```
"""
