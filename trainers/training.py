"""One training run: a jitted program for an epoch, and a generator that calls it epoch by epoch."""

import hashlib
import json
import time
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainers.checkpoints import Checkpoint, load_latest, save_checkpoint
from trainers.data import Dataset
from trainers.hyperparameters import HYPERPARAMETERS, momentum_name
from trainers.models import MODELS
from trainers.optimizers import direction
from trainers.plateau import Plateau
from trainers.schedules import steps_per_epoch

# On a CPU the gradients of a batch are summed over pieces of this many images, which stay in the
# cache; see docs/benchmarks.md.
_CPU_PIECE = 16
# And element-wise work and reductions are given to the library that XLA uses for matrix products:
# 55 ms against 76 ms for a step of 256 images on two cores. The name is that of this release.
_COMPILER_OPTIONS = (
    {
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"
        )
    }
    if jax.__version_info__[:2] == (0, 10)
    else None
)
_EVALUATION_BATCH = 256


class Settings(NamedTuple):
    """What is fixed within a sweep. `loss_reduction`: mean or sum over the examples of a batch."""

    num_epochs: int
    batch_size: int
    model: str = "cnn"
    optimizer: str = "sgd"
    seed: int = 0
    shuffle: bool = True
    loss_reduction: str = "mean"


class Structure(NamedTuple):
    """What a program is compiled for; all else that differs between trials is an input."""

    model: str
    optimizer: str
    loss_reduction: str
    piece: int  # images per gradient piece


class TrainState(NamedTuple):
    """What an epoch changes."""

    params: Any
    optimizer_state: Any


class EpochReport(NamedTuple):
    """What one epoch gave. Losses are cross-entropies, `epoch` counts from 1."""

    epoch: int
    train_loss: float  # mean over examples; with loss_reduction sum, mean over batches of the sums
    val_loss: float  # mean over examples
    val_accuracy: float  # 0..1
    learning_rate_sha256: str  # of the float32 learning rates as the program gave them back
    seconds: float
    momentum_sha256: str = ""  # of the float32 momenta, likewise

    @property
    def diverged(self) -> bool:
        """Whether a loss stopped being finite, which ends the run."""
        return not (np.isfinite(self.train_loss) and np.isfinite(self.val_loss))


def on_device(dataset: Dataset) -> Dataset:
    """`dataset` with its training and validation arrays on the default device, there to stay.

    On a CPU a read-only array whose memory is aligned, as in Ray's object store, is used where it
    lies: nobody may write to it any more.
    """
    names = ("train_images", "train_labels", "val_images", "val_labels")
    return dataset._replace(**{name: _placed(getattr(dataset, name)) for name in names})


def _placed(array: np.ndarray) -> jax.Array:
    return jnp.array(array) if array.flags.writeable else jax.device_put(array, may_alias=True)


