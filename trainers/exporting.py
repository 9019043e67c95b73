"""A trained model as files that outlive this code: named weights, and a program that predicts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from trainers.checkpoints import Checkpoint, load_checkpoint
from trainers.data import Dataset
from trainers.models import MODELS, Params
from trainers.training import Settings, init_state

PLATFORMS = ("cpu", "cuda")  # that an exported program runs on


def predict(params: Params, images: jax.Array, *, model: str) -> jax.Array:
    """Logits, float32 (n, num_classes), of uint8 images (n, height, width, channels)."""
    return MODELS[model].apply(params, images.astype(jnp.float32) / 255)


def export_program(params: Params, *, model: str, image_shape: tuple[int, ...]) -> bytes:
    """`predict` for any number of images of this shape, with its weights inside: StableHLO.

    To be read by `jax.export.deserialize`; it names no file of this machine.
    """
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    program = jax.jit(lambda images: predict(params, images, model=model))
    with _without_locations():
        return bytes(export.export(program, platforms=PLATFORMS)(images).serialize())


def named_weights(params: Params) -> dict[str, np.ndarray]:
    """The arrays of a tree by their path in it: `conv1.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): np.array(leaf, order="C") for path, leaf in leaves}


def save_weights(path: Path, params: Params) -> None:
    """Write `named_weights` as a safetensors file."""
    from safetensors.numpy import save

    path.write_bytes(save(named_weights(params)))


def load_weights(
    path: Path, *, model: str, image_shape: tuple[int, int, int], num_classes: int
) -> Params:
    """The parameters of a model from a file of `save_weights`; ValueError unless they fit it."""
    from safetensors.numpy import load_file

    arrays = load_file(path)
    like = jax.eval_shape(
        lambda: MODELS[model].init(
            jax.random.PRNGKey(0), image_shape=image_shape, num_classes=num_classes
        )
    )
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {_name(path): leaf.shape for path, leaf in leaves}
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        raise ValueError(f"{path} must hold {expected} for this model, but it holds {found}")
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in expected])


def load_trained(path: Path, dataset: Dataset, settings: Settings) -> Checkpoint:
    """The checkpoint at `path`, whichever run of these settings it is of.

    Raises CheckpointError unless every byte is as written, FileNotFoundError where there is none.
    """
    like = jax.eval_shape(lambda: init_state(dataset, settings))
    return load_checkpoint(path, like, fingerprint=None)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Programs made here hold no paths of source files."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
