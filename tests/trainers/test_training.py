"""An epoch against a plain loop with optax, and what training refuses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.trainers.small_runs import (
    CURVE,
    DATASET,
    NUMBERS,
    SETTINGS,
    plain_losses,
    run,
    small_dataset,
)
from trainers.models import apply_cnn
from trainers.training import Settings, evaluate, fit, init_state, steps_per_epoch


@jax.jit
def plain_gradients(params: Any, images: jax.Array, labels: Any) -> tuple[Any, Any]:
    """Of the mean over the batch."""
    return jax.value_and_grad(lambda p: jnp.mean(plain_losses(p, images, labels)))(params)


def plain_epoch(
    params: Any, batch_size: int, loss_reduction: str, transform: optax.GradientTransformation
) -> tuple[Any, float]:
    """Parameters and training loss after one pass in order, with optax throughout."""
    state, losses = transform.init(params), []
    for start in range(0, 90, batch_size):
        batch = slice(start, start + batch_size)
        images = DATASET.train_images[batch].astype(np.float32)
        loss, gradients = plain_gradients(params, images, DATASET.train_labels[batch])
        if loss_reduction == "sum":
            gradients = jax.tree.map(partial(jnp.multiply, len(images)), gradients)
        update, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, update)
        losses.append(float(loss) * len(images))
    return params, sum(losses) / (len(losses) if loss_reduction == "sum" else 90)


def adamw(rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.adamw(rate, 0.8, 0.95, 1e-3, weight_decay=0.1)


def decayed_nesterov(rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    nesterov = optax.sgd(rate, momentum=0.9, nesterov=True)
    return optax.chain(optax.add_decayed_weights(0.1), nesterov)


@pytest.mark.parametrize(
    ("optimizer", "numbers", "twin", "loss_reduction", "batch_size"),
    [
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "mean", 40),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "sum", 40),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "mean", 20),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.0}, optax.sgd, "mean", 100),
        ("nesterov", {"momentum": 0.9, "weight_decay": 0.1}, decayed_nesterov, "mean", 40),
        ("adamw", {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}, adamw, "mean", 40),
    ],
)
def test_an_epoch_is_a_plain_loop_with_optax(
    optimizer: str,
    numbers: dict[str, float],
    twin: Callable[[Any], optax.GradientTransformation],
    loss_reduction: str,
    batch_size: int,
) -> None:
    """Batches of 40 and 100 are no multiple of 32, and 40 and 20 leave a smaller last one."""
    settings = Settings(1, batch_size, "cnn", optimizer, 7, False, loss_reduction)
    rates = np.linspace(0.02, 0.05, -(-90 // batch_size), dtype=np.float32)
    rates /= 20 if loss_reduction == "sum" else 1
    ours = run(rates, numbers=numbers, settings=settings)
    start = init_state(DATASET, settings).params
    params, loss = plain_epoch(
        start, batch_size, loss_reduction, twin(lambda step: jnp.asarray(rates)[step])
    )
    np.testing.assert_allclose(ours.reports[0].train_loss, loss, rtol=1e-5)
    for one, other, first in zip(
        *map(jax.tree.leaves, (ours.state.params, params, start)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
        assert not np.allclose(one, first, rtol=1e-4, atol=2e-6)
    validation = plain_losses(params, jnp.float32(DATASET.val_images), DATASET.val_labels)
    np.testing.assert_allclose(ours.reports[0].val_loss, validation.mean(), rtol=1e-4)


def test_an_evaluation_is_the_mean_over_a_split_longer_than_one_batch() -> None:
    big = small_dataset(300, 1)
    params = init_state(big, SETTINGS).params
    images, labels = big.train_images, big.train_labels
    logits = np.asarray(apply_cnn(params, jnp.float32(images) / 255), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(300), labels]
    loss, accuracy = evaluate(params, jnp.asarray(images), jnp.asarray(labels), model="cnn")
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-6)
    assert accuracy == np.mean(logits.argmax(1) == labels)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"), [(90, 40, 3), (80, 40, 2), (81, 40, 3), (5, 40, 1)]
)
def test_the_last_batch_may_be_smaller(num_examples: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(num_examples, batch_size) == steps


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (CURVE[:-1], r"the curve must be float32 \(9,\), but got float32\(8,\)"),
        (CURVE.astype(np.float64), r"the curve must be float32 \(9,\), but got float64\(9,\)"),
        (CURVE.reshape(3, 3), r"the curve must be float32 \(9,\), but got float32\(3, 3\)"),
        (-CURVE, "the curve must be finite and >= 0 at every step, but it is not"),
        (CURVE * np.float32(np.nan), "the curve must be finite and >= 0 at every step"),
        (CURVE * np.float32(np.inf), "the curve must be finite and >= 0 at every step"),
    ],
    ids=["short", "float64", "rows", "negative", "nan", "inf"],
)
def test_a_curve_that_does_not_fit_is_refused(curve: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        next(fit(DATASET, curve, NUMBERS, SETTINGS))
