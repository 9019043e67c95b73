"""Sweeps from Python: what `load` and `launch` give, on a real sweep."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

import sweep
from search_spaces import ConfigError, parse_config
from sweep.directory import create_ledger, read_sweep
from sweep.errors import CommandError
from sweep.figures import FIGURES
from sweep.notebook import Sweep
from tests.commands import CONFIG, environment
from trainers.schedules import learning_rate_curve

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "notebook.md"
CONFIG_OF_ALL_ENDS = {
    "version": 1,
    "name": "ends",
    "data": {"dataset": "digits", "validation_examples": 100, "train_examples": 128},
    "training": {"model": "cnn", "optimizer": "sgd", "num_epochs": 4, "batch_size": 64},
    "space": {
        "schedule": {
            "constant": {"peak_lr": {"log_uniform": [1e-3, 1e20]}},
            "cosine_decay": {"peak_lr": 0.1, "final_fraction": 0.01},
        },
        "momentum": 0.5,
    },
    "search": {"num_trials": 3, "algorithm": "random"},
    "enqueue": [
        {"schedule": {"cosine_decay": {}}},
        {"schedule": {"constant": {"peak_lr": 1e20}}},
        {"schedule": {"constant": {"peak_lr": 0.01}}},
    ],
    "pruning": {"algorithm": "none"},
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep with complete and diverged trials, launched from a dictionary."""
    return sweep.launch(CONFIG_OF_ALL_ENDS, sweeps_dir=tmp_path_factory.mktemp("sweeps"))


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, sweep; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "sweep" in done.stdout.split()
    assert not {"numpy", "pandas", "ray", "optuna", "rich", "typer"} & {*done.stdout.split()}


@pytest.mark.slow
def test_launch_gives_the_sweep_that_load_gives(launched: Sweep) -> None:
    again = sweep.load("ends", sweeps_dir=launched.directory.parent)
    assert again == launched
    assert again.state == "finished"
    assert again.config.name == "ends"


@pytest.mark.slow
def test_trials_are_a_table_with_a_column_for_each_parameter(launched: Sweep) -> None:
    table = launched.trials()
    _, trials = read_sweep(launched.directory)
    assert list(table.columns[:6]) == ["number", "state", "value", "epochs", "seconds", "schedule"]
    assert list(table["number"]) == [0, 1, 2]
    assert list(table["state"]) == ["complete", "diverged", "complete"]
    assert list(table["epochs"]) == [len(trial.reports) for trial in trials]
    value = trials[0].value
    assert value is not None
    np.testing.assert_array_equal(table["value"][:2], [value, np.nan])
    assert min(table["seconds"]) > 0
    assert list(table["peak_lr"]) == [0.1, 1e20, 0.01]
    assert list(table["final_fraction"].isna()) == [False, True, True]


@pytest.mark.slow
def test_best_is_the_best_complete_trial(launched: Sweep) -> None:
    table, best = launched.trials(), launched.best()
    assert best["value"] == table["value"].max()
    assert best["trial"] == table["number"][table["value"].idxmax()]


@pytest.mark.slow
def test_a_curve_is_the_one_that_was_applied(launched: Sweep) -> None:
    record, trials = read_sweep(launched.directory)
    planned = learning_rate_curve(
        trials[0].space, num_epochs=4, steps_per_epoch=record.steps_per_epoch
    )
    curve = launched.curve(0)
    assert curve.dtype == np.float32
    np.testing.assert_array_equal(curve, planned)
    cut = launched.curve(1)  # it diverged
    assert len(cut) == len(trials[1].reports) * record.steps_per_epoch
    assert 0 < len(cut) < len(curve) or len(trials[1].reports) == 4
    np.testing.assert_array_equal(cut, np.float32(1e20))


@pytest.mark.slow
def test_figures_are_those_of_the_report(launched: Sweep) -> None:
    assert isinstance(launched.figure("atlas"), go.Figure)
    with pytest.raises(CommandError, match=r"^a figure is one of atlas, .*, but got 'map'$"):
        launched.figure("map")


@pytest.mark.slow
def test_launch_refuses_what_the_command_refuses(launched: Sweep) -> None:
    sweeps_dir = launched.directory.parent
    with pytest.raises(CommandError, match=r"the name ends is taken by .*give another") as taken:
        sweep.launch(CONFIG_OF_ALL_ENDS, sweeps_dir=sweeps_dir)
    assert taken.value.exit_code == 4
    with pytest.raises(ConfigError, match="did you mean 'num_trials'"):
        sweep.launch("quickstart", overrides=["search.num_trails=3"], sweeps_dir=sweeps_dir)
    with pytest.raises(CommandError, match="there is no trial 3; there are 3, from 0 on"):
        launched.curve(3)
    with pytest.raises(CommandError, match=r"no sweep end in .*did you mean ends"):
        sweep.load("end", sweeps_dir=sweeps_dir)
    unreachable = {"sweeps_dir": sweeps_dir, "name": "far", "storage": "sqlite:////no/such/x.db"}
    with pytest.raises(CommandError, match="the launch of far ended with exit code 5: ") as ended:
        sweep.launch(CONFIG_OF_ALL_ENDS, **unreachable)
    assert ended.value.exit_code == 5


def test_a_sweep_without_trials_has_an_empty_table_and_no_best(tmp_path: Path) -> None:
    facts = {"config_sha256": "c" * 64, "dataset_digest": "d" * 64}
    uri = "http://localhost:1"
    config = parse_config(CONFIG)
    create_ledger(
        tmp_path / "rates",
        config,
        storage=None,
        tracking_uri=uri,
        steps_per_epoch=2,
        facts=facts,
    )
    empty = sweep.load("rates", sweeps_dir=tmp_path)
    assert list(empty.trials().columns) == ["number", "state", "value", "epochs", "seconds"]
    assert empty.state == "interrupted"
    with pytest.raises(CommandError, match="no trial of rates is complete"):
        empty.best()


INTERRUPTED = """
import signal
import sweep
signal.signal(signal.SIGINT, signal.default_int_handler)  # even where this was started without
try:
    sweep.launch("quickstart", name="long", overrides=["training.num_epochs=3000"])
except KeyboardInterrupt:
    print("raised", sweep.load("long").state)
"""


@pytest.mark.slow
def test_an_interrupt_lets_the_running_epochs_finish_and_is_raised(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not list(tmp_path.glob("sweeps/long/trials/*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert said.splitlines()[-1] == "raised interrupted"
    assert "stopping after the running epochs" in said
    assert not list((tmp_path / "sweeps").glob(".long*"))


@pytest.mark.slow
def test_the_page_about_notebooks_runs(tmp_path: Path) -> None:
    page = PAGE.read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("finished 8")
    assert ", ".join(f"`{name}`" for name in FIGURES) in " ".join(page.split())
