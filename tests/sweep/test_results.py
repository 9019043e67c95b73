"""What comes out of a sweep: order, names, and the config that trains the best again."""

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import is_concrete, load_config, parse_config, sample_space
from sweep.errors import CommandError
from sweep.records import SweepRecord, TrialRecord
from sweep.results import (
    best_config,
    best_config_yaml,
    best_trial,
    exportable_trial,
    leaderboard,
    shown_state,
    summary,
    trial_name,
    trial_summary,
)

CONFIG = """
version: 1
name: rates
description: Which rate?
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 4, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}, final_fraction: {choice: [0, 0.1]}}
    piecewise_constant: {values: [{uniform: [0, 1]}, 0.01], boundaries_fraction: [0.5]}
  momentum: {uniform: [0, 0.9]}
  warmup_fraction: 0.1
enqueue: [{schedule: {constant: {peak_lr: 0.5}}, momentum: 0}]
search: {algorithm: tpe, num_trials: 8, target: 0.9}
pruning: {algorithm: asha}
tracking: {experiment: digits}
"""
MAXIMIZE = parse_config(CONFIG)
MINIMIZE = parse_config(CONFIG, overrides=["search.metric=val_loss"])
COSINE = {"schedule": {"cosine_decay": {"peak_lr": 0.1 + 0.2, "final_fraction": 0.1}}}
POINTS: list[dict[str, Any]] = [
    {"schedule": {"constant": {"peak_lr": 1 / 3}}, "momentum": 0.5, "warmup_fraction": 0.1},
    {**COSINE, "momentum": 5e-324, "warmup_fraction": 0.1},
    {
        "schedule": {"piecewise_constant": {"values": [0.7, 0.01], "boundaries_fraction": [0.5]}},
        "momentum": 0.8999999999999999,
        "warmup_fraction": 0.1,
    },
]


def trial(
    number: int = 0,
    state: str = "complete",
    value: float | None = 0.5,
    *,
    epochs: int = 4,
    space: dict[str, Any] = POINTS[0],
    parameters: dict[str, Any] | None = None,
    curve_sha256: str = "a" * 64,
) -> TrialRecord:
    return TrialRecord(
        number=number,
        state=state,
        space=space,
        parameters=parameters or {"schedule": "constant", "peak_lr": 1 / 3, "momentum": 0.5},
        reports=tuple({"epoch": epoch} for epoch in range(1, epochs + 1)),
        value=value,
        curve_sha256=curve_sha256,
        started_ms=1,
        ended_ms=None if state == "running" else 2,
        message="",
    )


def sweep(state: str = "finished", **changes: Any) -> SweepRecord:
    facts = {"config_sha256": "c" * 64, "dataset_digest": "d" * 64}
    record = SweepRecord(
        *("rates", Path("sweeps/rates"), MAXIMIZE, state, 10, 0),
        *("http://localhost:5000", "sweep", facts),
    )
    return record._replace(**changes)


BOARDS = [
    ([], [], []),
    ([("complete", 0.1), ("complete", 0.3), ("complete", 0.2)], [1, 2, 0], [0, 2, 1]),
    ([("pruned", 0.9), ("complete", 0.5), ("pruned", 0.1)], [1, 0, 2], [1, 2, 0]),
    ([("complete", 0.5), ("complete", 0.5), ("complete", 0.5)], [0, 1, 2], [0, 1, 2]),
    ([("pruned", 0.5), ("complete", 0.5), ("failed", 0.5)], [1, 0, 2], [1, 0, 2]),
    ([("diverged", None), ("failed", None), ("complete", 0.5), ("running", None)], [2], [2]),
    ([("running", 0.7), ("failed", 0.6), ("complete", 0.0)], [2, 0, 1], [2, 1, 0]),
    ([("complete", 0.0), ("complete", -0.0), ("complete", 1e-9)], [2, 0, 1], [0, 1, 2]),
]


