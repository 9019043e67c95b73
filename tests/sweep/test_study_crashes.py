"""What the ledger holds after its process was interrupted, killed, or cut off in a line."""

import signal
from pathlib import Path
from typing import Any

import pytest

from search_spaces import parse_config, point_to_parameters
from sweep.directory import open_ledger, read_sweep
from sweep.lines import append_lines, sealed
from sweep.metrics import read_reports
from sweep.study import Ledger
from tests.sweep.ledgers import CONFIG, EPOCHS, create, handed_out, python, report, trained


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


@pytest.mark.parametrize("text", [None, "", "version: 1\nname", "# ours\n" + CONFIG])
def test_a_config_file_that_is_gone_or_damaged_is_written_again(tmp_path: Path, text: str | None):
    path = create(tmp_path / "rates").directory / "config.yaml"
    before = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert read_sweep(tmp_path / "rates")[0].config == parse_config(CONFIG)
    assert path.read_text() == before


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
