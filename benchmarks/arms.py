"""The ways to train the model that `step.py` compares, each from the same parameters.

A way to train starts afresh each time it is called: it takes the examples of each step, int32
(steps, batch), and returns the loss of each step, summed over its batch, when all is computed.
"""

import gzip
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.example_libraries import optimizers, stax

from trainers.data import Dataset
from trainers.hyperparameters import HYPERPARAMETERS
from trainers.prepare import IDX_FILES
from trainers.training import Settings, TrainState, init_state, structure_of, train_epoch

LEARNING_RATE = 1e-4  # for losses summed over a batch
MATMUL_SIZE = 1024

Run = Callable[[np.ndarray], np.ndarray]
OwnEpoch = Callable[[TrainState, np.ndarray, np.ndarray], tuple[TrainState, jax.Array]]


def load_images(folder: Path | None, number: int) -> Dataset:
    """The first training images of the original files in `folder`, else noise of their shape."""
    if folder:
        nested = folder / "fashion_mnist"
        paths = [(nested if nested.is_dir() else folder) / name for name in IDX_FILES.values()]
        try:
            pixels, classes = (gzip.decompress(path.read_bytes()) for path in paths[:2])
        except OSError as error:
            sys.exit(f"--data must name a folder with the four original files, but: {error}")
        images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28, 1)[:number]
        labels = np.frombuffer(classes, np.uint8, offset=8)[:number].astype(np.int32)
    else:
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (number, 28, 28, 1), np.uint8)
        labels = draw.integers(0, 10, number, np.int32)
    return Dataset("benchmark", images, labels, images, labels, images, labels, 10, "")


