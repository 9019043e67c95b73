from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainers.hyperparameters import HYPERPARAMETERS
from trainers.optimizers import direction, hyperparameters

RATES = (0.1, 0.03, 0.2)


def random_tree(seed: int) -> dict[str, jax.Array]:
    kernel, bias = jax.random.split(jax.random.key(seed))
    return {"kernel": jax.random.normal(kernel, (4, 3)), "bias": jax.random.normal(bias, (3,))}


def rate_of(step: Any) -> Any:
    return jnp.asarray(RATES)[step]


def three_steps(transform: optax.GradientTransformation, scaled: bool) -> list[Any]:
    """The parameters after each of three steps; `scaled`: the learning rate is already in."""
    params, found = random_tree(0), []
    state = transform.init(params)
    for step, rate in enumerate(RATES):
        update, state = transform.update(random_tree(step + 1), state, params)
        factor = 1.0 if scaled else -rate
        params = jax.tree.map(lambda p, u, factor=factor: p + factor * u, params, update)
        found.append(params)
    return found


@partial(jax.jit, static_argnames=("optimizer",))
def program(numbers: dict[str, jax.Array], optimizer: str) -> list[Any]:
    return three_steps(direction(optimizer, numbers), scaled=False)


def our_steps(optimizer: str, numbers: dict[str, float]) -> list[Any]:
    """With the numbers as inputs of a compiled program, as a training has them."""
    return program({name: jnp.float32(number) for name, number in numbers.items()}, optimizer)


def with_decay(decay: float, transform: optax.GradientTransformation) -> Any:
    return optax.chain(optax.add_decayed_weights(decay), transform)


TWINS = [
    ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd(rate_of)),
    ("sgd", {"momentum": 0.5, "weight_decay": 0.0}, optax.sgd(rate_of, momentum=0.5)),
    ("sgd", {"momentum": 0.0, "weight_decay": 0.1}, with_decay(0.1, optax.sgd(rate_of))),
    ("momentum", {"momentum": 0.9, "weight_decay": 0.0}, optax.sgd(rate_of, momentum=0.9)),
    (
        "momentum",
        {"momentum": 0.9, "weight_decay": 0.1},
        with_decay(0.1, optax.sgd(rate_of, momentum=0.9)),
    ),
    (
        "nesterov",
        {"momentum": 0.9, "weight_decay": 0.0},
        optax.sgd(rate_of, momentum=0.9, nesterov=True),
    ),
    (
        "nesterov",
        {"momentum": 0.7, "weight_decay": 0.1},
        with_decay(0.1, optax.sgd(rate_of, momentum=0.7, nesterov=True)),
    ),
    (
        "adam",
        {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
        optax.adam(rate_of),
    ),
    (
        "adam",
        {"b1": 0.8, "b2": 0.99, "eps": 1e-3, "weight_decay": 0.1},
        with_decay(0.1, optax.adam(rate_of, 0.8, 0.99, 1e-3)),
    ),
    (
        "adamw",
        {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
        optax.adamw(rate_of),
    ),
    (
        "adamw",
        {"b1": 0.8, "b2": 0.99, "eps": 1e-3, "weight_decay": 0.1},
        optax.adamw(rate_of, 0.8, 0.99, 1e-3, weight_decay=0.1),
    ),
]


@pytest.mark.parametrize(
    ("optimizer", "numbers", "twin"), TWINS, ids=[f"{name} {given}" for name, given, _ in TWINS]
)
def test_traced_updates_are_those_of_optax(
    optimizer: str, numbers: dict[str, float], twin: optax.GradientTransformation
) -> None:
    ours, theirs = our_steps(optimizer, numbers), three_steps(twin, scaled=True)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_twins_cover_every_optimizer() -> None:
    assert {name for name, _, _ in TWINS} == set(HYPERPARAMETERS)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [(optimizer, name) for optimizer, names in HYPERPARAMETERS.items() for name in names],
)
def test_every_hyperparameter_matters(optimizer: str, name: str) -> None:
    default = HYPERPARAMETERS[optimizer]
    changed = default | {name: 0.5 * default[name] + 0.25}
    one, other = (our_steps(optimizer, numbers)[-1] for numbers in (default, changed))
    for before, after in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert not np.allclose(before, after, rtol=1e-3)


@pytest.mark.parametrize("optimizer", HYPERPARAMETERS)
def test_hyperparameters_left_out_take_their_defaults(optimizer: str) -> None:
    assert hyperparameters(optimizer, {"schedule": {}}) == HYPERPARAMETERS[optimizer]


def test_hyperparameters_come_from_the_space_as_floats_and_nothing_else_does() -> None:
    space = {"schedule": {}, "momentum": 0, "b1": 0.5, "weight_decay": 1}
    found = hyperparameters("momentum", space)
    assert found == {"momentum": 0.0, "weight_decay": 1.0}
    assert {type(value) for value in found.values()} == {float}
