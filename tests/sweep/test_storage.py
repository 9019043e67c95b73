"""A study in a database: only its driver writes, what it holds runs no code, and it may be away."""

import os
import pickle
import shutil
import sqlite3
import time
from pathlib import Path

import optuna
import pytest

from sweep.directory import latest_driver, open_ledger
from sweep.driver import driven
from sweep.errors import CommandError
from sweep.lease import STALE_S, LeaseLostError
from sweep.naming import create_study
from tests.sweep.ledgers import ONE_FAMILY, RATES, create, report, trained

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def opened(storage: str) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(0)
    return optuna.load_study(study_name="rates", storage=storage, sampler=sampler)


def test_every_write_of_a_driver_that_was_taken_over_from_is_refused(tmp_path: Path, storage: str):
    create(tmp_path / "rates", storage=storage)
    with driven(tmp_path / "rates") as old:
        number = old.ask()
        old.record(number, report(1))
        trial = old._live[number]
        then = time.time() - 3 * STALE_S
        os.utime(tmp_path / "rates" / "drivers" / "0001.json", (then, then))
        claim = opened(storage).user_attrs["driver"]
        opened(storage).set_user_attr("driver", claim | {"beat": then})
        with driven(tmp_path / "rates", takeover=True) as new:
            new.reopen(number)
            for write in (
                lambda: old.study.set_user_attr("state", "finished"),
                lambda: trial.set_user_attr("outcome", {"state": "pruned", "epochs": 1}),
                lambda: trial.report(0.5, 2),
                lambda: old.study.tell(trial, 0.5),
                lambda: old.study.ask(),
            ):
                with pytest.raises(LeaseLostError):
                    write()
            assert new.record(number, report(2))
            new.end(number, "complete", "")
            (record,) = new.trials()
            assert (record.state, len(record.reports)) == ("complete", 2)


def test_a_driver_counts_on_from_the_last_even_if_their_records_are_lost(
    tmp_path: Path, storage: str
):
    create(tmp_path / "rates", storage=storage)
    for epoch in (1, 2, 3):
        with driven(tmp_path / "rates") as ledger:
            number = ledger.ask() if epoch == 1 else ledger.interrupted()[0]
            if epoch > 1:
                ledger.reopen(number)
            ledger.record(number, report(epoch))
    shutil.rmtree(tmp_path / "rates" / "drivers")
    assert latest_driver(tmp_path / "rates") == 3
    with driven(tmp_path / "rates") as ledger:
        ledger.reopen(0)
        ledger.record(0, report(4))
        (record,) = ledger.trials()
        assert [line["epoch"] for line in record.reports] == [1, 2, 3, 4]


def test_a_database_that_does_not_answer_is_named(tmp_path: Path, storage: str):
    create(tmp_path / "rates", storage=storage)
    with driven(tmp_path / "rates") as ledger, sqlite3.connect(tmp_path / "studies.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CommandError, match=r"must answer, but: .*locked.*resume rates") as told:
            ledger.ask()
        assert told.value.exit_code == 5
        other.rollback()
        assert ledger.ask() == 0
    other.close()
    (tmp_path / "studies.db").write_bytes(b"nothing of the kind")
    with pytest.raises(CommandError, match=f"{tmp_path}/studies.db") as told:
        open_ledger(tmp_path / "rates")
    assert told.value.exit_code == 5


@pytest.mark.parametrize("sign", ["a claim", "a point", "an attribute"])
def test_a_study_of_others_makes_way_for_none(storage: str, sign: str):
    study = optuna.create_study(study_name="rates", storage=storage)
    if sign == "a claim":
        study.set_user_attr("made_by", {"host": "elsewhere", "pid": 1})
        study.set_user_attr("driver", {"id": "x", "host": "elsewhere", "pid": 1, "beat": 0})
    elif sign == "a point":
        study.enqueue_trial({"x": 1})
    else:
        study.set_user_attr("owner", "ada")
    with pytest.raises(CommandError, match="launch under another --name"):
        create_study("rates", storage, "minimize", shared=True)
    assert opened(storage).user_attrs == study.user_attrs


class Mischief:
    """What makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("mischief",)


def test_the_state_of_cmaes_is_read_without_running_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    space = ONE_FAMILY % RATES
    ledger = create(tmp_path / "rates", space, "search.algorithm=cmaes")
    for _ in range(16):
        trained(ledger, "complete", 0.1, 0.2, 0.3, 0.4)
    generations = [
        trial.system_attrs.get("cma:generation", 0) for trial in ledger.study.get_trials()
    ]
    assert max(generations) >= 2  # so its state was kept, and read again
    number = ledger.ask()
    text = pickle.dumps(Mischief()).hex()
    storage = ledger.study._storage
    storage.set_trial_system_attr(ledger._frozen(number)._trial_id, "cma:optimizer:0", text)
    for epoch in range(1, 5):
        ledger.record(number, report(epoch))
    ledger.end(number, "complete", "")
    with pytest.raises(CommandError, match="must hold the state of CMA-ES alone, but it holds"):
        ledger.ask()
    assert not (tmp_path / "mischief").exists()
