"""The ledger: every trial is recorded once, in full, and is found again after any cut."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from search_spaces import config_to_yaml, parse_config
from sweep.budget import is_spent
from sweep.delivery import absolute_uri
from sweep.directory import create_ledger, open_ledger, read_sweep
from sweep.errors import CommandError
from sweep.study import Ledger
from tests.sweep.ledgers import CONFIG, EPOCHS, FACTS, create, python, report, trained

AWKWARD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22, 0.8682000041007996]


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
