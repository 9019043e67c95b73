"""Models as pairs of pure functions: init(key, ...) -> params, apply(params, images) -> logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import glorot_normal, normal

Params = Any
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Model(NamedTuple):
    """A model's two functions."""

    init: Callable[..., Params]
    apply: Callable[[Params, jax.Array], jax.Array]


def init_cnn(key: jax.Array, *, image_shape: tuple[int, int, int], num_classes: int) -> Params:
    """Parameters of conv 32 3x3, ReLU, conv 16 3x3, ReLU, dense, for (height, width, channels).

    Draws exactly what jax.example_libraries.stax draws for serial(Conv, Relu, Conv, Relu, Flatten,
    Dense): the key is split once for each of the six layers.
    """
    height, width, channels = image_shape
    layer_keys = []
    for _ in range(6):
        key, layer_key = jax.random.split(key)
        layer_keys.append(layer_key)
    return {
        "conv1": _init_layer(layer_keys[0], (3, 3, channels, 32), (1, 1, 1, 32), 1e-6),
        "conv2": _init_layer(layer_keys[2], (3, 3, 32, 16), (1, 1, 1, 16), 1e-6),
        "dense": _init_layer(
            layer_keys[5], (height * width * 16, num_classes), (num_classes,), 1e-2
        ),
    }


def apply_cnn(params: Params, images: jax.Array) -> jax.Array:
    """Logits (n, num_classes) of float images (n, height, width, channels) in 0..1."""
    hidden = images
    for name in ("conv1", "conv2"):
        hidden = convolve(hidden, params[name]["kernel"])
        hidden = jax.nn.relu(_add_bias(hidden, params[name]["bias"]))
    return hidden.reshape(hidden.shape[0], -1) @ params["dense"]["kernel"] + params["dense"]["bias"]


MODELS = {"cnn": Model(init_cnn, apply_cnn)}


@jax.custom_vjp
def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A stride-1 "SAME" convolution, NHWC images with an HWIO kernel of odd size.

    On a CPU inside a `lax.scan`, XLA runs a convolution fast only in this layout, and the gradients
    that autodiff derives are in others; so both are spelled out here as what they are.
    """
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def _convolve_forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return convolve(images, kernel), (images, kernel)


def _convolve_backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    return _image_gradient(kernel, gradient), _kernel_gradient(images, kernel.shape, gradient)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _image_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient convolved with the kernel turned by 180 degrees, inputs and outputs swapped."""
    return convolve(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def _kernel_gradient(
    images: jax.Array, kernel_shape: tuple[int, ...], gradient: jax.Array
) -> jax.Array:
    """The images convolved with the gradient, summed over the batch."""
    rows, columns, channels, outputs = kernel_shape
    if channels == 1:
        patches = _patches(images, rows, columns)
        product = patches.reshape(-1, rows * columns).T @ gradient.reshape(-1, outputs)
        return product.reshape(kernel_shape)
    pads = [(rows // 2, rows // 2), (columns // 2, columns // 2)]
    # The gradient is slid over the images, not the other way round: it has fewer channels here, so
    # there is less to slide. What comes out is turned by 180 degrees.
    by_output = lax.conv_general_dilated(
        gradient.transpose(3, 1, 2, 0),
        images.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        dimension_numbers=_LAYOUT,
    )
    return by_output[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def _patches(images: jax.Array, rows: int, columns: int) -> jax.Array:
    """Every window of one-channel images, (n, height, width, rows * columns)."""
    _, height, width, _ = images.shape
    pads = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    padded = jnp.pad(images, pads)
    windows = [
        padded[:, row : row + height, column : column + width]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(windows, axis=-1)


@jax.custom_vjp
def _add_bias(images: jax.Array, bias: jax.Array) -> jax.Array:
    """The images plus a bias (1, 1, 1, channels), whose gradient is a product with ones.

    A CPU sums over three leading axes more slowly than it multiplies.
    """
    return images + bias


def _add_bias_forward(images: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return images + bias, None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows = gradient.reshape(-1, gradient.shape[-1])
    ones = jnp.ones((1, len(rows)), rows.dtype)
    return gradient, jnp.matmul(ones, rows, precision="highest").reshape(1, 1, 1, -1)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _init_layer(
    key: jax.Array,
    kernel_shape: tuple[int, ...],
    bias_shape: tuple[int, ...],
    bias_scale: float,
) -> Params:
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": glorot_normal()(kernel_key, kernel_shape),
        "bias": normal(bias_scale)(bias_key, bias_shape),
    }
