"""The driver, a trial's process or the shipper dies at each place around each of its writes.

The places are those of trainers/crashes.py. A mark says that a process really died there.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search_spaces import load_config, planned_steps
from sweep.capacity import Capacity
from sweep.delivery import MLFLOW_ENVIRONMENT
from sweep.directory import create_ledger, latest_driver, open_ledger
from sweep.halt import Halt
from sweep.lease import driving
from sweep.metrics import checkpoint_path
from sweep.naming import launching
from sweep.records import TrialRecord
from sweep.results import write_best
from sweep.search import LedgerScheduler, LedgerSearcher, Referee
from sweep.slots import Slots
from sweep.study import Ledger
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
    *("claim name", "claimed name", "replace config.yaml", "replaced config.yaml"),
    *(
        "append study.journal",
        "appended study.journal",
        "append study.journal@3",
        "appended study.journal@5",
    ),
    *("replace sweep.json", "replaced sweep.json"),
)
DRIVER = (
    *("ask", "asked", "append study.journal@2", "appended study.journal@3"),
    *("append metrics.jsonl", "appended metrics.jsonl", "recorded", "append study.journal@12"),
    *("end", "ended", "replace best.yaml", "replaced best.yaml"),
)
LAST = ("replace best.yaml", "replaced best.yaml", "free lease", "freed lease")
# More places of a driver, which only the children below come to.
LEDGER = (
    *("claim lease", "claimed lease", "put aside", "replace error.txt", "replaced error.txt"),
    *("free lease", "freed lease"),
)
# Tune starts another process for the trial.
TRIAL = ("checkpoint", "checkpoint written@2", "checkpoint set aside@2", "checkpoint replaced")
SHIPPER = (
    *("make store", "made store"),
    *("create experiment", "created experiment", "create parent run", "created parent run"),
    *("log dataset", "logged dataset", "create trial run", "created trial run", "log batch"),
    *("logged batch", "upload", "uploaded", "end trial run", "ended trial run"),
    *("end parent run", "ended parent run"),
    *("upload checkpoint", "uploaded checkpoint", "tag"),  # which tells that it was uploaded
    *("draw", "drawn", "upload@2", "uploaded@2", "tagged"),  # the second upload is the pictures'
    *("replace status.json", "replaced status.json"),
)
# Behind what there is but one of.
ONCE = (
    "made store",
    *("created experiment", "created parent run", "logged dataset", "ended parent run"),
    *("replaced status.json", "tagged"),
)
MADE = "made"
CONTROL = ("replace control", "replaced control")
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
DRIVE = (f"from pathlib import Path; from {__name__} import drive", "drive(Path(sys.argv[1]))")
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
        assert child(MADE) == -signal.SIGKILL
        mark(here, MADE).unlink()
        assert open_ledger(here.directory).trials() == []
        shutil.rmtree(here.directory)
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
    """One sweep: it dies at each place, and the next gets further.

    So do trials and shippers on the way. In full the resume dies too, at each of the ledger's
    lines as well, and two trials run at once.
    """
    places = [place for place in DRIVER if count(0, 1) or "journal" not in place]
    with site(tmp_path / "site", trials=8, at_once=count(1, 2), **TINY) as here:
        others = (*TRIAL, "created trial run", "logged batch@2")
        for place in places:
            for _ in range(count(1, 2)):
                crash(here, place, *others)
        here.run(SWEEP_CRASH_AT=",".join(others))
        assert [other for other in others if not mark(here, other).exists()] == []
        assert_nothing_lost(here, incidents=count(1, 2) * len(places) + len(TRIAL))


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


@pytest.mark.parametrize("places", [TRIAL, *count(0, 1) * [(p,) for p in TRIAL]])
def test_a_trial_whose_process_dies_goes_on_in_another(
    places: tuple[str, ...], tmp_path: Path
) -> None:
    with site(tmp_path / "site", trials=4, **TINY) as here:
        here.run(SWEEP_CRASH_AT=",".join(places))
        assert all(mark(here, place).exists() for place in places)
        assert_nothing_lost(here, incidents=len(places))


# A driver with figures that nobody has trained: its ledger and its hooks, without Ray and JAX


def drive(folder: Path) -> None:
    """What a child does: the part of a driver that proposes, records and judges trials.

    Two trials are open; the first of them gets its next epoch. Of five one fails, one diverges.
    """
    directory = folder / "sweeps" / "faults"
    with driving(directory, above=latest_driver(directory)) as lease:
        ledger = open_ledger(directory, lease=lease)
        referee, halt = Referee(ledger), Halt(directory)
        searcher = LedgerSearcher(ledger, referee, halt, Capacity(Slots(1, 0, 2), None))
        scheduler = LedgerScheduler(ledger, referee, halt)
        ledger.set_state("running")
        jobs: list[dict[str, Any]] = []
        while True:
            while len(jobs) < 2 and (job := searcher.suggest("")) != LedgerSearcher.FINISHED:
                jobs.append(job)
            if not jobs:
                break
            jobs[0]["skip_epochs"] += 1
            result = invented(ledger, jobs[0]["number"], jobs[0]["skip_epochs"])
            trial = SimpleNamespace(config=jobs[0])
            if scheduler.on_trial_result(None, trial, result) == LedgerScheduler.STOP:
                jobs.pop(0)
        ledger.set_state("finished")
        write_best(ledger.sweep(), ledger.trials())
    assert "jax" not in sys.modules


def invented(ledger: Ledger, number: int, epoch: int) -> dict[str, Any]:
    """What a trial's process would tell the driver of an epoch."""
    if (number % 5, epoch) == (2, 2):
        return {"reports": [], "failure": "it broke", "trouble": None}
    steps = ledger.sweep().steps_per_epoch
    row = ledger.curve(ledger.space(number))[(epoch - 1) * steps : epoch * steps]
    diverged = (number % 5, epoch) == (4, 2)
    loss = float("nan") if diverged else 1 / (1 + number * 7 % 5 + epoch)
    report = {
        "epoch": epoch,
        "learning_rate_sha256": hashlib.sha256(row.tobytes()).hexdigest(),
        "train_loss": loss,
        "val_loss": loss,
        "val_accuracy": 1 - loss,
        "seconds": 0.1,
        "diverged": diverged,
        "worker": {"node": "n", "pid": 7},
    }
    return {"reports": [report], "failure": None, "trouble": None}


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


