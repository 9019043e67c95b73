"""Children die at each place around their writes: a launch, a driver without Ray, a shipper."""

import hashlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces import load_config
from sweep.directory import open_ledger
from sweep.metrics import checkpoint_path
from sweep.records import TrialRecord
from tests.faults.children import DRIVE, MAKE, SHIP, children, make
from tests.faults.harness import Site, assert_projected
from tests.faults.places import DRIVER, LAST, LEDGER, MADE, MAKING, ONCE, SHIPPER, mark

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
TINY: dict[str, Any] = {"images": 256, "epochs": 3}


@pytest.mark.parametrize("storage", ["", "sqlite:///{}/studies.db"])
def test_a_launch_that_dies_leaves_nothing_in_the_way(storage: str, tmp_path: Path) -> None:
    """Each place once, and then twice in a row."""
    here = Site(tmp_path / "site", **TINY)
    storage = storage.format(tmp_path)
    # A study in a database has no journal file.
    places = [place for place in MAKING if not (storage and "journal" in place)]
    with children(here, MAKE, storage) as child:
        for place in (*places, *(place for place in places for _ in range(2))):
            assert child(place) == -signal.SIGKILL, place
            mark(here, place).unlink()
            assert not here.directory.exists()
        assert child(MADE) == -signal.SIGKILL
        mark(here, MADE).unlink()
        assert open_ledger(here.directory).trials() == []
        shutil.rmtree(here.directory)
        assert child("") == 0
    assert [path.name for path in here.directory.parent.iterdir()] == ["faults"]
    ledger = open_ledger(here.directory, proposing=True)
    assert [ledger.ask(), ledger.ask()] == [0, 1]


def damage(here: Site) -> None:
    """Break the last line of the trial that has one and is open."""
    trial = next(t for t in here.read()[1] if t.state == "running" and t.reports)
    path = here.directory / "trials" / f"{trial.number:04d}" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9] + b'xxxxxxx"\n')


def facts(here: Site) -> list[tuple[Any, ...]]:
    """All of each trial but the time."""
    return [
        (t.number, t.parameters, t.state, t.value, t.message, t.damage, t.curve_sha256, untimed(t))
        for t in here.read()[1]
    ]


def untimed(trial: TrialRecord) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "timestamp_ms"} for r in trial.reports]


def test_a_driver_and_the_next_die_at_each_place(tmp_path: Path) -> None:
    """Each place once, and twice in a row, with the same end as a sweep that nothing disturbed."""
    undisturbed, here = (
        Site(tmp_path / name, trials=16, pruning="asha", **TINY) for name in ("first", "second")
    )
    for place in (undisturbed, here):
        make(place.folder, None)
    with children(undisturbed, DRIVE) as drives:
        assert drives("") == 0
    expected = facts(undisturbed)
    assert {state for _, _, state, *_ in expected} == {"complete", "pruned", "diverged", "failed"}
    before = [place for place in (*LEDGER, *DRIVER) if place not in LAST]
    with children(here, DRIVE) as drives:
        for places in (before, LAST):
            for place in (*places, *(place for place in places for _ in range(2))):
                if place == "put aside":
                    dies(here, drives, "recorded")
                    damage(here)
                dies(here, drives, place)
        assert drives("") == 0
    for found, wanted in zip(facts(here), expected, strict=True):
        assert found == wanted
    assert (here.directory / "trials/0002/error.txt").read_text() == "it broke\n"
    best = "best.yaml"
    assert load_config(here.directory / best).name == load_config(undisturbed.directory / best).name
    with children(here, SHIP) as ship:
        assert ship("") == 0
    assert_projected(here, *here.read())


def dies(here: Site, act: Callable[[str], int], place: str) -> None:
    """A child dies at a place, and no trial is lost or another one after that."""
    accepted = here.accepted()
    assert act(place) == -signal.SIGKILL, place
    mark(here, place).unlink()
    assert here.accepted().items() >= accepted.items()


def ended_sweep(here: Site) -> None:
    """A finished sweep of four trials, with figures that nobody has trained."""
    make(here.folder, None)
    ledger = open_ledger(here.directory, proposing=True)
    steps = ledger.sweep().steps_per_epoch
    for state, epochs in (("complete", 3), ("pruned", 2), ("complete", 3), ("pruned", 1)):
        number = ledger.ask()
        curve = ledger.curve(ledger.space(number))
        for epoch in range(1, epochs + 1):
            row = curve[(epoch - 1) * steps : epoch * steps]
            loss = 1 / (number + epoch)
            figures = {"train_loss": loss, "val_loss": loss, "val_accuracy": 1 - loss}
            facts = {"seconds": 0.1, "diverged": False, "worker": {"node": "n", "pid": 7}}
            digest = hashlib.sha256(row.tobytes()).hexdigest()
            ledger.record(
                number, {"epoch": epoch, "learning_rate_sha256": digest} | figures | facts
            )
        ledger.end(number, state, f"so it is {state}")
        if state == "complete":
            path = checkpoint_path(ledger.trials_directory, number)
            path.write_bytes(b"what was trained")
    ledger.set_state("finished")


@pytest.mark.parametrize("times", [1, 2])
def test_a_shipper_dies_at_each_place(times: int, tmp_path: Path) -> None:
    here = Site(tmp_path / "site", trials=4, **TINY)
    ended_sweep(here)
    with children(here, SHIP) as ship:
        for place in SHIPPER:
            for _ in range(1 if place in ONCE else times):
                assert ship(place) == -signal.SIGKILL, place
                mark(here, place).unlink()
        assert ship("") == 0
        assert ship("") == 0
    assert_projected(here, *here.read())
