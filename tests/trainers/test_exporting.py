"""Files of a trained model, read again: by this code, and by JAX alone."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from trainers.checkpoints import CheckpointError
from trainers.data import Dataset
from trainers.exporting import (
    export_program,
    load_trained,
    load_weights,
    named_weights,
    predict,
    save_weights,
)
from trainers.models import Params, init_cnn
from trainers.training import Settings, fit

SHAPE, CLASSES = (7, 8, 3), 5
# Runs an exported program where none of these packages can be imported.
ALONE = """
import sys
class Refuse:
    def find_spec(name, path, target=None):
        if name.partition(".")[0] in ("trainers", "search_spaces", "sweep", "mlflow", "optax"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse)
import numpy as np
from pathlib import Path
from jax import export
program = export.deserialize(bytearray(Path("predict.stablehlo").read_bytes()))
images = np.load("images.npy")
for number in (1, len(images)):
    logits = np.asarray(program.call(images[:number]))
    np.save(f"logits-{number}.npy", logits)
"""


def small_dataset() -> Dataset:
    """Sixteen images of noise in each split."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, *SHAPE), dtype=np.uint8)
    labels = random.integers(0, CLASSES, 16, dtype=np.int32)
    return Dataset("noise", *(images, labels) * 3, num_classes=CLASSES, digest="d" * 36)


@pytest.fixture(scope="module")
def params() -> Params:
    return init_cnn(jax.random.key(0), image_shape=SHAPE, num_classes=CLASSES)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)


def test_an_exported_program_predicts_without_this_code_for_any_number_of_images(
    tmp_path: Path, params: Params, images: np.ndarray
) -> None:
    program = export_program(params, model="cnn", image_shape=SHAPE)
    (tmp_path / "predict.stablehlo").write_bytes(program)
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    expected = np.asarray(predict(params, jax.numpy.asarray(images), model="cnn"))
    assert expected.shape == (len(images), CLASSES)
    for number in (1, len(images)):
        logits = np.load(tmp_path / f"logits-{number}.npy")
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:number], rtol=1e-5, atol=1e-5)


def test_an_exported_program_is_made_of_its_weights_alone(params: Params) -> None:
    before = jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]
    program = export_program(params, model="cnn", image_shape=SHAPE)
    jax.clear_caches()
    assert export_program(params, model="cnn", image_shape=SHAPE) == program
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    assert export_program(other, model="cnn", image_shape=SHAPE) != program
    assert str(Path(__file__).parents[2]).encode() not in program
    assert before == jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]


def test_an_exported_program_is_for_cpu_and_cuda(params: Params) -> None:
    program = export_program(params, model="cnn", image_shape=SHAPE)
    assert export.deserialize(bytearray(program)).platforms == ("cpu", "cuda")


def test_weights_are_named_by_their_path_and_read_back(tmp_path: Path, params: Params) -> None:
    assert {name: array.shape for name, array in named_weights(params).items()} == {
        "conv1.kernel": (3, 3, 3, 32),
        "conv1.bias": (1, 1, 1, 32),
        "conv2.kernel": (3, 3, 32, 16),
        "conv2.bias": (1, 1, 1, 16),
        "dense.kernel": (7 * 8 * 16, CLASSES),
        "dense.bias": (CLASSES,),
    }
    path = tmp_path / "model.safetensors"
    save_weights(path, params)
    read = load_weights(path, model="cnn", image_shape=SHAPE, num_classes=CLASSES)
    assert jax.tree.structure(read) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_weights_of_another_model_are_refused(tmp_path: Path, params: Params) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, params)
    with pytest.raises(ValueError, match=r"model\.safetensors must hold .*\(6,\).*, but it holds"):
        load_weights(path, model="cnn", image_shape=SHAPE, num_classes=CLASSES + 1)


def test_a_trained_state_is_read_from_the_checkpoint_of_any_run(tmp_path: Path) -> None:
    dataset, settings, path = small_dataset(), Settings(num_epochs=1, batch_size=8), tmp_path / "c"
    steps = -(-len(dataset.train_images) // 8)
    run = fit(
        dataset,
        np.full(steps, 0.1, np.float32),
        {"momentum": 0.9, "weight_decay": 0.0},
        settings,
        checkpoint_path=path,
    )
    report = next(run)
    with pytest.raises(StopIteration) as end:
        next(run)
    checkpoint = load_trained(path, dataset, settings)
    assert (checkpoint.epoch, checkpoint.reports) == (1, [report._asdict()])
    jax.tree.map(np.testing.assert_array_equal, checkpoint.state, end.value.value)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="must match its sha256"):
        load_trained(path, dataset, settings)
