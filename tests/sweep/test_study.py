"""The ledger: every trial is recorded once, in full, and is found again after any cut."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search_spaces import config_to_yaml, parse_config, point_to_parameters
from sweep.budget import is_spent, raise_budget
from sweep.delivery import absolute_uri
from sweep.directory import create_ledger, open_ledger, read_sweep
from sweep.errors import CommandError
from sweep.halt import Halt, Leave
from sweep.lines import append_lines, sealed
from sweep.metrics import read_reports
from sweep.study import Ledger

EPOCHS = 4
CONFIG = """
version: 1
name: rates
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 4, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}, final_fraction: {choice: [0, 0.1]}}
  momentum: {uniform: [0, 0.9]}
search: {algorithm: random, num_trials: 8}
"""
ONE_FAMILY = "space={schedule: {constant: {peak_lr: {log_uniform: [1e-3, 1]}}}, %s}"
RATES = "momentum: {uniform: [0, 0.9]}"
FACTS = {"user": "ada", "config_sha256": "c" * 64, "dataset_digest": "d" * 64}
AWKWARD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22, 0.8682000041007996]


def create(directory: Path, *overrides: str, storage: str | None = None) -> Ledger:
    return create_ledger(
        directory,
        parse_config(CONFIG, overrides=overrides),
        storage=storage,
        tracking_uri="http://localhost:5000",
        steps_per_epoch=10,
        facts=FACTS,
    )


def report(epoch: int, *, diverged: bool = False, **values: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": math.nan if diverged else 1.5,
        "val_loss": math.inf if diverged else 1.25,
        "val_accuracy": 0.5,
        "learning_rate_sha256": "a" * 64,
        "seconds": 0.1,
        "diverged": diverged,
        "worker": {"node": "127.0.0.1", "pid": 7},
    } | values


def trained(ledger: Ledger, state: str, *values: float) -> int:
    """A new trial that reports these values and ends in `state`."""
    number = ledger.ask()
    for epoch, value in enumerate(values, start=1):
        ledger.record(number, report(epoch, val_accuracy=value, val_loss=value))
    ledger.end(number, state, f"so it is {state}")
    return number


def python(script: str, *arguments: object) -> "subprocess.Popen[str]":
    """Another process that runs `script` after the imports and functions of this module."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    start += "import os, signal\nfrom test_study import *\nfolder = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", start + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def handed_out(ledger: Ledger, count: int) -> list[Any]:
    """What the search gives Ray Tune when it is asked `count` times."""
    # These import Ray, which the other processes need not.
    from sweep.capacity import Capacity
    from sweep.search import LedgerSearcher, Referee
    from sweep.slots import Slots

    capacity = Capacity(Slots(1, 0, count), None)
    searcher = LedgerSearcher(ledger, Referee(ledger), Halt(ledger.directory), capacity)
    return [searcher.suggest(str(index)) for index in range(count)]


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def ledger(tmp_path: Path, storage: str | None) -> Ledger:
    return create(tmp_path / "rates", storage=storage)


def test_a_new_sweep_has_its_facts_and_no_trials(ledger: Ledger, tmp_path: Path):
    sweep = ledger.sweep()
    assert (sweep.name, sweep.directory, sweep.state) == (
        "rates",
        tmp_path / "rates",
        "interrupted",
    )
    assert (sweep.steps_per_epoch, sweep.tracking_uri) == (10, "http://localhost:5000")
    assert sweep.facts == FACTS
    assert sweep.config == parse_config(CONFIG)
    assert (ledger.trials(), ledger.asked(), ledger.interrupted()) == ([], 0, [])


@pytest.mark.parametrize(
    ("state", "values", "told"),
    [
        ("complete", [0.2, 0.4, 0.3, 0.6], TrialState.COMPLETE),
        ("pruned", [0.2, 0.4], TrialState.PRUNED),
        ("failed", [0.2, 0.4], TrialState.FAIL),
        ("failed", [], TrialState.FAIL),
    ],
)
def test_a_trial_ends_in_its_state_with_its_reports(
    ledger: Ledger, state: str, values: list[float], told: TrialState
):
    number = trained(ledger, state, *values)
    (record,) = ledger.trials()
    assert (record.number, record.state, record.message) == (number, state, f"so it is {state}")
    assert [r["epoch"] for r in record.reports] == list(range(1, len(values) + 1))
    assert record.value == (values[-1] if values else None)
    assert record.ended_ms is not None
    assert record.started_ms <= record.ended_ms
    (frozen,) = ledger.study.trials
    assert frozen.state == told
    assert frozen.intermediate_values == dict(enumerate(values, start=1))
    if state == "complete":
        assert frozen.values == [0.6]


