"""The sweep files that come with the package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search_spaces import (
    SweepConfig,
    check_samples,
    load_config,
    point_to_parameters,
    preset_path,
    presets,
    sample_space,
)
from search_spaces.defaults import DEFAULT_SPACES
from search_spaces.space import parse_space
from trainers.schedules import SCHEDULES, learning_rate_curve


def preset(name: str) -> SweepConfig:
    path = preset_path(name)
    assert path is not None
    return load_config(path)


def test_the_presets_are_known_by_name():
    assert presets() == ["all_families", "fashion_mnist", "quickstart", "tutorial"]
    assert preset_path("quickstart") == Path(str(preset_path("tutorial"))).with_name(
        "quickstart.yaml"
    )


@pytest.mark.parametrize("name", ["nothing", "", "../quickstart", "/etc/passwd", "quickstart.yaml"])
def test_any_other_name_is_no_preset(name: str):
    assert preset_path(name) is None


@pytest.mark.parametrize("name", presets())
def test_every_curve_of_a_preset_can_be_built(name: str):
    check_samples(preset(name), n=200)


def test_all_families_are_all_families_in_their_default_spaces():
    space = preset("all_families").space
    assert list(space.schedule) == list(SCHEDULES) == list(DEFAULT_SPACES)
    spelled_out = parse_space({"schedule": DEFAULT_SPACES})
    assert space.schedule == spelled_out.schedule


@pytest.mark.parametrize(("num_epochs", "batch_size"), [(1, 1_000_000), (1, 256), (7, 10_000)])
def test_a_default_space_is_valid_however_long_the_run(num_epochs: int, batch_size: int):
    lengths = [f"training.num_epochs={num_epochs}", f"training.batch_size={batch_size}"]
    path = preset_path("all_families")
    assert path is not None
    check_samples(load_config(path, [*lengths, "pruning.algorithm=none"]), n=200)


def epochs(rule: str) -> list[float]:
    """The learning rate of each of ten epochs, t = 1 to 10."""
    return [eval(rule, {}, {"t": t}) for t in range(1, 11)]


# The published parameters, written out once more: per epoch, or per step from 0 to 2349.
PUBLISHED = [
    ("constant", epochs("1e-4")),
    ("exponential_decay", epochs("1e-4 * 0.9 ** (t / 10)")),
    ("exponential_decay", [1e-4 * 0.99 ** (t / 2350) for t in range(2350)]),
    ("inverse_time_decay", epochs("1e-4 / (1 + 0.8 * t / 10)")),
    ("inverse_time_decay", [1e-4 / (1 + 0.99 * t / 2350) for t in range(2350)]),
    ("polynomial_decay", epochs("(1e-4 - 1e-5) * (1 - t / 10) ** 0.3 + 1e-5")),
    ("piecewise_constant", [3e-4, *[2e-4] * 3, *[1e-4] * 3, *[1e-5] * 3]),
    ("custom", epochs("1e-4 / 3 ** t")),
]


@pytest.mark.parametrize("index", range(8))
def test_the_tutorial_repeats_the_published_learning_rates(index: int):
    config = preset("tutorial")
    values = point_to_parameters(config, config.enqueue[index])
    sample = sample_space(config, lambda name, _: values[name])
    curve = learning_rate_curve(sample, num_epochs=10, steps_per_epoch=235)
    family, rates = PUBLISHED[index]
    assert list(sample["schedule"]) == [family]
    np.testing.assert_allclose(curve, np.repeat(rates, 2350 // len(rates)), rtol=1e-6)


def test_the_tutorial_trains_as_published():
    config = preset("tutorial")
    assert config.search.num_trials == len(config.enqueue) == len(PUBLISHED)
    assert config.training.model_dump() == {
        "model": "cnn",
        "optimizer": "sgd",
        "num_epochs": 10,
        "batch_size": 256,
        "seed": 123,
        "shuffle": False,
        "loss_reduction": "sum",
    }
    assert (config.data.validation_split, config.pruning.algorithm) == ("test", "none")


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"jax", "scipy", "optax", "ray", "optuna", "mlflow"}
    code = f"import sys, search_spaces; print({heavy!r} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
