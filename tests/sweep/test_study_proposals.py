"""What the ledger proposes: from samplers, grids and enqueued points, and after a resume."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search_spaces import point_to_parameters
from sweep.budget import raise_budget
from sweep.directory import open_ledger, read_sweep
from sweep.errors import CommandError
from sweep.halt import Leave
from sweep.study import Ledger
from tests.sweep.ledgers import EPOCHS, ONE_FAMILY, RATES, create, handed_out, report, trained


def test_enqueued_points_come_first_and_in_order(ledger: Ledger, tmp_path: Path):
    points = [
        "{schedule: {constant: {peak_lr: 1}}, momentum: 0}",
        "{schedule: {cosine_decay: {peak_lr: 0.3, final_fraction: 0}}, momentum: 0.5}",
        "{schedule: {constant: {peak_lr: 0.001}}, momentum: 0.9}",
    ]
    storage = json.loads((ledger.directory / "sweep.json").read_text())["storage"]
    queued = create(tmp_path / "queued", f"enqueue=[{', '.join(points)}]", storage=storage)
    assert (queued.asked(), queued.trials()) == (0, [])
    assert [queued.ask() for _ in range(4)] == [0, 1, 2, 3]
    spaces = [trial.space for trial in queued.trials()]
    assert spaces[:3] == list(queued.config.enqueue)
    assert spaces[3] not in spaces[:3]


GRID = "space={schedule: {constant: {peak_lr: {choice: [0.1, 0.2]}}, cosine_decay: {peak_lr: 0.5,"
GRID += " decay_epochs: {int_uniform: [2, 4]}}}, momentum: {choice: [0, 0.9]}}"


def test_a_grid_has_each_of_its_points_once(tmp_path: Path):
    # One of them enqueued: it comes first, and is not run twice.
    point = "{schedule: {cosine_decay: {decay_epochs: 3}}, momentum: 0.9}"
    rules = [GRID, "search={algorithm: grid}", f"enqueue=[{point}]"]
    ledger = create(tmp_path / "grid", *rules)
    for _ in range(10):
        ledger.ask()
    parameters = [trial.parameters for trial in ledger.trials()]
    points = [
        (p["schedule"], p["peak_lr"], p.get("decay_epochs"), p["momentum"]) for p in parameters
    ]
    constant = [("constant", lr, None, m) for lr in (0.1, 0.2) for m in (0, 0.9)]
    cosine = [("cosine_decay", 0.5, epochs, m) for epochs in (2, 3, 4) for m in (0, 0.9)]
    assert points[0] == ("cosine_decay", 0.5, 3, 0.9)
    assert sorted(points, key=str) == sorted(constant + cosine, key=str)


@pytest.mark.parametrize(
    "family",
    [
        "constant: {peak_lr: {choice: [0.1, 0.1000005, 0.2]}}",
        "cosine_decay: {peak_lr: 0.1, decay_steps: {int_uniform: [200000, 200002]}}",
        'custom: {function: "trainers.schedules:divide_by_three", x: {choice: [1, true, 0]}}',
    ],
)
def test_points_that_are_near_each_other_are_different_points(tmp_path: Path, family: str):
    space = f"space={{schedule: {{{family}}}}}"
    ledger = create(tmp_path / "grid", space, "search={algorithm: grid}")
    assert len(ledger.study.get_trials(states=(TrialState.WAITING,))) == 3


@pytest.mark.parametrize("algorithm", ["tpe", "random", "cmaes"])
def test_every_sampler_stays_in_the_space(tmp_path: Path, algorithm: str):
    shape = "decay_epochs: {int_uniform: [1, 4]}}}, momentum: {uniform: [0, 0.9]}"
    one = "space={schedule: {cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}, " + shape + "}"
    overrides = [one] if algorithm == "cmaes" else []
    ledger = create(tmp_path / "rates", *overrides, f"search.algorithm={algorithm}")
    states = ["complete", "complete", "pruned", "diverged", "failed"]
    for index in range(15):
        trained(ledger, states[index % 5], *[index / 15] * EPOCHS)
    for trial, frozen in zip(ledger.trials(), ledger.study.trials, strict=True):
        assert point_to_parameters(ledger.config, trial.space) == frozen.params
    assert len({str(trial.space) for trial in ledger.trials()}) == 15


@pytest.mark.parametrize("algorithm", ["tpe", "random", "cmaes"])
def test_the_seed_decides_the_first_proposals(tmp_path: Path, algorithm: str):
    def proposals(name: str, seed: int) -> list[dict[str, Any]]:
        overrides = [ONE_FAMILY % RATES] if algorithm == "cmaes" else []
        overrides += [f"search.algorithm={algorithm}", f"search.seed={seed}"]
        ledger = create(tmp_path / name, *overrides)
        for index in range(3):
            trained(ledger, "complete", *[index / 3] * EPOCHS)
        return [trial.space for trial in ledger.trials()]

    first = proposals("first", 5)
    assert proposals("again", 5) == first
    assert proposals("other", 6) != first


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_resumed_sweep_does_not_repeat_its_proposals(tmp_path: Path, seed: int):
    ledger = create(tmp_path / "rates", f"search.seed={seed}")
    for _ in range(3):
        trained(ledger, "complete", *[0.5] * EPOCHS)
    again = open_ledger(tmp_path / "rates", proposing=True)
    for _ in range(3):
        trained(again, "complete", *[0.5] * EPOCHS)
    assert len({str(trial.space) for trial in again.trials()}) == 6


def test_asked_counts_every_trial_that_was_started(ledger: Ledger, tmp_path: Path):
    trained(ledger, "complete", *[0.5] * EPOCHS)
    trained(ledger, "failed")
    ledger.ask()
    assert ledger.asked() == 3
    assert open_ledger(ledger.directory).asked() == 3


def test_a_schedule_that_is_not_valid_is_a_failed_trial_with_the_reason(tmp_path: Path):
    source = "def rate(tick, *, limit):\n    return [0.1, 0.2, 0.3, 0.4, 0.5][tick + limit]\n"
    (tmp_path / "rates.py").write_text(source)
    body = f"{{function: {tmp_path}/rates.py:rate, interval: epoch, limit: {{choice: [0, 1, 2]}}}}"
    space = f"space={{schedule: {{custom: {body}}}}}"
    ledger = create(tmp_path / "rates", space, "search={algorithm: grid}")
    assert [ledger.ask(), ledger.ask()] == [0, 1]
    with pytest.raises(ValueError, match="raised IndexError: list index out of range"):
        ledger.ask()
    for trials in (ledger.trials(), open_ledger(ledger.directory).trials()):
        assert [trial.state for trial in trials] == ["running", "running", "failed"]
        told = trials[2].message.splitlines()
        assert told[-1].startswith("the schedule is not valid: function must return a")
        assert "return [0.1, 0.2, 0.3, 0.4, 0.5][tick + limit]" in trials[2].message
        assert trials[2].parameters["limit"] == 2
        assert (trials[2].reports, trials[2].value) == ((), None)
    assert (ledger.asked(), ledger.interrupted()) == (3, [0, 1])
    assert ledger.study.trials[2].state == TrialState.FAIL


def test_a_grid_ends_with_its_last_point(tmp_path: Path):
    ledger = create(tmp_path / "grid", GRID, "search={algorithm: grid}")
    jobs = handed_out(ledger, 12)
    assert jobs[10:] == ["FINISHED", "FINISHED"]
    assert [job["number"] for job in jobs[:10]] == list(range(10))


OWN = "space={schedule: {custom: {function: '%s:rule', height: {uniform: [0.1, 1]}}}}"


@pytest.mark.parametrize("change", ["HEIGHT = 2.0\n", "raise OSError\n"])
def test_a_trial_goes_on_with_the_curve_it_began_with_or_not_at_all(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
):
    """What its function imports is not kept with the sweep, but a change of it is found."""
    (tmp_path / "lengths.py").write_text("HEIGHT = 1.0\n")
    rule = "def rule(t, *, height):\n    return height * __import__('lengths').HEIGHT\n"
    (tmp_path / "rules.py").write_text(rule)
    monkeypatch.syspath_prepend(tmp_path)
    ledger = create(tmp_path / "rates", OWN % (tmp_path / "rules.py"))
    accepted = [ledger.ask(), ledger.ask()]
    ledger.record(0, report(1))
    before = [trial.parameters for trial in ledger.trials()]
    (tmp_path / "lengths.py").write_text(change)
    monkeypatch.delitem(sys.modules, "lengths")
    again = open_ledger(tmp_path / "rates", proposing=True)
    with pytest.raises(Leave):
        handed_out(again, 1)
    assert [trial.parameters for trial in again.trials()] == before
    assert again.interrupted() == accepted
    open_ledger(tmp_path / "rates", proposing=True).cancel()
    assert {trial.state for trial in read_sweep(tmp_path / "rates")[1]} == {"cancelled"}


def test_a_grid_that_was_stopped_goes_on_to_its_last_point(tmp_path: Path):
    points = "space={schedule: {constant: {peak_lr: {choice: [0.1, 0.2, 0.3]}}}}"
    ledger = create(tmp_path / "rates", points, "search.algorithm=grid")
    raise_budget(ledger, {"num_trials": 3})
    with pytest.raises(CommandError, match="a grid must be at most 3, its points, but got 4"):
        raise_budget(ledger, {"num_trials": 4})
    for hours in (math.inf, math.nan):
        with pytest.raises(CommandError, match="a resume may only raise hours"):
            raise_budget(create(tmp_path / str(hours), "search.hours=1"), {"hours": hours})
