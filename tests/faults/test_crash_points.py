"""The driver, a trial's process or the shipper dies at each place around each of its writes.

The places are those of trainers/crashes.py. A mark says that a process really died there.
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search_spaces import load_config, planned_steps
from sweep.delivery import MLFLOW_ENVIRONMENT
from sweep.directory import create_ledger, open_ledger
from sweep.naming import launching
from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, assert_projected, site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
# Before there is a sweep. The journal's lines: the study, then its config and facts.
MAKING = (
    *("replace config.yaml", "replaced config.yaml", "append study.journal"),
    *("appended study.journal", "append study.journal@3", "appended study.journal@5"),
    *("replace sweep.json", "replaced sweep.json"),
)
DRIVER = (
    *("ask", "asked", "append study.journal@2", "appended study.journal@3"),
    *("append metrics.jsonl", "appended metrics.jsonl", "recorded", "append study.journal@12"),
    *("end", "ended", "replace best.yaml", "replaced best.yaml"),
)
# Tune starts another process for the trial.
TRIAL = ("checkpoint", "checkpoint written@2", "checkpoint set aside@2", "checkpoint replaced")
SHIPPER = (
    *("create parent run", "created parent run", "create trial run", "created trial run"),
    *("log batch", "logged batch", "upload", "uploaded", "end trial run", "ended trial run"),
)
TINY: dict[str, Any] = {"images": 256, "epochs": 3}


def mark(here: Site, place: str) -> Path:
    return here.marks / place.replace(" ", "_")


def crash(here: Site, place: str, *others: str) -> None:
    """Launch or resume until the driver dies at `place`; other processes may die elsewhere."""
    accepted = here.accepted()
    command = here.start(SWEEP_CRASH_AT=",".join((place, *others)))
    assert command.wait() == -signal.SIGKILL, (place, command.output())
    assert mark(here, place).exists()
    mark(here, place).unlink()
    assert here.accepted().items() >= accepted.items()
    for file in ("config.yaml", "best.yaml"):
        if (here.directory / file).exists():
            load_config(here.directory / file)


# Children that fork from a process which has imported all they need

SERVE = """
import os, sys
{setup}
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.environ["SWEEP_CRASH_AT"] = line.strip()
        os._exit({action} or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
MAKE = (
    f"from pathlib import Path; from {__name__} import make",
    "make(Path(sys.argv[1]), sys.argv[2] or None)",
)
SHIP = (
    "import mlflow.store.tracking.sqlalchemy_store; from sweep.shipping import main; "
    "from sweep.tracking import connect, deliver",
    "main(connect, deliver, [sys.argv[1] + '/sweeps/faults', '--once'])",
)


@contextmanager
def children(
    here: Site, action: tuple[str, str], *arguments: str, **variables: str
) -> Iterator[Callable[[str], int]]:
    """Gives a function: a child acts, and dies at a place; its exit code."""
    script = SERVE.format(setup=action[0], action=action[1])
    environment = os.environ | MLFLOW_ENVIRONMENT | here.environment | variables
    with subprocess.Popen(
        [sys.executable, "-c", script, str(here.folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as server:
        requests, answers = server.stdin, server.stdout
        assert requests
        assert answers

        def act(place: str) -> int:
            print(place, file=requests, flush=True)
            return int(answers.readline())

        yield act
        requests.close()


# A new sweep


def make(folder: Path, storage: str | None) -> None:
    """What a child does: the part of a launch that makes the sweep, without Ray."""
    directory = folder / "sweeps" / "faults"
    config = load_config(folder / "faults.yaml")
    with launching(directory):
        create_ledger(
            directory,
            config,
            storage=storage,
            tracking_uri=f"sqlite:///{folder}/sweeps/mlflow.db",
            steps_per_epoch=planned_steps(config),
            facts={"sweep_id": "s", "dataset_digest": "d", "user": "ada", "config_sha256": "c"},
        )


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
        assert child("") == 0
    assert [path.name for path in here.directory.parent.iterdir()] == ["faults"]
    ledger = open_ledger(here.directory, proposing=True)
    assert [ledger.ask(), ledger.ask()] == [0, 1]


@pytest.mark.parametrize("times", [1, 2][: count(0, 2)])
@pytest.mark.parametrize("place", MAKING)
def test_a_launch_of_its_own_that_dies_in_the_making(
    place: str, times: int, tmp_path: Path
) -> None:
    with site(tmp_path / "site", trials=2, **TINY) as here:
        for _ in range(times):
            crash(here, place)
            assert not here.directory.exists()
        here.run()
        assert_nothing_lost(here)


# A sweep that runs


def test_a_driver_dies_at_each_place(tmp_path: Path) -> None:
    """One sweep: it dies at each place, the resume dies there too, and the next gets further.

    So do trials and shippers on the way.
    """
    with site(tmp_path / "site", trials=8, **TINY) as here:
        others = (*TRIAL, "created trial run", "logged batch@2")
        for place in DRIVER:
            crash(here, place, *others)
            crash(here, place, *others)
        here.run(SWEEP_CRASH_AT=",".join(others))
        assert [other for other in others if not mark(here, other).exists()] == []
        assert_nothing_lost(here, incidents=2 * len(DRIVER) + len(TRIAL))


@pytest.mark.parametrize("times", [1, 2][: count(0, 2)])
@pytest.mark.parametrize("place", DRIVER)
def test_a_sweep_of_its_own_whose_driver_dies(place: str, times: int, tmp_path: Path) -> None:
    with site(tmp_path / "site", trials=4, **TINY) as here:
        if "journal" in place:
            crash(here, "ask")  # or it would die in the making
        for _ in range(times):
            crash(here, place)
        here.run()
        assert_nothing_lost(here, incidents=times + 1)


@pytest.mark.parametrize("places", [TRIAL[:2], TRIAL[2:], *count(0, 1) * [(p,) for p in TRIAL]])
def test_a_trial_whose_process_dies_goes_on_in_another(
    places: tuple[str, ...], tmp_path: Path
) -> None:
    with site(tmp_path / "site", trials=3, **TINY) as here:
        here.run(SWEEP_CRASH_AT=",".join(places))
        assert all(mark(here, place).exists() for place in places)
        assert_nothing_lost(here, incidents=len(places))


# The shipper


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
    ledger.set_state("finished")


@pytest.mark.parametrize("times", [1, 2])
def test_a_shipper_dies_at_each_place(times: int, tmp_path: Path) -> None:
    here = Site(tmp_path / "site", trials=4, **TINY)
    ended_sweep(here)
    with children(here, SHIP) as ship:
        for place in SHIPPER:
            once = place == "created parent run"  # there is but one
            for _ in range(1 if once else times):
                assert ship(place) == -signal.SIGKILL, place
                mark(here, place).unlink()
        assert ship("") == 0
        assert ship("") == 0
    assert_projected(here, *here.read())


# One file

WRITE = "import sys, pathlib; from sweep.files import write_text\n"
WRITE += "write_text(pathlib.Path(sys.argv[1]), 'new\\n' * 10_000)"


@pytest.mark.parametrize(("place", "expected"), [("replace it", "old\n"), ("replaced it", "new\n")])
def test_a_file_that_is_replaced_is_whole(place: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("old\n" * 10_000)
    variables = {"SWEEP_CRASH_AT": place, "SWEEP_CRASH_MARKS": str(tmp_path)}
    command = [sys.executable, "-c", WRITE, str(path)]
    died = subprocess.run(command, cwd=ROOT, env=os.environ | variables)
    assert died.returncode == -signal.SIGKILL
    assert path.read_text() == expected * 10_000
    subprocess.run(command, cwd=ROOT, check=True)
    assert path.read_text() == "new\n" * 10_000
    assert list(tmp_path.glob("*.part")) == []
