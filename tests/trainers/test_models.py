from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.example_libraries import stax

from trainers.models import MODELS, apply_cnn, convolve, init_cnn

LAYERS = {"conv1": 0, "conv2": 2, "dense": 5}  # of the model, in stax's list

STAX_INIT, STAX_APPLY = stax.serial(
    stax.Conv(32, (3, 3), padding="SAME"),
    stax.Relu,
    stax.Conv(16, (3, 3), padding="SAME"),
    stax.Relu,
    stax.Flatten,
    stax.Dense(10),
)


@pytest.mark.parametrize(
    ("image_shape", "seed"), [((8, 8, 1), 0), ((28, 28, 1), 123), ((7, 5, 3), 1)]
)
def test_the_parameters_are_those_of_stax_bit_for_bit(
    image_shape: tuple[int, int, int], seed: int
) -> None:
    with jax.threefry_partitionable(False):
        ours = init_cnn(jax.random.PRNGKey(seed), image_shape=image_shape, num_classes=10)
        shape, theirs = STAX_INIT(jax.random.PRNGKey(seed), (-1, *image_shape))
    assert shape == (-1, 10)
    assert set(ours) == set(LAYERS)
    for name, layer in LAYERS.items():
        for part, expected in zip(("kernel", "bias"), theirs[layer], strict=True):
            assert ours[name][part].dtype == jnp.float32
            np.testing.assert_array_equal(ours[name][part], expected, f"{name} {part}")


def test_the_logits_are_those_of_stax() -> None:
    image_shape = (7, 8, 3)
    images = jax.random.uniform(jax.random.key(1), (5, *image_shape))
    params = init_cnn(jax.random.key(0), image_shape=image_shape, num_classes=10)
    theirs: list[tuple[jax.Array, ...]] = [()] * 6
    for name, layer in LAYERS.items():
        theirs[layer] = (params[name]["kernel"], params[name]["bias"])
    ours = apply_cnn(params, images)
    assert ours.shape == (5, 10)
    np.testing.assert_allclose(ours, STAX_APPLY(theirs, images), rtol=1e-5, atol=1e-5)


def test_the_seed_decides_the_parameters() -> None:
    first, again, other = (
        init_cnn(jax.random.key(seed), image_shape=(8, 8, 1), num_classes=3) for seed in (0, 0, 1)
    )
    for one, same, different in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.all(one != different)


def test_every_model_is_an_init_and_an_apply() -> None:
    assert MODELS["cnn"] == (init_cnn, apply_cnn)


def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def value_and_gradients(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    image_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
) -> list[np.ndarray]:
    """In float64, where the order of the sums hides no error."""
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        images, kernel, gradient = (
            jnp.asarray(random.normal(size=shape))
            for shape in (image_shape, kernel_shape, (*image_shape[:3], kernel_shape[3]))
        )
        value, pull_back = jax.vjp(function, images, kernel)
        return [np.asarray(array) for array in (value, *pull_back(gradient))]


@pytest.mark.parametrize(
    ("image_shape", "kernel_shape"),
    [
        ((3, 8, 8, 1), (3, 3, 1, 4)),
        ((3, 8, 8, 5), (3, 3, 5, 4)),
        ((2, 28, 28, 1), (3, 3, 1, 32)),
        ((2, 28, 28, 32), (3, 3, 32, 16)),
        ((2, 7, 5, 1), (3, 3, 1, 2)),
        ((2, 7, 5, 3), (3, 3, 3, 1)),
        ((1, 9, 8, 1), (5, 3, 1, 2)),
        ((1, 9, 8, 2), (3, 5, 2, 3)),
        ((4, 6, 6, 1), (1, 1, 1, 3)),
        ((4, 6, 6, 2), (1, 1, 2, 3)),
        ((2, 3, 3, 1), (5, 5, 1, 2)),
        ((2, 1, 2, 2), (5, 5, 2, 2)),
    ],
    ids=str,
)
def test_the_gradients_of_a_convolution_are_those_of_autodiff(
    image_shape: tuple[int, ...], kernel_shape: tuple[int, ...]
) -> None:
    ours = value_and_gradients(convolve, image_shape, kernel_shape)
    theirs = value_and_gradients(plain, image_shape, kernel_shape)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