@pytest.mark.parametrize("epochs", [1, 3, EPOCHS])
def test_a_diverged_trial_has_reports_but_no_value(ledger: Ledger, epochs: int):
    number = ledger.ask()
    for epoch in range(1, epochs):
        assert ledger.record(number, report(epoch))
    assert ledger.record(number, report(epochs, diverged=True, val_accuracy=0.99))
    ledger.end(number, "diverged", "no more")
    (record,) = ledger.trials()
    assert (record.state, record.value, len(record.reports)) == ("diverged", None, epochs)
    last = record.reports[-1]
    assert (last["train_loss"], last["val_loss"], last["diverged"]) == (None, None, True)
    (frozen,) = ledger.study.trials
    assert frozen.state == TrialState.PRUNED
    assert epochs not in frozen.intermediate_values


def test_a_running_trial_shows_what_it_has(ledger: Ledger):
    number = ledger.ask()
    assert ledger.interrupted() == [number]
    assert [(t.state, t.reports, t.value, t.ended_ms) for t in ledger.trials()] == [
        ("running", (), None, None)
    ]
    ledger.record(number, report(1, val_accuracy=0.25))
    assert [(t.state, len(t.reports), t.value) for t in ledger.trials()] == [("running", 1, 0.25)]


def test_floats_come_back_to_the_last_bit(ledger: Ledger):
    number = ledger.ask()
    for epoch, value in enumerate(AWKWARD, start=1):
        ledger.record(number, report(epoch, val_accuracy=value, val_loss=value, train_loss=value))
    ledger.end(number, "complete", "")
    (record,) = open_ledger(ledger.directory).trials()
    for name in ("val_accuracy", "val_loss", "train_loss"):
        assert [r[name].hex() for r in record.reports] == [v.hex() for v in AWKWARD]
    assert record.value == AWKWARD[-1]
    assert ledger.study.trials[0].values == [AWKWARD[-1]]


def test_another_process_reads_the_same_records(ledger: Ledger):
    trained(ledger, "complete", 0.1, 0.2, 0.3, 1 / 3)
    trained(ledger, "pruned", 0.1)
    trained(ledger, "failed")
    diverged = ledger.ask()
    ledger.record(diverged, report(1, diverged=True))
    ledger.end(diverged, "diverged", "two\nlines, and 'quotes'")
    ledger.record(ledger.ask(), report(1))
    ledger.set_state("finished")
    process = python("print(ascii(read_sweep(folder)))", ledger.directory)
    assert process.communicate()[0] == ascii((ledger.sweep(), ledger.trials())) + "\n"
    assert [t.state for t in ledger.trials()] == [
        *("complete", "pruned", "failed", "diverged", "running")
    ]


def test_an_interrupted_trial_is_taken_up_where_it_was(ledger: Ledger):
    trained(ledger, "complete", 0.1, 0.2, 0.3, 0.4)
    number = ledger.ask()
    ledger.record(number, report(1))
    ledger.record(number, report(2))
    before = ledger.trials()[number]
    again = open_ledger(ledger.directory, proposing=True)
    assert again.interrupted() == [number]
    assert len(again.reopen(number)) == 2
    assert again.trials()[number] == before
    assert again.space(number) == before.space
    assert [again.record(number, report(epoch)) for epoch in (1, 2, 3, 4)] == [
        *(False, False, True, True)
    ]
    again.end(number, "complete", "")
    assert (again.asked(), again.interrupted()) == (2, [])
    record = open_ledger(ledger.directory).trials()[number]
    assert [r["epoch"] for r in record.reports] == [1, 2, 3, 4]
    assert (record.space, record.curve_sha256) == (before.space, before.curve_sha256)


def test_an_epoch_is_recorded_once(ledger: Ledger):
    number = ledger.ask()
    assert ledger.record(number, report(1, val_accuracy=0.1)) is True
    content = ledger.metrics_path(number).read_bytes()
    assert ledger.record(number, report(1, val_accuracy=0.9)) is False
    assert ledger.metrics_path(number).read_bytes() == content


