"""What a sweep file would run, without running it: the plan, and some of its curves."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from search_spaces import (
    Distribution,
    Scalar,
    SweepConfig,
    custom_functions,
    flat_parameters,
    free_parameters,
    grid_points,
    planned_steps,
    point_to_parameters,
    sample_space,
    value_at,
)
from search_spaces.distributions import described
from sweep.errors import CommandError
from sweep.estimate import Estimate, estimate_time
from sweep.slots import Node, Slots, slots_on, this_machine
from trainers.functions import load_function
from trainers.schedules import learning_rate_curve, momentum_curve

_LEAST_SAMPLES = 8


class Sample(NamedTuple):
    """One point of a space, and the curves that a trial of it follows."""

    family: str
    parameters: dict[str, Scalar]  # flat, without the family
    enqueued: bool
    learning_rates: np.ndarray
    momenta: np.ndarray | None

    @property
    def before_feedback(self) -> bool:
        """Whether losses change the learning rates, so that the curve is only how it starts."""
        return self.family == "reduce_on_plateau"


class Preview(NamedTuple):
    """What a launch of a config would do on this machine."""

    config: SweepConfig
    num_trials: int | None
    steps_per_epoch: int
    machine: Node
    slots: Slots | None
    refusal: str  # why this machine cannot hold a trial
    estimate: Estimate | None
    samples: list[Sample]


def preview_of(config: SweepConfig, number: int | None, sweeps_dir: Path) -> Preview:
    """A preview with `number` samples, by default one of each family and at least a few."""
    trials = planned_trials(config)
    machine, slots, refusal, estimate = this_machine(), None, "", None
    try:
        slots = slots_on([machine], config)
    except CommandError as error:
        refusal = str(error)
    if slots and trials:
        estimate = estimate_time(
            config, num_trials=trials, concurrent=slots.concurrent, sweeps_dir=sweeps_dir
        )
    number = number or max(_LEAST_SAMPLES, len(config.space.schedule))
    steps, samples = planned_steps(config), list(draw_samples(config, number))
    return Preview(config, trials, steps, machine, slots, refusal, estimate, samples)


def planned_trials(config: SweepConfig) -> int | None:
    """How many trials a sweep has at most; None: no number ends it."""
    trials = config.search.num_trials
    if config.search.algorithm == "grid":
        size = len(grid_points(config))
        trials = min(trials or size, size)
    return trials


def draw_samples(config: SweepConfig, number: int) -> Iterator[Sample]:
    """At most `number` different points: the enqueued ones, then random ones, always the same.

    The families take turns, those that are enqueued less often first.
    """
    functions = {name: load_function(name) for name in custom_functions(config)}
    steps, num_epochs = planned_steps(config), config.training.num_epochs
    for space, enqueued in _points(config, number):
        curve = learning_rate_curve(
            space, num_epochs=num_epochs, steps_per_epoch=steps, functions=functions
        )
        momenta = momentum_curve(space, curve, steps_per_epoch=steps, functions=functions)
        parameters = flat_parameters(space)
        family = str(parameters.pop("schedule"))
        yield Sample(family, parameters, enqueued, curve, momenta)


def _points(config: SweepConfig, number: int) -> list[tuple[dict[str, Any], bool]]:
    """Different concrete points, each with whether it is enqueued."""
    points: list[tuple[dict[str, Any], bool]] = []
    drawn = Counter(dict.fromkeys(config.space.schedule, 0))

    def add(space: dict[str, Any], enqueued: bool) -> None:
        (family,) = space["schedule"]
        drawn[family] += 1
        if len(points) < number and space not in (known for known, _ in points):
            points.append((space, enqueued))

    for point in config.enqueue:
        known = point_to_parameters(config, point)
        add(sample_space(config, lambda name, _, known=known: known[name]), True)
    generator = np.random.default_rng(0)
    for _ in range(10 * number):  # a space may hold fewer points
        family = min(drawn, key=drawn.__getitem__)

        def suggest(name: str, spread: Distribution, family: str = family) -> Scalar:
            return family if name == "schedule" else value_at(spread, generator.random())

        add(sample_space(config, suggest), False)
    return points


def _public(slots: Slots) -> dict[str, float]:
    """What a preview tells of slots: on a cluster that is not asked, nothing of its nodes."""
    found = slots._asdict()
    del found["shared"]
    return found


def preview_data(preview: Preview) -> dict[str, Any]:
    """A preview as plain values."""
    config, estimate = preview.config, preview.estimate
    sections = config.model_dump(mode="json", include={"data", "training", "search", "pruning"})
    return {
        "name": config.name,
        "description": config.description,
        **sections,
        "num_trials": preview.num_trials,
        "steps_per_epoch": preview.steps_per_epoch,
        "families": list(config.space.schedule),
        "free_parameters": {
            name: described(spread) for name, spread in free_parameters(config).items()
        },
        "machine": {"cpus": preview.machine["CPU"], "gpus": preview.machine["GPU"]},
        "slots": preview.slots and _public(preview.slots),
        "estimate": estimate and estimate._asdict(),
        "samples": [_sample_data(sample) for sample in preview.samples],
    }


def _sample_data(sample: Sample) -> dict[str, Any]:
    return {
        "schedule": sample.family,
        "parameters": sample.parameters,
        "enqueued": sample.enqueued,
        "peak_learning_rate": float(sample.learning_rates.max()),
        "last_learning_rate": float(sample.learning_rates[-1]),
        "before_any_plateau": sample.before_feedback,
        "curve_sha256": hashlib.sha256(sample.learning_rates.tobytes()).hexdigest(),
    }
