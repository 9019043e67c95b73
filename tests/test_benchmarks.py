"""The benchmarks run, and judge what they measure rightly."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tutorial_table
from benchmarks.tutorial_table import Row
from search_spaces import load_config, preset_path
from sweep.errors import CommandError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "tutorial_table.py"
EPOCHS = 10


def row(*, loss: float = 100.0, accuracy: float = 0.8, **changed: float) -> Row:
    """The same figures in ten epochs, but for `loss_3=...` or `accuracy_10=...`."""
    losses, accuracies = [loss] * EPOCHS, [accuracy] * EPOCHS
    for name, value in changed.items():
        quantity, epoch = name.split("_")
        {"loss": losses, "accuracy": accuracies}[quantity][int(epoch) - 1] = value
    return Row("constant", losses, accuracies)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"loss_1": 102.0}, []),
        ({"loss_2": 98.0}, []),
        ({"loss_2": 102.01}, [0]),
        ({"loss_3": 100.3}, []),
        ({"loss_3": 100.31}, [1]),
        ({"loss_9": 99.69}, [1]),
        ({"loss_10": 99.9}, []),
        ({"loss_10": 100.11}, [2]),
        ({"loss_10": 100.31}, [1, 2]),
        ({"accuracy_2": 0.1}, []),
        ({"accuracy_3": 0.802}, []),
        ({"accuracy_10": 0.798}, []),
        ({"accuracy_3": 0.8021}, [4]),
        ({"accuracy_10": 0.7979}, [4]),
    ],
)
def test_a_bound_holds_up_to_its_edge_in_its_own_epochs(
    changed: dict[str, float], missed: list[int]
):
    found = tutorial_table.findings([row(), row()], [row(), row(**changed)])
    assert [index for index, finding in enumerate(found) if not finding.holds] == missed
    assert tutorial_table.passed(found) == (not missed)


def test_a_loss_deviates_relatively_and_an_accuracy_absolutely():
    assert tutorial_table.deviation("train_loss", 200.0, 198.0) == -0.01
    assert tutorial_table.deviation("val_accuracy", 0.5, 0.75) == 0.25


def test_the_largest_deviation_is_named_with_its_run_and_epoch():
    measured = [row(loss_4=100.1), row(loss_7=99.8)._replace(name="custom")]
    found = tutorial_table.findings([row(), row()], measured)
    assert found[1].largest == pytest.approx(0.002)
    assert found[1].where == "custom, epoch 7"
    assert tutorial_table.summary(found)[1] == (
        "train loss, epochs 3 to 10: at most 0.200 % off (custom, epoch 7), "
        "the bound of 0.300 % holds"
    )


def test_epochs_that_were_not_measured_miss_no_bound():
    found = tutorial_table.findings([row()], [Row("constant", [101.0], [0.9])])
    assert [finding.largest is None for finding in found] == [False, True, True, False, True]
    assert tutorial_table.passed(found)
    assert tutorial_table.summary(found)[2] == "train loss, epoch 10: not measured"


def test_a_run_that_diverged_is_refused():
    reports = [
        {"train_loss": loss, "val_loss": 1.0, "val_accuracy": 0.5} for loss in (2.0, float("nan"))
    ]
    assert tutorial_table.measured_row("custom", reports[:1]) == Row("custom", [2.0], [0.5])
    with pytest.raises(CommandError, match="losses of custom must be finite, but not in epoch 2"):
        tutorial_table.measured_row("custom", reports)


def test_both_tables_show_every_figure():
    published, measured = [row()], [row(loss_3=100.25, accuracy_10=0.7995)]
    text = tutorial_table.text_table(published, measured)
    assert text.count("100.000") == EPOCHS + EPOCHS - 1
    assert "+0.250 %" in text
    assert "-0.0005" in text
    found = tutorial_table.findings(published, measured)
    page = tutorial_table.markdown(published, measured, found, "Made by hand.")
    assert page.count(" / ") == 2 * EPOCHS + 2
    assert "| 100.000 / 100.250 |" in page
    assert "| 0.8000 / 0.7995 |" in page
    assert "- Every bound holds." in page


def tutorial_spaces() -> list[dict[str, Any]]:
    path = preset_path("tutorial")
    assert path is not None
    return tutorial_table.enqueued_spaces(load_config(path))


def test_the_published_runs_are_the_points_of_the_preset_in_order():
    text = tutorial_table.PUBLISHED.read_text()
    rows = tutorial_table.published_rows(text, tutorial_spaces())
    assert len({row.name for row in rows}) == len(rows) == 8
    for name, losses, accuracies in rows:
        assert len(losses) == len(accuracies) == EPOCHS, name
        assert sorted(losses, reverse=True) == losses, name
        assert all(0.76 < accuracy < 0.88 for accuracy in accuracies), name


def test_another_order_or_parameter_is_refused():
    text, spaces = tutorial_table.PUBLISHED.read_text(), tutorial_spaces()
    with pytest.raises(CommandError, match="must have 8 points, but it has 7"):
        tutorial_table.published_rows(text, spaces[:7])
    with pytest.raises(CommandError, match="exponential_decay by epoch must have its point"):
        tutorial_table.published_rows(text, [spaces[0], spaces[2], spaces[1], *spaces[3:]])
    other = {"schedule": {"constant": {"peak_lr": 2e-4}}}
    with pytest.raises(CommandError, match=r"constant must .* but there stands .*0\.0002"):
        tutorial_table.published_rows(text, [other, *spaces[1:]])


def command(*options: str | Path) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, options)]


def quick(folder: Path, manual_dir: Path) -> list[str]:
    """Two epochs of 512 images each; the test images are all there."""
    size = ("--num-epochs", "2", "--train-examples", "512", "--manual-dir", manual_dir)
    return command(*size, "--work", folder / "work", "--json", folder / "table.json")


@pytest.mark.slow
def test_a_table_that_was_killed_is_gone_on_with_to_the_same_figures(
    tmp_path: Path, manual_dir: Path
):
    results = []
    for name, kill_after in (("whole", None), ("killed", 5)):
        folder = tmp_path / name
        folder.mkdir()
        seen = []
        if kill_after:
            started = subprocess.Popen(
                quick(folder, manual_dir), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            assert started.stderr is not None
            seen = [started.stderr.readline().decode().strip() for _ in range(kill_after)]
            started.send_signal(signal.SIGKILL)
            started.communicate()  # ends when the workers have ended, too
        done = subprocess.run(quick(folder, manual_dir), capture_output=True, text=True)
        assert done.returncode == 1, done.stderr  # so few images are far off
        assert done.stdout.endswith("A bound is missed.\n")
        lines = done.stderr.splitlines()
        assert len(lines) == 16
        assert set(seen) <= set(lines)  # with their seconds: read back, not trained again
        results.append(json.loads((folder / "table.json").read_text())["runs"])
    whole, resumed = results
    assert [len(run["train_loss"]) for run in whole] == [2] * 8
    assert resumed == whole


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--manual-dir", "empty"], 2, "must hold the original files of fashion_mnist"),
        (["--num-epochs", "11"], 2, "1 <= num-epochs <= 10 must hold, but got 11"),
        (["--train-examples", "0"], 2, "train_examples"),
        (["--json", "none/table.json"], 2, "must lie in a folder that exists"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    tmp_path: Path, options: list[str], code: int, message: str
):
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"SWEEP_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        command("--work", "work", *options),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_scaling_benchmark_runs_and_workers_share_their_data(tmp_path: Path, manual_dir: Path):
    small = ["--rounds", "1", "--trials", "2", "--epochs", "1", "--train-examples", "64"]
    cache = {"SWEEP_CACHE_DIR": str(tmp_path), "SWEEP_MANUAL_DIR": str(manual_dir)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), *small],
        env=os.environ | cache,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    for name in ("one at a time", "two at once", "sweep:", "command:"):
        assert re.search(rf"^{name}.* \d+\.\d", done.stdout, re.MULTILINE), done.stdout
    found = re.search(r"^memory: (.+) of private .*; on the node (.+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    assert 0.1 < float(found[1]) < float(found[2]) < 0.35, done.stdout


ALONE = """\
import runpy
import sys