def test_a_diverged_epoch_is_recorded_once(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    number = ledger.ask()
    ledger.record(number, report(1))
    ledger.record(number, report(2, diverged=True))
    # Cut off before the trial was ended: it has no checkpoint of epoch 2, so it trains that again.
    again = open_ledger(ledger.directory, proposing=True)
    assert len(again.reopen(number)) == 2
    again.record(number, report(2, diverged=True))
    again.end(number, "diverged", "")
    assert [r["epoch"] for r in again.trials()[number].reports] == [1, 2]


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_line_that_was_cut_off_is_dropped_and_written_again(tmp_path: Path, cut: int):
    ledger = create(tmp_path / "rates")
    number = ledger.ask()
    ledger.record(number, report(1, val_accuracy=0.1))
    path = ledger.metrics_path(number)
    whole = path.read_bytes()
    path.write_bytes(whole + sealed(report(2), 0)[:cut])
    assert [r["epoch"] for r in read_reports(path)[0]] == [1]
    again = open_ledger(ledger.directory, proposing=True)
    assert len(again.reopen(number)) == 1
    assert again.record(number, report(2, val_accuracy=0.2))
    assert path.read_bytes().startswith(whole)
    assert [r["val_accuracy"] for r in read_reports(path)[0]] == [0.1, 0.2]
    assert again.study.trials[0].intermediate_values == {1: 0.1, 2: 0.2}


def test_an_epoch_that_only_reached_the_metric_file_is_told_to_the_study(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    number = ledger.ask()
    ledger.record(number, report(1, val_accuracy=0.1))
    append_lines(ledger.metrics_path(number), [report(2, val_accuracy=0.2)], 0)
    again = open_ledger(ledger.directory, proposing=True)
    assert len(again.reopen(number)) == 2
    assert again.study.trials[0].intermediate_values == {1: 0.1, 2: 0.2}


@pytest.mark.parametrize(
    "reached",
    [
        "pass",
        "trial.suggest_categorical('schedule', ('constant', 'cosine_decay'))",
        "trial.suggest_categorical('schedule', ('constant', 'cosine_decay'))\n"
        "trial.suggest_float('momentum', 0, 0.9)",
    ],
)
def test_a_trial_killed_while_it_was_proposed_is_proposed_to_the_end(tmp_path: Path, reached: str):
    create(tmp_path / "rates")
    script = f"trial = open_ledger(folder, proposing=True).study.ask()\n{reached}\n"
    process = python(f"{script}os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "rates")
    assert process.communicate() == ("", None)
    assert process.returncode == -signal.SIGKILL
    ledger = open_ledger(tmp_path / "rates", proposing=True)
    chosen = ledger.study.trials[0].params
    assert (ledger.trials(), ledger.asked(), ledger.interrupted()) == ([], 1, [0])
    assert len(ledger.reopen(0)) == 0
    (record,) = ledger.trials()
    parameters = point_to_parameters(ledger.config, record.space)
    assert parameters.items() >= chosen.items()
    assert (record.number, record.state, len(record.curve_sha256)) == (0, "running", 64)
    for epoch in range(1, EPOCHS + 1):
        assert ledger.record(0, report(epoch))
    ledger.end(0, "complete", "")
    assert ledger.ask() == 1


def test_a_driver_killed_at_any_moment_loses_no_epoch_it_had_accepted(
    tmp_path: Path, storage: str | None
):
    create(tmp_path / "rates", storage=storage)
    script = "ledger = open_ledger(folder, proposing=True); number = ledger.ask()\n"
    script += "for epoch in range(1, 10000):\n"
    script += "    ledger.record(number, report(epoch)); print(epoch, flush=True)"
    process = python(script, tmp_path / "rates")
    assert process.stdout is not None
    while int(process.stdout.readline()) < 5:
        pass
    process.kill()
    accepted = [5, *map(int, process.communicate()[0].split())][-1]
    ledger = open_ledger(tmp_path / "rates", proposing=True)
    recorded = len(ledger.reopen(0))
    assert accepted <= recorded <= accepted + 1
    assert [r["epoch"] for r in ledger.trials()[0].reports] == list(range(1, recorded + 1))
    assert list(ledger.study.trials[0].intermediate_values) == list(range(1, recorded + 1))
    assert ledger.record(0, report(recorded + 1))


def test_a_study_journal_whose_last_line_was_cut_off_is_gone_on_with(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    ledger.record(ledger.ask(), report(1))
    journal = tmp_path / "rates" / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-7])  # as by a full disk
    again = open_ledger(tmp_path / "rates", proposing=True)
    assert len(again.reopen(0)) == 1
    again.ask()
    assert [t.number for t in open_ledger(tmp_path / "rates").trials()] == [0, 1]


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


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.yaml", ("num_trials: 8", "num_trials: 9"), r"but search\.num_trials changed"),
        ("sweep.json", None, "rates is not a sweep: it holds no sweep.json"),
        (
            "sweep.json",
            ('"format": 2', '"format": 9'),
            "must have format 2, but it has 9",
        ),
        ("sweep.json", ("5000", "5001"), "sweep.json must be as written, but it is not"),
        ("study.journal", None, "study.journal must hold the study of"),
    ],
)
def test_a_directory_that_is_not_the_sweep_it_was_is_refused(
    tmp_path: Path, file: str, change: tuple[str, str] | None, message: str
):
    path = create(tmp_path / "rates").directory / file
    if change is None:
        path.unlink()
    else:
        text = path.read_text()
        assert change[0] in text
        path.write_text(text.replace(*change))
    with pytest.raises(CommandError, match=message):
        read_sweep(tmp_path / "rates")


