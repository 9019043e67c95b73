"""Trying a space out: the learning-rate curves of its ends and of random samples."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from search_spaces.config import SweepConfig
from search_spaces.distributions import Choice, Distribution, IntUniform, Scalar
from search_spaces.faults import ConfigError, Fault, Flaw, Path, dotted, plain
from search_spaces.keys import SPELLINGS
from search_spaces.parameters import custom_functions, flat_parameters
from search_spaces.space import Space, families, family_parameters, filled
from trainers.data import DATASETS
from trainers.functions import Function, load_function
from trainers.schedules import (
    learning_rate_curve,
    momentum_curve,
    plateau_rule,
    steps_per_epoch,
)

_QUICK_STEPS = 100_000  # of longer runs fewer samples are tried
_QUICK_RATES = 15_000_000  # of all curves together: up to about a second


def planned_steps(config: SweepConfig) -> int:
    """Optimizer steps in an epoch of this sweep, from what is known of its dataset."""
    data = config.data
    left = DATASETS[data.dataset].train_examples - data.validation_examples
    return steps_per_epoch(data.train_examples or left, config.training.batch_size)


def check_samples(config: SweepConfig, n: int = 20) -> None:
    """Builds the curve of both ends of every range and of `n` random samples of each family.

    Of very long runs fewer, and of each family at least one. Raises ConfigError with one fault for
    each parameter that gave an invalid curve; `load_config` says where it stands, too.
    """
    flaws = sample_flaws(config, n)
    if flaws:
        raise ConfigError(Fault(config.name, 0, 0, dotted(f.path), f.message) for f in flaws)


def sample_flaws(config: SweepConfig, n: int) -> list[Flaw]:
    """What `check_samples` finds, one flaw for each parameter."""
    flaws: dict[Path, Flaw] = {}
    generator = np.random.default_rng(0)
    num_epochs, steps = config.training.num_epochs, planned_steps(config)
    functions = _loadable_functions(config)
    n = max(1, min(n, n * _QUICK_STEPS // (num_epochs * steps)))
    names = families(config.space)
    most = max(1, _QUICK_RATES // (num_epochs * steps * len(names)))  # curves of one family
    for family in names:
        for sample in islice(_samples(config.space, family, generator, n), most):
            try:
                _build(sample, num_epochs, steps, functions)
            except (ValueError, ArithmeticError) as error:
                path = _blamed(sample, family, str(error))
                flaws.setdefault(path, Flaw(path, _message(sample, error)))
    return list(flaws.values())


def _build(
    sample: Mapping[str, Any], num_epochs: int, steps: int, functions: Mapping[str, Function]
) -> None:
    """Build all that a trial of this sample would; a user's function twice."""

    def curve() -> np.ndarray:
        return learning_rate_curve(
            sample, num_epochs=num_epochs, steps_per_epoch=steps, functions=functions
        )

    rates = curve()
    if "custom" in sample["schedule"] and curve().tobytes() != rates.tobytes():
        raise ValueError("function must return the same each time it is called, but it does not")
    momentum_curve(sample, rates, steps_per_epoch=steps, functions=functions)
    plateau_rule(sample, num_epochs=num_epochs, steps_per_epoch=steps)


def _loadable_functions(config: SweepConfig) -> dict[str, Function]:
    """The user's functions, each loaded once; one that fails is left for its sample to name."""
    found: dict[str, Function] = {}
    for name in custom_functions(config):
        with contextlib.suppress(ValueError):
            found[name] = load_function(name)
    return found


def _samples(
    space: Space, family: str, generator: np.random.Generator, n: int
) -> Iterator[dict[str, Any]]:
    """Every end of every range, the others in their middle; then `n` samples, if any is free."""
    free = family_parameters(space, family)
    middle = {name: value_at(spread, 0.5) for name, spread in free.items()}
    yield filled(space, family, lambda name, _: middle[name])
    for name, spread in free.items():
        for value in _ends(spread):
            chosen = middle | {name: value}
            yield filled(space, family, lambda name, _, chosen=chosen: chosen[name])
    for _ in range(n if free else 0):
        yield filled(space, family, lambda _, spread: value_at(spread, generator.random()))


def _ends(spread: Distribution) -> tuple[Scalar, ...]:
    return spread.options if isinstance(spread, Choice) else (spread.low, spread.high)


def value_at(spread: Distribution, fraction: float) -> Scalar:
    """The value that lies this far into the distribution, 0 <= fraction < 1."""
    if isinstance(spread, Choice):
        return spread.options[int(fraction * len(spread.options))]
    if isinstance(spread, IntUniform):
        return min(spread.high, spread.low + int(fraction * (spread.high - spread.low + 1)))
    if not spread.log:
        return min(spread.high, spread.low + fraction * (spread.high - spread.low))
    low, high = math.log(spread.low), math.log(spread.high)
    return min(spread.high, max(spread.low, math.exp(low + fraction * (high - low))))


def _blamed(sample: Mapping[str, Any], family: str, message: str) -> Path:
    """Where the parameter that a message names stands; the family where it names none."""
    groups: list[tuple[Path, Mapping[str, Any]]] = [
        (("schedule", family), sample["schedule"][family]),
        ((), {key: value for key, value in sample.items() if key != "schedule"}),
        *((("momentum_schedule", f), b) for f, b in sample.get("momentum_schedule", {}).items()),
    ]
    rule = message.partition(", but ")[0]
    for word in re.findall(r"[A-Za-z_]\w*", rule):
        for key in (word, *(word + ending for ending in SPELLINGS)):
            for path, body in groups:
                if key in body:
                    return ("space", *path, key)
    momentum = "momentum" in rule and "momentum_schedule" in sample
    return ("space", "momentum_schedule") if momentum else ("space", "schedule", family)


def _message(sample: Mapping[str, Any], error: Exception) -> str:
    values = ", ".join(f"{key}: {plain(value)}" for key, value in flat_parameters(sample).items())
    return f"{' '.join(str(error).split())} (in the sample {values})"