def fit(
    dataset: Dataset,
    curve: np.ndarray,
    hyperparameters: Mapping[str, float],
    settings: Settings,
    *,
    momentum: np.ndarray | None = None,
    plateau: Plateau | None = None,
    checkpoint_path: Path | None = None,
    skip_epochs: int = 0,
) -> Generator[EpochReport, None, TrainState]:
    """Train epoch by epoch, yielding a report after each; ends early when the loss diverges.

    Returns the last state.

    `curve` is float32 (num_epochs * steps_per_epoch,), from `learning_rate_curve`; `momentum`, of
    the same form, takes the place of the hyperparameter; `plateau` scales the learning rates of an
    epoch by the losses before it. With a `checkpoint_path` the state is saved there before its
    report is yielded, and a run that finds a sound checkpoint goes on from it, first yielding saved
    reports later than `skip_epochs` again.
    """
    steps = steps_per_epoch(len(dataset.train_images), settings.batch_size)
    rows = _checked(curve, settings.num_epochs, steps)
    if momentum is None:
        constant = hyperparameters[momentum_name(settings.optimizer)]
        momenta = np.full(rows.shape, constant, np.float32)
    else:
        momenta = _checked(momentum, settings.num_epochs, steps)
    structure = structure_of(settings)
    state = init_state(dataset, settings)
    fingerprint = run_fingerprint(dataset, curve, hyperparameters, settings, momentum, plateau)
    found = checkpoint_path and load_latest(checkpoint_path, state, fingerprint)
    reports = found.reports if found else []
    state = found.state if found else state
    yield from (EpochReport(**report) for report in reports[skip_epochs:])

    numbers = {name: jnp.float32(value) for name, value in hyperparameters.items()}
    train = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    validation = jnp.asarray(dataset.val_images), jnp.asarray(dataset.val_labels)
    for epoch in range(len(reports) + 1, settings.num_epochs + 1):
        start = time.perf_counter()
        order = _epoch_order(len(train[0]), settings, epoch, structure.piece)
        scale = plateau.scales([report["val_loss"] for report in reports])[-1] if plateau else 1
        row = rows[epoch - 1] * np.float32(scale)
        state, losses, *applied = train_epoch(
            state, *train, order, row, momenta[epoch - 1], numbers, structure=structure
        )
        val_loss, val_accuracy = evaluate(state.params, *validation, model=settings.model)
        report = EpochReport(
            epoch,
            _train_loss(np.asarray(losses, np.float64), len(train[0]), settings.loss_reduction),
            val_loss,
            val_accuracy,
            _sha256(applied[0]),
            time.perf_counter() - start,
            _sha256(applied[1]),
        )
        if not report.diverged:
            reports = [*reports, report._asdict()]
            if checkpoint_path:
                save_checkpoint(checkpoint_path, Checkpoint(fingerprint, epoch, state, reports))
        yield report
        if report.diverged:
            break
    return state


def init_state(dataset: Dataset, settings: Settings) -> TrainState:
    """The state before the first step, drawn from `settings.seed` alone."""
    # The bits JAX drew from a key before 0.5; published runs of that time can so be repeated.
    with jax.threefry_partitionable(False):
        params = MODELS[settings.model].init(
            jax.random.PRNGKey(settings.seed),
            image_shape=dataset.train_images.shape[1:],
            num_classes=dataset.num_classes,
        )
    numbers = HYPERPARAMETERS[settings.optimizer]
    return TrainState(params, direction(settings.optimizer, numbers).init(params))