@pytest.mark.parametrize(("states", "maximized", "minimized"), BOARDS)
def test_complete_trials_come_first_then_the_better_then_the_earlier(
    states: list[tuple[str, float | None]], maximized: list[int], minimized: list[int]
):
    trials = [trial(number, *rest) for number, rest in enumerate(states)]
    for given in (trials, trials[::-1]):
        assert [t.number for t in leaderboard(MAXIMIZE, given)] == maximized
        assert [t.number for t in leaderboard(MINIMIZE, given)] == minimized


@pytest.mark.parametrize(
    ("states", "best"),
    [
        ([], None),
        ([("pruned", 0.9), ("failed", 0.8), ("running", 0.7), ("diverged", None)], None),
        ([("pruned", 0.9), ("complete", 0.1)], 1),
        ([("complete", 0.5), ("complete", 0.7), ("complete", 0.7)], 1),
    ],
)
def test_the_best_trial_is_a_complete_one(states: list[tuple[str, float | None]], best: int | None):
    trials = [trial(number, *rest) for number, rest in enumerate(states)]
    found = best_trial(MAXIMIZE, trials)
    assert (found and found.number) == best


@pytest.mark.parametrize(
    ("number", "parameters", "name"),
    [
        (7, {"schedule": "cosine_decay", "peak_lr": 0.0031}, "0007-cosine_decay-peak3.1e-3"),
        (0, {"schedule": "constant", "peak_lr": 0.5}, "0000-constant-peak5.0e-1"),
        (12345, {"schedule": "constant", "peak_lr": 1}, "12345-constant-peak1.0e0"),
        (1, {"schedule": "constant", "peak_lr": 0.00996}, "0001-constant-peak1.0e-2"),
        (1, {"schedule": "constant", "peak_lr": 1.24e-11}, "0001-constant-peak1.2e-11"),
        (1, {"schedule": "constant", "peak_lr": 30.0}, "0001-constant-peak3.0e1"),
        (1, {"schedule": "constant", "peak_lr": 0}, "0001-constant-peak0.0e0"),
        (3, {"schedule": "piecewise_constant", "values.0": 0.1}, "0003-piecewise_constant"),
        (8, {"schedule": "custom", "init_lr": 0.1}, "0008-custom"),
    ],
)
def test_a_trial_goes_by_number_family_and_peak(number: int, parameters: dict[str, Any], name: str):
    assert trial_name(trial(number, parameters=parameters)) == name


@pytest.mark.parametrize(
    ("of_sweep", "of_trial", "shown"),
    [
        ("running", "running", "running"),
        ("interrupted", "running", "interrupted"),
        ("finished", "running", "interrupted"),
        ("interrupted", "complete", "complete"),
        ("failed", "diverged", "diverged"),
    ],
)
def test_a_trial_without_an_end_is_interrupted_once_its_sweep_is(
    of_sweep: str, of_trial: str, shown: str
):
    assert shown_state(sweep(of_sweep), trial(0, of_trial)) == shown


def test_a_summary_is_plain_and_holds_no_password():
    trials = [trial(0), trial(1, value=0.75), trial(2, "pruned", 0.9), trial(3, "running", None)]
    found = summary(sweep(tracking_uri="https://ada:secret@host/mlflow"), trials)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "secret" not in str(found)
    assert found["tracking_uri"] == "https://host/mlflow"
    assert found["trials"] == {"complete": 2, "interrupted": 1, "pruned": 1}
    assert found["best"] == trial_summary(trials[1])
    assert (found["name"], found["state"], found["num_trials"]) == ("rates", "finished", 8)
    assert summary(sweep(), [])["best"] is None


def test_the_summary_of_a_trial():
    found = trial_summary(trial(7, "pruned", 0.25, epochs=3))
    assert found == {
        "trial": 7,
        "run_name": "0007-constant-peak3.3e-1",
        "state": "pruned",
        "value": 0.25,
        "epochs": 3,
        "parameters": {"schedule": "constant", "peak_lr": 1 / 3, "momentum": 0.5},
        "curve_sha256": "a" * 64,
        "message": "",
    }