def order_of_files(num_examples: int, batch_size: int) -> np.ndarray:
    """The examples of each step of an epoch, not shuffled; -1 after the last."""
    steps = -(-num_examples // batch_size)
    order = np.full(steps * batch_size, -1, np.int32)
    order[:num_examples] = np.arange(num_examples)
    return order.reshape(steps, batch_size)


def constant_rates(order: np.ndarray) -> np.ndarray:
    """The learning rate of each step."""
    return np.full(len(order), LEARNING_RATE, np.float32)


def own_program(dataset: Dataset, settings: Settings) -> tuple[Callable[[], TrainState], OwnEpoch]:
    """What makes the first state, and the product's program for any number of steps.

    The program takes a state, the examples and the learning rate of each step, and returns the next
    state and each step's loss.
    """
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    numbers = {name: jnp.float32(value) for name, value in HYPERPARAMETERS["sgd"].items()}
    first = init_state(dataset, settings)
    structure = structure_of(settings)

    def call(
        state: TrainState, order: np.ndarray, rates: np.ndarray
    ) -> tuple[TrainState, jax.Array]:
        momenta = np.zeros_like(rates)
        state, losses, *_ = train_epoch(
            state, images, labels, order, rates, momenta, numbers, structure=structure
        )
        return state, losses

    return partial(jax.tree.map, jnp.copy, first), call


def own_runs(dataset: Dataset, settings: Settings) -> dict[str, Run]:
    """The product's epoch at once, and the same program step by step."""
    start, call = own_program(dataset, settings)

    def scan(order: np.ndarray) -> np.ndarray:
        return np.asarray(jax.block_until_ready(call(start(), order, constant_rates(order)))[1])

    def loop(order: np.ndarray) -> np.ndarray:
        state, losses = start(), []
        for row, rate in zip(order[:, None], constant_rates(order)[:, None], strict=True):
            state, loss = call(state, row, rate)
            losses.append(loss)
        jax.block_until_ready(state)
        return np.concatenate(losses)

    return {"scan": scan, "loop": loop}


def other_runs(dataset: Dataset, settings: Settings) -> dict[str, Run]:
    """The tutorial's way and its step jitted, then PyTorch in both layouts if it is installed."""
    params = init_state(dataset, settings).params
    data = dataset.train_images.astype(np.float32) / 255, dataset.train_labels
    runs = {name: _stax_run(params, *data, jit=name == "jitted") for name in ("tutorial", "jitted")}
    if importlib.util.find_spec("torch"):
        runs["torch nchw"] = _torch_run(params, *data, channels_last=False)
        runs["torch nhwc"] = _torch_run(params, *data, channels_last=True)
    return runs


def matmul_run() -> Run:
    """A jitted float32 product of two square matrices, once for each step."""
    shape = (2, MATMUL_SIZE, MATMUL_SIZE)
    a, b = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    product = jax.jit(jnp.matmul)

    def run(order: np.ndarray) -> np.ndarray:
        for _ in order:
            product(a, b).block_until_ready()
        return np.zeros(len(order))

    return run


def _stax_run(params: Any, images: np.ndarray, labels: np.ndarray, *, jit: bool) -> Run:
    x, y = jnp.asarray(images), jnp.asarray(labels)
    _, apply = stax.serial(
        stax.Conv(32, (3, 3), padding="SAME"),
        stax.Relu,
        stax.Conv(16, (3, 3), padding="SAME"),
        stax.Relu,
        stax.Flatten,
        stax.Dense(10),
        stax.LogSoftmax,
    )
    conv1, conv2, dense = (
        (params[name]["kernel"], params[name]["bias"]) for name in ("conv1", "conv2", "dense")
    )
    start, update, weights = optimizers.sgd(LEARNING_RATE)

    def loss(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.sum(jax.nn.one_hot(y, 10) * apply(weights, x))

    def step(state: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        value, gradients = jax.value_and_grad(loss)(weights(state), x, y)
        return value, update(0, gradients, state)

    step = jax.jit(step) if jit else step

    def run(order: np.ndarray) -> np.ndarray:
        state, losses = start([conv1, (), conv2, (), (), dense, ()]), []
        for row in order:
            value, state = step(state, x[_batch(row)], y[_batch(row)])
            losses.append(value)
        jax.block_until_ready(state)
        return np.asarray(losses)

    return run


def _torch_run(params: Any, images: np.ndarray, labels: np.ndarray, *, channels_last: bool) -> Run:
    torch = importlib.import_module("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    y = torch.from_numpy(labels.astype(np.int64))
    arrays = _torch_arrays(params, images.shape[1:3], channels_last)
    functional = torch.nn.functional

    def run(order: np.ndarray) -> np.ndarray:
        copies = [torch.tensor(array) for array in arrays]
        copies = [t.contiguous(memory_format=layout) if t.ndim == 4 else t for t in copies]
        kernel1, bias1, kernel2, bias2, dense, bias = weights = [t.requires_grad_() for t in copies]
        optimizer, losses = torch.optim.SGD(weights, lr=LEARNING_RATE), []
        for row in order:
            hidden = functional.conv2d(x[_batch(row)], kernel1, bias1, padding=1).relu()
            hidden = functional.conv2d(hidden, kernel2, bias2, padding=1).relu()
            flat = (hidden.permute(0, 2, 3, 1) if channels_last else hidden).flatten(1)
            logits = functional.linear(flat, dense, bias)
            loss = functional.cross_entropy(logits, y[_batch(row)], reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).numpy()

    return run


def _torch_arrays(params: Any, size: tuple[int, ...], channels_last: bool) -> list[np.ndarray]:
    """Kernels as PyTorch wants them; with the channels last, flattening an image copies nothing."""
    arrays: list[np.ndarray] = []
    for name in ("conv1", "conv2"):
        layer = params[name]
        arrays += [np.transpose(layer["kernel"], (3, 2, 0, 1)), np.ravel(layer["bias"])]
    dense = np.asarray(params["dense"]["kernel"])
    if not channels_last:
        by_place = dense.reshape(*size, -1, dense.shape[-1])
        dense = by_place.transpose(2, 0, 1, 3).reshape(dense.shape)
    return [*arrays, np.ascontiguousarray(dense.T), np.asarray(params["dense"]["bias"])]


def _batch(row: np.ndarray) -> slice:
    """The examples of a step, which lie side by side."""
    return slice(int(row[0]), int(row.max()) + 1)
