"""Exported models of a real sweep, each loaded in a process of its own that lacks this project."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import load_file

from sweep.directory import read_sweep
from sweep.errors import CommandError
from sweep.records import TrialRecord
from sweep.registry import log_model
from tests.commands import SWEEP, environment, refused
from tests.faults.proxy import losing
from tests.tracking_server import free_port, serving
from trainers.data import load_dataset

# MLflow itself uses a SQLAlchemy option that is to go, and warns of its own type hints.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
CONFIG = """\
version: 1
name: rates
data: {dataset: digits, validation_examples: 287}
training: {model: cnn, optimizer: sgd, num_epochs: 2, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {choice: [0.01, 0.03, 0.05]}}
  momentum: 0.9
search: {algorithm: grid}
"""
FILES = {
    *("README.md", "config.yaml", "mlflow", "model.json", "model.safetensors"),
    "predict.stablehlo",
}
# What a fresh process runs before the lines under test: none of these can be imported.
REFUSING = """
import sys
class Refuse:
    def find_spec(name, path, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse)
import numpy as np
images = np.load("../images.npy")
"""
OURS = {"sweep", "search_spaces", "trainers"}


class Exported(NamedTuple):
    """A sweep of three trials, its best exported while MLflow was down, and once it was up."""

    folder: Path
    uri: str
    port: int
    down: "subprocess.CompletedProcess[str]"
    files_then: set[str]
    done: "subprocess.CompletedProcess[str]"
    trained: dict[str, Any]  # what sweep train printed
    best: int

    @property
    def trials(self) -> list[TrialRecord]:
        return read_sweep(self.folder / "sweeps" / "rates")[1]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def run_of(self, number: int) -> Run:
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        (run,) = self.client.search_runs(experiments, f"tags.trial = '{number}'")
        return run


def sweep(folder: Path, *arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [SWEEP, *map(str, arguments)],
        cwd=folder,
        env=environment(MLFLOW_TRACKING_URI=(folder / "uri").read_text()),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    folder, place, port = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("s"), free_port()
    (folder / "rates.yaml").write_text(CONFIG)
    (folder / "uri").write_text(f"http://127.0.0.1:{port}")
    np.save(folder / "images.npy", held_out()[0])
    with serving(place, port):
        sweep(folder, "launch", "rates.yaml")
    command = ("export", "rates", "--model", "model", "--register", "digits")
    down = sweep(folder, *command, code=5)
    files = {path.name for path in (folder / "model").iterdir()}
    sweep(folder, "export", "rates", "-o", "best.yaml")
    trained = sweep(folder, "train", "best.yaml", "--model", "again", "--json")
    with serving(place, port) as uri:
        done = sweep(folder, *command)
        best = json.loads((folder / "model" / "model.json").read_text())["trial"]
        result = json.loads(trained.stdout)
        yield Exported(folder, uri, port, down, files, done, result, best)


def held_out() -> tuple[np.ndarray, np.ndarray]:
    dataset = load_dataset("digits", validation_examples=287)
    return dataset.test_images, dataset.test_labels


def in_a_fresh_process(folder: Path, lines: str, result: str, refused: set[str]) -> np.ndarray:
    """The array that `lines` leave under the name `result`."""
    script = REFUSING.format(refused=refused) + lines + f"\nnp.save('../result.npy', {result})\n"
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment(), check=True)
    return np.load(folder.parent / "result.npy")


def outputs_of(run: Run) -> list[str]:
    """The ids of the models that a run says it gave."""
    assert run.outputs is not None
    return [output.model_id for output in run.outputs.model_outputs]


def blocks(folder: Path) -> list[str]:
    """The ways to load that a model's README shows."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def test_every_form_predicts_as_the_retrained_config_does(exported: Exported) -> None:
    folder = exported.folder / "model"
    with_jax, with_mlflow, weights, with_code = blocks(folder)
    others = {"mlflow", "optax", "safetensors", "ray", "optuna"}
    program = in_a_fresh_process(folder, with_jax, "logits", OURS | others)
    pyfunc = in_a_fresh_process(folder, with_mlflow, "logits", OURS)
    champion = f"import mlflow\nmlflow.set_tracking_uri('{exported.uri}')\n" + (
        "logits = mlflow.pyfunc.load_model('models:/digits@champion').predict(images)"
    )
    registered = in_a_fresh_process(folder, champion, "logits", OURS)
    own = in_a_fresh_process(folder, with_code, "logits", {"mlflow", "ray", "optuna"})
    again = in_a_fresh_process(exported.folder / "again", with_jax, "logits", OURS | others)
    bias = in_a_fresh_process(folder, weights, "weights['dense.bias']", OURS | {"jax"})

    labels = held_out()[1]
    assert program.shape == (len(labels), 10)
    assert np.ptp(program) > 1
    for logits in (pyfunc, registered, own, again):
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, program, rtol=1e-5, atol=1e-5 * np.ptp(program))
    accuracy = np.mean(program.argmax(-1) == labels)
    assert accuracy == exported.trained["test_accuracy"] > 0.5
    assert bias.shape == (10,)


def test_the_retrained_weights_are_those_of_the_trial(exported: Exported) -> None:
    one, other = (
        load_file(exported.folder / name / "model.safetensors") for name in ("model", "again")
    )
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)