@partial(
    jax.jit,
    static_argnames=("structure",),
    donate_argnums=(0,),
    compiler_options=_COMPILER_OPTIONS,
)
def train_epoch(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    learning_rates: jax.Array,
    momenta: jax.Array,
    hyperparameters: Mapping[str, jax.Array],
    *,
    structure: Structure,
) -> tuple[TrainState, jax.Array, jax.Array, jax.Array]:
    """One pass over the data: the new state, then each step's summed loss, rate and momentum.

    images: uint8 (n, height, width, channels), labels: int32 (n,); order: int32 (steps, batch),
    the examples of each step, -1 where there is none; learning_rates, momenta: float32 (steps,).
    """
    momentum_key = momentum_name(structure.optimizer)

    def step(state: TrainState, row: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        indices, learning_rate, momentum = row
        transform = direction(structure.optimizer, {**hyperparameters, momentum_key: momentum})
        loss, gradients = _summed_gradients(state.params, images, labels, indices, structure)
        if structure.loss_reduction == "mean":
            gradients = jax.tree.map(lambda g: g / jnp.sum(indices >= 0), gradients)
        update, optimizer_state = transform.update(gradients, state.optimizer_state, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, update)
        return TrainState(params, optimizer_state), (loss, learning_rate, momentum)

    state, outputs = jax.lax.scan(step, state, (order, learning_rates, momenta))
    return state, *outputs


def evaluate(
    params: Any, images: jax.Array, labels: jax.Array, *, model: str
) -> tuple[float, float]:
    """Mean loss and accuracy over a split."""
    order = _padded(np.arange(len(images), dtype=np.int32), _EVALUATION_BATCH, _EVALUATION_BATCH)
    losses, correct = _evaluate(params, images, labels, order, model=model)
    loss = np.sum(np.asarray(losses, np.float64)) / len(images)
    return float(loss), int(np.sum(correct)) / len(images)


@partial(jax.jit, static_argnames=("model",), compiler_options=_COMPILER_OPTIONS)
def _evaluate(
    params: Any, images: jax.Array, labels: jax.Array, order: jax.Array, *, model: str
) -> tuple[jax.Array, jax.Array]:
    def batch(_: None, indices: jax.Array) -> Any:
        logits = MODELS[model].apply(params, _scaled(images[indices]))
        used = indices >= 0
        loss = jnp.sum(_cross_entropy(logits, labels[indices]) * used)
        return None, (loss, jnp.sum((jnp.argmax(logits, -1) == labels[indices]) & used))

    return jax.lax.scan(batch, None, order)[1]


def _summed_gradients(
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    structure: Structure,
) -> tuple[jax.Array, Any]:
    """The loss summed over the examples of a step, and its gradients: exact however it is cut."""

    def loss(params: Any, piece: jax.Array) -> jax.Array:
        logits = MODELS[structure.model].apply(params, _scaled(images[piece]))
        return jnp.sum(_cross_entropy(logits, labels[piece]) * (piece >= 0))

    def add(total: Any, piece: jax.Array) -> Any:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(params, piece)), None

    pieces = indices.reshape(-1, structure.piece)
    if len(pieces) == 1:
        return jax.value_and_grad(loss)(params, pieces[0])
    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zero, pieces)[0]


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _scaled(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255


def structure_of(settings: Settings) -> Structure:
    """What the program of these settings is compiled for on this device."""
    piece = min(_CPU_PIECE, settings.batch_size)
    if jax.default_backend() != "cpu":
        piece = settings.batch_size
    return Structure(settings.model, settings.optimizer, settings.loss_reduction, piece)


def _epoch_order(num_examples: int, settings: Settings, epoch: int, piece: int) -> np.ndarray:
    """Which examples each step sees, int32 (steps, batch in whole pieces), padded by -1."""
    order = np.arange(num_examples, dtype=np.int32)
    if settings.shuffle:
        np.random.default_rng((settings.seed, epoch)).shuffle(order)
    return _padded(order, settings.batch_size, -(-settings.batch_size // piece) * piece)


def _padded(order: np.ndarray, batch_size: int, width: int) -> np.ndarray:
    """`order` in rows of `batch_size`, each filled up with -1 to `width`."""
    steps = steps_per_epoch(len(order), batch_size)
    rows = np.full((steps, width), -1, np.int32)
    for row, start in zip(rows, range(0, len(order), batch_size), strict=True):
        batch = order[start : start + batch_size]
        row[: len(batch)] = batch
    return rows


def _train_loss(losses: np.ndarray, num_examples: int, loss_reduction: str) -> float:
    return float(losses.mean() if loss_reduction == "sum" else losses.sum() / num_examples)


def _checked(curve: np.ndarray, num_epochs: int, steps: int) -> np.ndarray:
    """`curve` in one row per epoch."""
    if curve.dtype != np.float32 or curve.shape != (num_epochs * steps,):
        raise ValueError(
            f"the curve must be float32 ({num_epochs * steps},), but got {curve.dtype}{curve.shape}"
        )
    if not np.all(curve >= 0) or not np.all(np.isfinite(curve)):
        raise ValueError("the curve must be finite and >= 0 at every step, but it is not")
    return curve.reshape(num_epochs, steps)


def run_fingerprint(
    dataset: Dataset,
    curve: np.ndarray,
    hyperparameters: Mapping[str, float],
    settings: Settings,
    momentum: np.ndarray | None = None,
    plateau: Plateau | None = None,
) -> str:
    """The identity of a run, hex sha256: two runs that share it pass through the same states."""
    described = json.dumps(
        {
            "dataset": dataset.digest,
            "cut": [_sha256(labels) for labels in (dataset.train_labels, dataset.val_labels)],
            "hyperparameters": dict(sorted(hyperparameters.items())),
            "settings": settings._asdict(),
            "plateau": plateau,
        }
    )
    curves = curve.tobytes() + (b"" if momentum is None else momentum.tobytes())
    return hashlib.sha256(described.encode() + curves).hexdigest()


def _sha256(values: jax.Array | np.ndarray) -> str:
    return hashlib.sha256(np.asarray(values).tobytes()).hexdigest()
