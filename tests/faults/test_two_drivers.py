"""Two commands that would drive one sweep: exactly one does, also after the other was frozen."""

import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from search_spaces import load_config, planned_steps
from sweep.directory import create_ledger
from sweep.facts import load_data, sweep_facts
from sweep.lease import STALE_S, current_holder
from tests.faults.counts import count
from tests.faults.harness import SWEEP, Command, Site, assert_nothing_lost, signalled, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

REFUSAL_S = 5.0  # promised from start to end, on a machine that has nothing else to do
HOLDER = r"faults is being (run|launched) by process (?P<pid>\d+) of \S+ on \S+, since \d{4}-"
TINY: dict[str, Any] = {"images": 256, "epochs": 2, "trials": 2, "at_once": 1}


def create(here: Site, storage: str | None = None) -> None:
    """The site's sweep, as a launch makes it, before any trial."""
    config = load_config(here.folder / "faults.yaml")
    create_ledger(
        here.directory,
        config,
        storage=storage,
        tracking_uri=here.tracking_uri,
        steps_per_epoch=planned_steps(config),
        facts=sweep_facts(config, load_data(config, None)),
    )


def refused(commands: list[Command]) -> Command:
    """Which of the commands was refused, the only one that has ended, within the promised time.

    The time is that of the processor, for other tests may run at the same time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    until(lambda: any(command.process.poll() is not None for command in commands))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = [command for command in commands if command.process.returncode is not None]
    assert len(ended) == 1, [command.output() for command in commands]
    assert ended[0].process.returncode == 4, ended[0].output()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < REFUSAL_S
    assert "Traceback" not in ended[0].output()
    return ended[0]


def end(here: Site, command: Command) -> None:
    command.kill()
    here.end_processes()
    until(lambda: not here.processes(), here.processes, 30)


def two_at_once(here: Site, *arguments: str) -> Command:
    """The one of two commands that goes on; the other was refused and has named it."""
    commands = [here.start(*arguments), here.start(*arguments)]
    loser = refused(commands)
    (winner,) = set(commands) - {loser}
    told = re.search(HOLDER, loser.output())
    assert told, loser.output()
    assert int(told["pid"]) == winner.process.pid
    return winner


def test_two_launches_at_once(tmp_path: Path) -> None:
    with site(tmp_path / "site", **TINY) as here:
        for _ in range(count(3, 20)):
            end(here, two_at_once(here, "launch", "faults.yaml"))
            shutil.rmtree(here.directory, ignore_errors=True)


def test_two_resumes_at_once(tmp_path: Path) -> None:
    """The last winner trains the sweep to its end."""
    with site(tmp_path / "site", **TINY) as here:
        create(here)
        for _ in range(count(1, 19)):
            end(here, two_at_once(here, "resume", "faults"))
        winner = two_at_once(here, "resume", "faults")
        assert winner.wait() == 0, winner.output()
        assert_nothing_lost(here, incidents=0)


@pytest.mark.skipif(count(0, 1) == 0, reason="half a minute: with SWEEP_FAULTS=full")
def test_two_copies_of_a_sweep_in_one_database(tmp_path: Path) -> None:
    """The copies know nothing of each other's leases, but the database does."""
    storage = f"sqlite:///{tmp_path}/studies.db"
    with site(tmp_path / "site", **TINY) as here:
        create(here, storage)
        shutil.copytree(here.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*.log"))
        arguments = ("resume", "faults")
        commands = [here.start(*arguments), copied(here, tmp_path / "copy", *arguments)]
        loser = refused(commands)
        (winner,) = set(commands) - {loser}
        assert re.search(rf"by process {winner.process.pid} (of|on) \S+", loser.output())
        end(here, winner)
        text = here.run(*arguments, code=4)
        assert f"is being run by process {winner.process.pid} on" in text
        forget(storage)
        text = here.run(*arguments, code=4)
        assert "sweep resume faults --takeover" in text
        here.run(*arguments, "--takeover")
        assert_nothing_lost(here)


def copied(here: Site, folder: Path, *arguments: str) -> Command:
    """A command in a copy of the site's folder."""
    return Command(folder, [SWEEP, *arguments], here.environment)


def forget(storage: str) -> None:
    """Make the claim in a database one that has not been heard of for long."""
    sampler = optuna.samplers.RandomSampler(0)
    study = optuna.load_study(study_name="faults", storage=storage, sampler=sampler)
    claim = study.user_attrs["driver"]
    study.set_user_attr("driver", claim | {"beat": time.time() - 3 * STALE_S})


@pytest.mark.parametrize("time_over", range(count(1, 10)))
def test_frozen_drivers_are_taken_over_from(time_over: int, tmp_path: Path) -> None:
    """Once they go on, they find that out, and nothing that they still write counts.

    Of the first one the driver alone is frozen, of the one that took over all its processes.
    """
    with site(tmp_path / "site", epochs=40, trials=count(2, 4), at_once=count(1, 2)) as here:
        create(here)
        olds, latest = [], here.start()
        goes_on(here, latest)
        for everything in (False, True):
            signalled(here.processes() if everything else [latest.process.pid], signal.SIGSTOP)
            accepted = here.accepted()
            assert "running" in {trial.state for trial in here.read()[1]}
            grow_stale(here)
            text = told_to_take_over(here)
            assert f"process {latest.process.pid} of" in text
            olds, latest = [*olds, latest], here.start("resume", "faults", "--takeover")
            goes_on(here, latest)
            assert here.accepted().items() >= accepted.items()
        signalled(here.processes(), signal.SIGCONT)
        for old in olds:
            assert old.wait() == 4, old.output()
            assert f"faults was taken over by process {latest.process.pid} of" in old.output()
            assert "Traceback" not in old.output()
        assert latest.wait() == 0, latest.output()
        assert_nothing_lost(here, accepted)


def told_to_take_over(here: Site) -> str:
    """What a resume says of a holder that is frozen."""
    command = here.start("resume", "faults")
    refused([command])
    text = command.output()
    assert re.search(HOLDER, text)
    assert re.search(r"not heard of for \d+ s; .*sweep resume faults --takeover", text)
    return text


def goes_on(here: Site, command: Command) -> None:
    """Wait until two more epochs are recorded, while the command runs."""
    before = here.recorded()
    until(lambda: here.recorded() >= before + 2 or command.process.poll(), command.output)
    assert command.process.poll() is None, command.output()


def grow_stale(here: Site) -> None:
    """In full the driver is not heard of for 90 s, in CI it looks as if it were not."""
    age = 3 * STALE_S
    time.sleep(count(0, round(age)))
    holder = current_holder(here.directory)
    assert holder is not None
    then = min(holder.beat, time.time() - age)
    os.utime(here.directory / "drivers" / f"{holder.number:04d}.json", (then, then))
