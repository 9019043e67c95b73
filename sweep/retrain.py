"""Training the one point of a concrete config in this process, without Ray: `sweep train`."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from search_spaces import SweepConfig, config_to_yaml, is_concrete, sample_space
from sweep.errors import CommandError
from sweep.export import TrainedModel, check_target, write_model
from sweep.facts import load_data
from trainers.devices import claim
from trainers.schedules import learning_rate_curve, steps_per_epoch


class Retrained(NamedTuple):
    """The end of a training run; `expected` is what a sweep had for `value`, where one is known."""

    metric: str
    value: float
    expected: float | None
    test_loss: float
    test_accuracy: float
    seconds: float
    differences: tuple[str, ...]  # what is not as in the sweep: the data set, the curve


def retrain(
    config: SweepConfig,
    *,
    manual_dir: Path | None,
    on_epoch: Callable[[Any], None],
    model_folder: Path | None = None,
) -> Retrained:
    """Train and test. `on_epoch` gets each EpochReport. The test split is read here alone.

    With a `model_folder` the trained model is written there, as `sweep export --model` does.

    Equal to the trial to the last bit where the machine is of the same kind, for the run takes as
    many threads as the trial had (`resources.cpus_per_trial`). Raises CommandError if the config
    has a free parameter, and if the training diverges.
    """
    if not is_concrete(config):
        raise CommandError(
            f"train takes a config without free parameters, but {config.name} has some; "
            "search them with `sweep launch`, then `sweep export` the best",
            exit_code=2,
        )
    if model_folder is not None:
        check_target(model_folder)
    dataset = load_data(config, manual_dir)
    gpus = config.resources.gpus_per_trial
    claim(
        num_cpus=int(config.resources.cpus_per_trial),
        gpu_share=None if gpus == "auto" else float(gpus),
    )
    import jax.numpy as jnp

    from trainers.runs import fit_point
    from trainers.training import Settings, evaluate

    settings = Settings(**config.training.model_dump())
    space = sample_space(config, lambda name, _: name)  # which has none to suggest
    curve = learning_rate_curve(
        space,
        num_epochs=settings.num_epochs,
        steps_per_epoch=steps_per_epoch(len(dataset.train_images), settings.batch_size),
    )
    run = fit_point(dataset, space, settings)
    reports = []
    while True:
        try:
            reports.append(next(run))
        except StopIteration as end:
            params = end.value.params
            break
        on_epoch(reports[-1])
    if reports[-1].diverged:
        raise CommandError(f"the loss stopped being finite in epoch {reports[-1].epoch}")
    test_split = jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)
    test_loss, test_accuracy = evaluate(params, *test_split, model=settings.model)
    metric = config.search.metric
    value = getattr(reports[-1], metric)
    if model_folder is not None:
        model = TrainedModel(config, config_to_yaml(config), params, dataset, value)
        write_model(model_folder, model)
    known = config.expected or {}
    expected = known.get("value")
    used = {
        "dataset_digest": dataset.digest,
        "curve_sha256": hashlib.sha256(curve.tobytes()).hexdigest(),
    }
    return Retrained(
        metric,
        value,
        None if expected is None else float(expected),
        test_loss,
        test_accuracy,
        sum(report.seconds for report in reports),
        tuple(key for key, value in used.items() if known.get(key, value) != value),
    )
