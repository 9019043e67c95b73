"""`sweep train`, and a launch that trains, as a person meets them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import load_config
from tests.commands import CONCRETE, CONFIG, SWEEP, environment, refused, run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Variables that make one `sweep train` use the programs that another compiled."""
    return {
        "JAX_COMPILATION_CACHE_DIR": tmp_path_factory.mktemp("programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rates.yaml").write_text(CONFIG)
    (tmp_path / "best.yaml").write_text(CONCRETE)
    return tmp_path


def test_train_takes_no_free_parameters(folder: Path):
    text = refused(folder, "train", "rates.yaml", code=2)
    assert text.startswith("train takes a config without free parameters, but rates has some; ")
    assert "sweep export" in text


def test_train_prints_its_metric_beside_the_expected_one(folder: Path, cache: dict[str, object]):
    path = folder / "best.yaml"
    path.write_text(CONCRETE + "expected: {value: 2.0}\n")
    done = run(folder, "train", path, **cache)
    assert done.returncode == 0
    metric, expected, test = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert (metric[0], test[0]) == ("val_accuracy", "test_accuracy")
    assert expected == ["expected", "2.0 (not equal)"]
    assert 0 <= float(test[1]) <= 1
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        ["epoch", "1"],
        ["epoch", "2"],
    ]
    path.write_text(CONCRETE + f"expected: {{value: {metric[1]}}}\n")
    assert load_config(path).expected == {"value": float(metric[1])}
    again = json.loads(run(folder, "train", path, "--json", **cache).stdout)
    assert again["value"] == again["expected"] == float(metric[1])
    assert (again["metric"], again["test_accuracy"]) == ("val_accuracy", float(test[1]))


def test_train_that_diverges_says_so(folder: Path, cache: dict[str, object]):
    (folder / "best.yaml").write_text(CONCRETE.replace("peak_lr: 0.1", "peak_lr: 1e30"))
    done = run(folder, "train", "best.yaml", **cache)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("the loss stopped being finite in epoch 1\n")


# A shell starts its background jobs with Ctrl-C ignored, and their children inherit that.
HEEDING_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_ctrl_c_ends_training_without_a_traceback(folder: Path, cache: dict[str, object]):
    (folder / "best.yaml").write_text(CONCRETE.replace("num_epochs: 2", "num_epochs: 10000"))
    with subprocess.Popen(
        [sys.executable, "-c", HEEDING_CTRL_C, SWEEP, "train", "best.yaml"],
        cwd=folder,
        env=environment(**cache),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("epoch   1 ")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_changes_no_result(
    folder: Path, stream: str, cache: dict[str, object]
):
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [SWEEP, "launch", "rates.yaml", "--set", "search.num_trials=1"],
            cwd=folder,
            env=environment(**cache),
            timeout=120,
            check=False,
            **(streams | {stream: writer}),  # pyright: ignore
        )
    finally:
        os.close(writer)
    assert done.returncode == 0
    assert run(folder, "status", "rates").stdout.count("finished") == 1
