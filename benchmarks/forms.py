"""One epoch of several trials as one program, in the forms that `fused.py` compares.

All lanes see the same batches. A form is a way to write one step of all of them:

    own            the product's train_epoch; one lane only, and what the others are compared with
    unrolled       the lanes one after another in the program, nothing batched
    vmap_of_grad   each lane's gradient, batched; autodiff's weight gradients are grouped by feature
    grad_of_sum    the gradient of the sum of the batched losses; they are grouped by batch
    own_gradients  vmap_of_grad with the product's own convolution and its gradients
    patches        vmap_of_grad with every convolution as windows times a matrix
    map            the lanes in a loop on the device
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from trainers.models import convolve


class Case(NamedTuple):
    """What a program is compiled for. With bfloat16, parameters and loss stay float32."""

    form: str
    dtype: str  # of activations and their gradients
    lanes: int


def lane_params(params: Any, case: Case) -> Any:
    """A copy of `params` for each lane: a list of them if unrolled, else stacked."""
    if case.form == "unrolled":
        return [jax.tree.map(jnp.copy, params) for _ in range(case.lanes)]
    return jax.tree.map(lambda p: jnp.stack([p] * case.lanes), params)


@partial(jax.jit, static_argnames=("case",), donate_argnums=(0,))
def fused_epoch(
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    learning_rates: jax.Array,
    *,
    case: Case,
) -> tuple[Any, jax.Array]:
    """As `train_epoch` with plain SGD on summed losses; learning_rates: float32 (steps, lanes)."""

    def step(params: Any, row: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        indices, rates = row
        batch = images[indices].astype(jnp.float32) / 255
        loss = partial(
            _loss,
            images=batch.astype(case.dtype),
            labels=labels[indices],
            used=indices >= 0,
            convolution=_CONVOLUTIONS.get(case.form, _plain_convolution),
        )
        if case.form == "unrolled":
            results = [jax.value_and_grad(loss)(lane) for lane in params]
            updated = [
                jax.tree.map(lambda p, g, rate=rate: p - rate * g, lane, gradients)
                for lane, (_, gradients), rate in zip(params, results, rates, strict=True)
            ]
            return updated, jnp.stack([value for value, _ in results])
        losses, gradients = _GRADIENTS.get(case.form, _vmap_of_grad)(loss, params)
        return jax.tree.map(partial(_descend, rates), params, gradients), losses

    return lax.scan(step, params, (order, learning_rates))


def _descend(rates: jax.Array, params: jax.Array, gradients: jax.Array) -> jax.Array:
    return params - rates.reshape(-1, *[1] * (params.ndim - 1)) * gradients


def _loss(
    params: Any,
    *,
    images: jax.Array,
    labels: jax.Array,
    used: jax.Array,
    convolution: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """The product's model and summed loss, in the dtype of `images` up to the logits."""
    cast = jax.tree.map(lambda p: p.astype(images.dtype), params)
    hidden = images
    for name in ("conv1", "conv2"):
        hidden = jax.nn.relu(convolution(hidden, cast[name]["kernel"]) + cast[name]["bias"])
    logits = hidden.reshape(len(hidden), -1) @ cast["dense"]["kernel"] + cast["dense"]["bias"]
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return jnp.sum(cross_entropy(logits.astype(jnp.float32), labels) * used)


def _plain_convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)


def _patch_convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Every 3x3 window of the images as one row of 9 * channels numbers, times the kernel."""
    rows, columns, _, outputs = kernel.shape
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)))
    windows = [
        padded[:, row : row + height, column : column + width]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, outputs)


def _vmap_of_grad(loss: Callable[[Any], jax.Array], params: Any) -> tuple[jax.Array, Any]:
    return jax.vmap(jax.value_and_grad(loss))(params)


def _grad_of_sum(loss: Callable[[Any], jax.Array], params: Any) -> tuple[jax.Array, Any]:
    def total(params: Any) -> tuple[jax.Array, jax.Array]:
        losses = jax.vmap(loss)(params)
        return jnp.sum(losses), losses

    gradients, losses = jax.grad(total, has_aux=True)(params)
    return losses, gradients


def _map(loss: Callable[[Any], jax.Array], params: Any) -> tuple[jax.Array, Any]:
    return lax.map(jax.value_and_grad(loss), params)


_CONVOLUTIONS = {"patches": _patch_convolution, "own_gradients": convolve}
_GRADIENTS = {"grad_of_sum": _grad_of_sum, "map": _map}
FORMS = (
    "own",
    "unrolled",
    "vmap_of_grad",
    "grad_of_sum",
    "own_gradients",
    "patches",
    "map",
)