def test_a_model_says_what_it_is(exported: Exported) -> None:
    folder = exported.folder / "model"
    described = json.loads((folder / "model.json").read_text())
    (trial,) = (trial for trial in exported.trials if trial.number == exported.best)
    assert trial.value == max(t.value or 0 for t in exported.trials)
    expected = {
        "sweep": "rates",
        "metric": "val_accuracy",
        "value": trial.value,
        "dataset": "digits",
        "image_shape": [8, 8, 1],
        "num_classes": 10,
        "platforms": ["cpu", "cuda"],
    }
    assert described | expected == described
    assert (folder / "config.yaml").read_text() == (exported.folder / "best.yaml").read_text()
    assert {path.name for path in folder.iterdir()} == FILES
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    machine = str(exported.folder).encode(), str(Path(__file__).parents[2]).encode()
    assert not any(path in text for path in machine for text in texts)
    assert not list(exported.folder.glob(".*"))  # nothing half made is left


def test_a_server_that_is_down_costs_the_upload_alone(exported: Exported) -> None:
    assert exported.files_then == FILES
    assert "model holds the model, but MLflow at http://127.0.0.1:" in exported.down.stderr
    assert exported.down.stderr.rstrip().endswith("once it does, give the same command again")


def test_a_model_is_logged_to_its_trial_and_registered_once(exported: Exported) -> None:
    client, run = exported.client, exported.run_of(exported.best)
    repeated = sweep(exported.folder, *exported.done.args[1:])
    assert repeated.stdout == exported.done.stdout
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.source_run_id, model.status.value) == (run.info.run_id, "READY")
    assert outputs_of(run) == [model.model_id]
    (version,) = client.search_model_versions("name = 'digits'")
    assert version.run_id == run.info.run_id
    assert version.source
    assert f"/{model.model_id}/" in version.source
    assert client.get_model_version_by_alias("digits", "champion").version == version.version
    assert f"models:/{model.model_id}, of run {run.info.run_id}" in exported.done.stdout
    assert f"models:/digits@champion, version {version.version}" in exported.done.stdout


def test_answers_that_are_lost_make_no_second_model(exported: Exported) -> None:
    record, trials = read_sweep(exported.folder / "sweeps" / "rates")
    trial = next(trial for trial in trials if trial.number != exported.best)
    folder = exported.folder / "model"
    described = json.loads((folder / "model.json").read_text())
    failures: list[CommandError] = []
    with losing(exported.port, every=10**9, seed=0) as proxy:
        lossy = record._replace(tracking_uri=proxy.uri)
        while True:
            try:
                logged = log_model(lossy, trial, folder, described, "lossy")
                break
            except CommandError as error:
                failures.append(error)
    asked = set(proxy.lost)
    assert {"logged-models", "artifacts", "registered-models/create"} < asked
    assert [error.exit_code for error in failures] == [5] * len(proxy.lost)
    run = exported.run_of(trial.number)
    query = f"source_run_id = '{run.info.run_id}'"
    (model,) = exported.client.search_logged_models([run.info.experiment_id], query)
    (version,) = exported.client.search_model_versions("name = 'lossy'")
    assert logged == (run.info.run_id, model.model_id, version.version)
    assert set(outputs_of(run)) == {model.model_id}


def test_a_trial_that_mlflow_lacks_is_said_with_the_way_out(exported: Exported) -> None:
    (worst, *_) = sorted(exported.trials, key=lambda trial: trial.value or 0)
    exported.client.delete_run(exported.run_of(worst.number).info.run_id)
    command = ("export", "rates", "--trial", worst.number, "--model", "worst")
    lacking = sweep(exported.folder, *command, code=3)
    assert "give the same command again" in lacking.stderr
    assert f"MLflow does not hold trial {worst.number} of rates yet" in lacking.stderr
    sweep(exported.folder, *re.findall(r"sweep (sync \w+)", lacking.stderr)[0].split())
    assert f"trial {worst.number}: val_accuracy" in sweep(exported.folder, *command).stdout


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_trials(path: Path) -> None:
    (another,) = (p for p in path.parents[1].glob("*/checkpoint") if p.parent.name == "0000")
    shutil.copyfile(another, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "must have its last state in .*, but it is gone; "),
        (damaged, "must match its sha256, but .* does not; "),
        (other_trials, "must be of the run that is recorded as trial 1, but its learning rates "),
    ],
)
def test_a_state_that_is_not_as_it_was_left_is_refused(
    exported: Exported, tmp_path: Path, change: Any, message: str
) -> None:
    directory = tmp_path / "sweeps" / "rates"
    shutil.copytree(exported.folder / "sweeps" / "rates", directory)
    change(directory / "trials" / "0001" / "checkpoint")
    error = refused(tmp_path, "export", "rates", "--trial", 1, "--model", "model", code=1)
    assert re.search(message, error)
    way_out = "sweep export rates --trial 1 -o best.yaml; sweep train best.yaml --model DIR"
    assert error.endswith(way_out)
    assert not (tmp_path / "model").exists()


def test_a_folder_of_something_else_is_left_alone(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    error = refused(exported.folder, "export", "rates", "--model", tmp_path, code=4)
    assert error == (
        f"{tmp_path} must be new, empty, or an older export, but it is none of them; name another "
        "folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_registered_name_needs_a_model_and_must_be_one(exported: Exported) -> None:
    error = refused(exported.folder, "export", "rates", "--register", "digits", code=2)
    assert error.startswith("--register must come with --model")
    error = refused(
        exported.folder, "export", "rates", "--model", "m", "--register", "a/'b", code=2
    )
    assert error.startswith("a registered model's name must be of letters")