@pytest.mark.parametrize("text", [None, "", "version: 1\nname", "# ours\n" + CONFIG])
def test_a_config_file_that_is_gone_or_damaged_is_written_again(tmp_path: Path, text: str | None):
    path = create(tmp_path / "rates").directory / "config.yaml"
    before = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert read_sweep(tmp_path / "rates")[0].config == parse_config(CONFIG)
    assert path.read_text() == before


def test_the_frozen_config_is_the_one_that_was_launched(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    assert (tmp_path / "rates" / "config.yaml").read_text() == config_to_yaml(ledger.config)


def test_a_directory_that_is_there_is_left_alone(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    trained(ledger, "failed")
    with pytest.raises(CommandError, match="exists already"):
        create(tmp_path / "rates")
    assert len(open_ledger(tmp_path / "rates").trials()) == 1


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:////no/such/folder/studies.db"])
def test_a_storage_that_cannot_be_used_is_a_persons_mistake(tmp_path: Path, storage: str):
    with pytest.raises(CommandError, match="storage"):
        create(tmp_path / "rates", storage=storage)


def test_a_name_that_is_taken_in_the_storage_is_a_persons_mistake(tmp_path: Path):
    storage = f"sqlite:///{tmp_path}/studies.db"
    create(tmp_path / "here" / "rates", storage=storage)
    with pytest.raises(CommandError, match="rates"):
        create(tmp_path / "there" / "rates", storage=storage)


def test_asked_counts_every_trial_that_was_started(ledger: Ledger, tmp_path: Path):
    trained(ledger, "complete", *[0.5] * EPOCHS)
    trained(ledger, "failed")
    ledger.ask()
    assert ledger.asked() == 3
    assert open_ledger(ledger.directory).asked() == 3


@pytest.mark.parametrize(
    ("metric", "state", "value", "reached"),
    [
        ("val_accuracy", "complete", 0.8, True),
        ("val_accuracy", "complete", 0.9, True),
        ("val_accuracy", "complete", 0.79, False),
        ("val_accuracy", "pruned", 0.9, False),
        ("val_accuracy", "failed", 0.9, False),
        ("val_loss", "complete", 0.8, True),
        ("val_loss", "complete", 0.7, True),
        ("val_loss", "complete", 0.81, False),
        ("val_loss", "pruned", 0.1, False),
    ],
)
def test_only_a_complete_trial_reaches_the_target(
    tmp_path: Path, metric: str, state: str, value: float, reached: bool
):
    ledger = create(tmp_path / "rates", f"search.metric={metric}", "search.target=0.8")
    assert not is_spent(ledger, 0)
    worse = 0.1 if metric == "val_accuracy" else 2.0
    trained(ledger, state, *[0.5] * (EPOCHS - 1), value)
    trained(ledger, "complete", *[worse] * EPOCHS)
    assert is_spent(ledger, 0) == reached


def test_without_a_target_none_is_reached(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    trained(ledger, "complete", *[1.0] * EPOCHS)
    assert not is_spent(ledger, 0)


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


def test_a_reader_that_is_open_sees_what_is_written(ledger: Ledger):
    reader = open_ledger(ledger.directory)
    number = ledger.ask()
    assert [t.state for t in reader.trials()] == ["running"]
    for epoch in range(1, EPOCHS + 1):
        ledger.record(number, report(epoch))
    ledger.end(number, "complete", "")
    ledger.set_state("finished")
    assert reader.trials() == ledger.trials()
    assert reader.sweep().state == "finished"


def test_reading_writes_nothing(tmp_path: Path):
    ledger = create(tmp_path / "rates")
    trained(ledger, "complete", *[0.5] * EPOCHS)
    ledger.ask()

    def files() -> dict[Path, bytes]:
        paths = (tmp_path / "rates").rglob("*")
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before = files()
    read_sweep(tmp_path / "rates")
    assert files() == before


def test_a_grid_ends_with_its_last_point(tmp_path: Path):
    ledger = create(tmp_path / "grid", GRID, "search={algorithm: grid}")
    jobs = handed_out(ledger, 12)
    assert jobs[10:] == ["FINISHED", "FINISHED"]
    assert [job["number"] for job in jobs[:10]] == list(range(10))


def test_a_trial_that_only_lacked_its_end_is_complete_not_trained_again(tmp_path: Path):
    ledger = create(tmp_path / "rates", "search.num_trials=1")
    number = ledger.ask()
    for epoch in range(1, EPOCHS + 1):
        ledger.record(number, report(epoch))
    # Cut off here. Training that has no epoch left to report looks like a failure to Tune.
    again = open_ledger(tmp_path / "rates", proposing=True)
    assert handed_out(again, 1) == ["FINISHED"]
    assert [(t.state, t.value) for t in again.trials()] == [("complete", 0.5)]


@pytest.mark.parametrize(
    ("last", "state"),
    [(report(EPOCHS), "complete"), (report(EPOCHS - 1, diverged=True), "diverged")],
)
def test_a_trial_that_only_lacked_its_end_is_not_cancelled(
    tmp_path: Path, last: dict[str, Any], state: str
):
    ledger = create(tmp_path / "rates")
    numbers = [ledger.ask(), ledger.ask()]
    for epoch in range(1, last["epoch"]):
        ledger.record(numbers[0], report(epoch))
    ledger.record(numbers[0], last)
    ledger.record(numbers[1], report(1))
    open_ledger(tmp_path / "rates", proposing=True).cancel()
    assert [trial.state for trial in read_sweep(tmp_path / "rates")[1]] == [state, "cancelled"]


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


def test_a_sweep_is_given_up_for_good(tmp_path: Path):
    """Another trial that still runs does not make the failures forgotten."""
    from sweep.search import Referee

    ledger = create(tmp_path / "rates")
    numbers = [ledger.ask() for _ in range(4)]
    referee = Referee(ledger)
    for number in numbers[:3]:
        referee.fail(number, "no reason")
    ledger.record(numbers[3], report(1))
    referee.judge(numbers[3], ledger.space(numbers[3]), report(1))
    assert referee.given_up


def test_a_sweep_remembers_where_it_is_delivered_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the folder and the environment of later commands."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    create_ledger(
        tmp_path / "rates",
        parse_config(CONFIG),
        storage="sqlite:///studies.db",
        tracking_uri="sqlite:///runs.db",
        steps_per_epoch=10,
        facts=FACTS,
    ).ask()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    sweep, trials = read_sweep(tmp_path / "rates")
    assert len(trials) == 1
    assert sweep.experiment == "ours"
    assert sweep.tracking_uri == f"sqlite:///{tmp_path}/runs.db"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///a.db", "sqlite:///{here}/a.db"),
        ("sqlite:///a.db?timeout=5", "sqlite:///{here}/a.db?timeout=5"),
        ("sqlite:////b/a.db", "sqlite:////b/a.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("postgresql://ada@host/db", "postgresql://ada@host/db"),
    ],
)
def test_a_relative_address_is_made_absolute(uri: str, expected: str):
    assert absolute_uri(uri) == expected.format(here=Path.cwd())


def test_a_grid_that_was_stopped_goes_on_to_its_last_point(tmp_path: Path):
    points = "space={schedule: {constant: {peak_lr: {choice: [0.1, 0.2, 0.3]}}}}"
    ledger = create(tmp_path / "rates", points, "search.algorithm=grid")
    raise_budget(ledger, {"num_trials": 3})
    with pytest.raises(CommandError, match="a grid must be at most 3, its points, but got 4"):
        raise_budget(ledger, {"num_trials": 4})
    for hours in (math.inf, math.nan):
        with pytest.raises(CommandError, match="a resume may only raise hours"):
            raise_budget(create(tmp_path / str(hours), "search.hours=1"), {"hours": hours})