SEND = "import sys, pathlib; from sweep.halt import send; "
SEND += "send(pathlib.Path(sys.argv[1]), 1, 'pause')"


@pytest.mark.parametrize("place", CONTROL)
def test_a_command_that_dies_is_given_whole_or_not_at_all(place: str, tmp_path: Path) -> None:
    variables = {"SWEEP_CRASH_AT": place, "SWEEP_CRASH_MARKS": str(tmp_path)}
    command = [sys.executable, "-c", SEND, str(tmp_path)]
    died = subprocess.run(command, cwd=ROOT, env=os.environ | variables)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / "control").exists() == (place == CONTROL[1])
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "control").read_text() == "pause 1\n"


# The places


def test_every_place_is_one_where_a_process_dies_above() -> None:
    """Those that `reach` names in the sources, and those of each file that is replaced."""
    lists = (*MAKING, MADE, *DRIVER, *LEDGER, *TRIAL, *SHIPPER, *CONTROL)
    places = {place.partition("@")[0] for place in lists}
    sources = [
        path.read_text() for name in ("sweep", "trainers") for path in ROOT.glob(f"{name}/*.py")
    ]
    text = "\n".join(sources)
    named = set(re.findall(r'\breach\(f?"([^"]+)"', text))
    assert len(re.findall(r"\breach\(", text)) == len(re.findall(r'\breach\(f?"|def reach\(', text))
    for name in named:
        pattern = re.sub(r"\\{.*?\\}", ".+", re.escape(name))
        assert any(re.fullmatch(pattern, place) for place in places), name
    files = set(re.findall(r'\bwrite_text\([^\n]*"([a-z.]+)"', text))
    assert files >= {"config.yaml", "sweep.json", "error.txt", "best.yaml"}
    assert places >= {f"{word} {file}" for file in files for word in ("replace", "replaced")}
