"""One trial: from a concrete point of a search space to a training run."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from trainers.data import Dataset
from trainers.functions import Function
from trainers.optimizers import hyperparameters
from trainers.schedules import learning_rate_curve, momentum_curve, plateau_rule, steps_per_epoch
from trainers.training import EpochReport, Settings, TrainState, fit


def fit_point(
    dataset: Dataset,
    space: Mapping[str, Any],
    settings: Settings,
    *,
    functions: Mapping[str, Function] | None = None,
    checkpoint_path: Path | None = None,
    skip_epochs: int = 0,
) -> Generator[EpochReport, None, TrainState]:
    """Train with the curves of `space`; reports, errors and checkpoints are those of `fit`.

    `functions` are the user's own, by name, where they need not be loaded from their files.
    """
    steps = steps_per_epoch(len(dataset.train_images), settings.batch_size)
    curve = learning_rate_curve(
        space, num_epochs=settings.num_epochs, steps_per_epoch=steps, functions=functions
    )
    return (
        yield from fit(
            dataset,
            curve,
            hyperparameters(settings.optimizer, space),
            settings,
            momentum=momentum_curve(space, curve, steps_per_epoch=steps, functions=functions),
            plateau=plateau_rule(space, num_epochs=settings.num_epochs, steps_per_epoch=steps),
            checkpoint_path=checkpoint_path,
            skip_epochs=skip_epochs,
        )
    )