TRIALS = [trial(0), trial(1, value=0.75), trial(2, "pruned", 0.9), trial(4, "running", None)]


@pytest.mark.parametrize(("asked", "number"), [(None, 1), (0, 0), (1, 1)])
def test_any_complete_trial_can_be_exported_and_the_best_is_first(asked: int | None, number: int):
    assert exportable_trial(sweep(), TRIALS, asked).number == number


@pytest.mark.parametrize(
    ("trials", "asked", "message"),
    [
        ([], None, "no trial of rates is complete, so none can be exported"),
        (TRIALS[2:], None, "no trial of rates is complete, so none can be exported"),
        (TRIALS, 2, "only a complete trial can be exported, but trial 2 is pruned"),
        (TRIALS, 3, "only a complete trial can be exported, but trial 3 is unknown"),
        (TRIALS, 4, "only a complete trial can be exported, but trial 4 is running"),
        (TRIALS, -1, "only a complete trial can be exported, but trial -1 is unknown"),
    ],
)
def test_only_a_complete_trial_can_be_exported(
    trials: list[TrialRecord], asked: int | None, message: str
):
    with pytest.raises(CommandError, match=f"^{message}$") as caught:
        exportable_trial(sweep(), trials, asked)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("space", POINTS, ids=lambda space: next(iter(space["schedule"])))
@pytest.mark.parametrize("value", [0.1 + 0.2, 1.0, 5e-324, 1e22, 12345678.123456789])
def test_the_exported_config_reads_back_as_the_same_training(
    tmp_path: Path, space: dict[str, Any], value: float
):
    chosen = trial(7, value=value, space=space)
    path = tmp_path / "best.yaml"
    path.write_text(best_config_yaml(sweep(), chosen))
    config = load_config(path)
    assert config == best_config(sweep(), chosen)
    assert is_concrete(config)
    assert sample_space(config, lambda name, spread: pytest.fail(f"{name} is free")) == space
    assert (config.data, config.training) == (MAXIMIZE.data, MAXIMIZE.training)
    assert (config.resources, config.tracking) == (MAXIMIZE.resources, MAXIMIZE.tracking)
    assert (config.name, config.description) == ("rates-best0007", "Which rate?")
    assert (config.search.num_trials, config.search.target) == (1, None)
    assert (config.enqueue, config.pruning.algorithm) == ((), "none")
    assert config.expected == {
        "sweep": "rates",
        "trial": 7,
        "metric": "val_accuracy",
        "value": value,
        "curve_sha256": "a" * 64,
        "config_sha256": "c" * 64,
        "dataset_digest": "d" * 64,
    }


@pytest.mark.parametrize("digits", ["0", "1", "1e", "0x", "12e3", "1_0", "0o7", "-"])
def test_a_hash_that_looks_like_a_number_stays_a_text(digits: str):
    looks = digits.ljust(64, "1")
    facts = {"config_sha256": looks, "dataset_digest": looks}
    text = best_config_yaml(sweep(facts=facts), trial(curve_sha256=looks))
    expected = parse_config(text).expected or {}
    names = ("config_sha256", "dataset_digest", "curve_sha256")
    assert [expected[name] for name in names] == [looks] * 3


@pytest.mark.parametrize("name", ["1", "2024", "1e3", "true", "null", "a" * 64, "x.y_z-"])
@pytest.mark.parametrize("number", [0, 12345, 999_999])
def test_every_name_and_number_gives_a_name_that_can_be_launched(name: str, number: int):
    text = best_config_yaml(sweep(name=name), trial(number))
    config = parse_config(text)
    assert config.name.endswith(f"-best{number:04d}")
    assert config.expected is not None
    assert config.expected["sweep"] == name


def test_the_exported_text_says_where_it_is_from():
    first, second, *_ = best_config_yaml(sweep(), trial(7, value=0.75)).splitlines()
    assert first == "# Trial 7 of the sweep rates: val_accuracy = 0.75."
    assert second == "# Train it again with: sweep train best.yaml"