REFUSED = set(sys.argv[1].split(","))


class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"this machine has no {name}")


sys.meta_path.insert(0, Refusing())
script = sys.argv[2]
sys.argv = sys.argv[2:]
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
"""
MORE_THAN_JAX = "safetensors,sklearn,tensorflow_datasets,pydantic,ray,optuna,mlflow,requests"


def measured(folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """What benchmarks/step.py prints and writes where only jax and optax can be imported."""
    numbers = folder / "numbers.json"
    script = str(ROOT / "benchmarks" / "step.py")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, MORE_THAN_JAX, script, *options, "--json", str(numbers)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(numbers.read_text())


@pytest.mark.slow
def test_the_step_benchmark_needs_jax_and_optax_alone(tmp_path: Path):
    output, numbers = measured(tmp_path, "--quick")
    assert "the losses of the first 3 steps agree: scan, loop, tutorial, jitted" in output
    assert "torch is not installed, so it was not compared" in output
    assert set(numbers["seconds_per_step"]) == {"scan", "loop", "tutorial", "jitted", "matmul"}
    assert all(min(seconds) > 0 for seconds in numbers["seconds_per_step"].values())
    assert set(numbers["images_per_second"]) == {
        "one trial on all cores",
        "a trial on each core",
    }


@pytest.mark.slow
def test_every_form_of_fused_trials_comes_to_the_losses_of_the_trials_alone(tmp_path: Path):
    output, numbers = measured(tmp_path, "--quick", "--fused")
    cases = {(case["form"], case["dtype"], case["lanes"]): case for case in numbers["cases"]}
    forms = {"unrolled", "vmap_of_grad", "grad_of_sum", "own_gradients", "patches", "map"}
    assert {form for form, dtype, lanes in cases if lanes == 2} == forms
    for (_, dtype, lanes), case in cases.items():
        assert "error" not in case
        assert case["deviation"] <= {"float32": 1e-3, "bfloat16": 0.05}[dtype]
        assert len(case["losses"]) == len(set(case["losses"])) == lanes
    assert "TOO FAR" not in output
