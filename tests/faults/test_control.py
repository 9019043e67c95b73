"""pause, stop and cancel from another terminal, and what goes on afterwards, and what does not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from search_spaces import parse_config
from sweep.directory import create_ledger
from sweep.halt import send
from tests.faults.harness import (
    Command,
    Site,
    assert_nothing_lost,
    projected,
    site,
    until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
MANY: dict[str, Any] = {"images": 256, "epochs": 40, "trials": 60}
OVER = "sweep resume faults --num-trials N, or --hours H"


def training(here: Site) -> Command:
    """A launch whose first trial has ended, so that MLflow can hold it."""
    command = here.start()
    until(
        lambda: (
            command.process.poll() is not None or any(trial.ended_ms for trial in ledger_of(here))
        ),
        command.output,
        280,
    )
    assert command.process.poll() is None, command.output()
    return command


def ledger_of(here: Site) -> list[Any]:
    return here.read()[1] if (here.directory / "sweep.json").exists() else []


def asked_to(here: Site, command: str, driver: Command, code: int = 0) -> str:
    """What the driver says after another process has asked it to pause, stop or cancel."""
    assert f"faults: {'its' if command == 'cancel' else 'no new'}" in here.run(command, "faults")
    assert driver.wait() == code, driver.output()
    assert not (here.directory / "control").exists()
    return driver.output()


def states(here: Site) -> tuple[str, set[str]]:
    sweep, trials = here.read()
    return sweep.state, {trial.state for trial in trials}


def shown(here: Site) -> tuple[str, str, str]:
    """The state of the sweep as status, ls and MLflow show it, where they agree, and its runs'."""
    status = json.loads(here.run("status", "faults", "--json"))
    (listed,) = json.loads(here.run("ls", "--json"))
    held = projected(here)
    assert status["undelivered"] == {"trials": 0, "epochs": 0, "error": None}
    assert status["state"] == listed["state"] == held.parent.data.tags["sweep.state"]
    for trial in here.read()[1]:
        run = held.trials[trial.number]
        status_of = "KILLED" if trial.state == "cancelled" else "FINISHED"
        assert (run.data.tags["state"], run.info.status) == (trial.state, status_of)
    return status["state"], held.parent.info.status, held.parent.data.tags["mlflow.note.content"]


def more(here: Site, count: int, *, code: int = 0) -> str:
    """What a resume says that raises the number of trials."""
    here.trials = count
    return here.run("resume", "faults", "--num-trials", str(count), code=code)


def test_pause_and_resume(tmp_path: Path) -> None:
    with site(tmp_path, **MANY) as here:
        driver = training(here)
        refused = here.run("launch", "faults.yaml", code=4)
        assert f"being run by process {driver.process.pid} of " in refused
        assert "sweep status faults" in refused
        assert "--name faults-2" in refused
        output = asked_to(here, "pause", driver)
        assert "paused: no new trials are started" in output
        assert re.search("so far +trial", output)
        assert re.search("go on +sweep resume faults\n", output)
        assert states(here) == ("paused", {"complete"})
        asked = len(here.read()[1])
        assert asked < here.trials
        state, status, note = shown(here)
        assert (state, status) == ("paused", "KILLED")
        assert "sweep resume faults" in note
        assert "is not running; go on with: sweep resume faults" in here.run("pause", "faults")
        assert "which is paused\n" in here.run("launch", "faults.yaml", code=4)
        accepted = here.accepted()
        here.run()
        assert_nothing_lost(here, accepted, incidents=0)


def test_stop_and_a_raised_budget(tmp_path: Path) -> None:
    with site(tmp_path, **MANY) as here:
        output = asked_to(here, "stop", training(here))
        assert "stopped: no new trials are started" in output
        assert re.search("winner +trial", output)
        assert OVER in output
        assert states(here) == ("stopped", {"complete"})
        asked = len(here.read()[1])
        assert asked < here.trials
        assert shown(here)[:2] == ("stopped", "FINISHED")
        for command in ("pause", "stop", "cancel"):
            assert "faults is over: stopped" in here.run(command, "faults")
        assert "sweep resume faults --num-trials N" in here.run("launch", "faults.yaml", code=4)
        assert OVER in here.run("resume", "faults")
        assert states(here) == ("stopped", {"complete"})
        accepted = here.accepted()
        more(here, 62)
        assert_nothing_lost(here, accepted, incidents=0)
        assert "faults is over: finished" in here.run("cancel", "faults")


def test_cancel_and_a_raised_budget(tmp_path: Path) -> None:
    with site(tmp_path, images=256, epochs=800, trials=6) as here:
        driver = training(here)
        output = asked_to(here, "cancel", driver, code=1)
        assert "cancelled: running trials are ended now" in output
        assert OVER in output
        assert states(here) == ("cancelled", {"complete", "cancelled"})
        assert shown(here)[:2] == ("cancelled", "KILLED")
        until(lambda: not here.processes(), here.processes, 5)
        assert re.search(
            "[0-9] cancelled.*\ncancelled; MLflow: every", here.run("status", "faults")
        )
        assert "complete" in here.run("best", "faults")
        for trial in here.read()[1]:
            kept = here.directory / "trials" / f"{trial.number:04d}" / "checkpoint"
            assert kept.exists() == (trial.state == "complete")
        before = here.accepted()
        assert OVER in here.run("resume", "faults", code=1)
        assert here.accepted() == before
        more(here, 7)
        assert here.accepted().items() >= before.items()
        assert states(here) == ("finished", {"complete", "cancelled"})
        assert len(before) < len(here.accepted()) == here.trials
        assert shown(here)[:2] == ("finished", "FINISHED")


# No process runs it


def cut_off(here: Site) -> None:
    """A sweep whose driver died: a complete trial, and one that has trained one epoch of two."""
    ledger = create_ledger(
        here.directory,
        parse_config((here.folder / "faults.yaml").read_text()),
        storage=None,
        tracking_uri=here.tracking_uri,
        steps_per_epoch=8,
        facts={"sweep_id": here.identity, "config_sha256": "c" * 64, "dataset_digest": "d" * 36},
    )
    ledger.set_state("running")
    for last in (2, 1):
        number = ledger.ask()
        for epoch in range(1, last + 1):
            losses = {"train_loss": 1.5, "val_loss": 1.25, "val_accuracy": 0.5, "diverged": False}
            facts = {"learning_rate_sha256": "a" * 64, "seconds": 0.1, "worker": {"pid": 7}}
            ledger.record(number, {"epoch": epoch} | losses | facts)
        if last == here.epochs:
            ledger.end(number, "complete", "")


@pytest.mark.parametrize(
    ("command", "state", "status"),
    [("stop", "stopped", "FINISHED"), ("cancel", "cancelled", "KILLED")],
)
def test_a_sweep_that_nobody_runs_is_ended_there(
    tmp_path: Path, command: str, state: str, status: str
) -> None:
    with site(tmp_path, epochs=2) as here:
        cut_off(here)
        assert "which is interrupted\n" in here.run("launch", "faults.yaml", code=4)
        assert "is not running; go on with: sweep resume faults" in here.run("pause", "faults")
        assert here.read()[0].state == "interrupted"
        told = here.run(command, "faults")
        assert "faults is over, 2 trials; MLflow holds all of faults" in told
        assert states(here) == (state, {"complete", "cancelled"})
        assert (here.directory / "best.yaml").exists()
        assert shown(here)[:2] == (state, status)
        assert f"faults is over: {state}" in here.run(command, "faults")


def test_a_resume_may_only_raise_the_budget(tmp_path: Path) -> None:
    with site(tmp_path, epochs=2) as here:
        cut_off(here)
        fewer = here.run("resume", "faults", "--num-trials", "15", code=2)
        assert "num_trials, which is 16, but got 15; give more, or leave it out" in fewer
        hours = here.run("resume", "faults", "--hours", "1", code=2)
        assert "hours, which is unlimited, but got 1.0; give more, or leave it out" in hours
        frozen = here.directory / "config.yaml"
        text = frozen.read_text()
        frozen.write_text(text.replace("epochs: 2", "epochs: 3").replace("size: 64", "size: 32"))
        refused = here.run("resume", "faults", code=1)
        assert "training.num_epochs" in refused
        assert "training.batch_size" in refused
        assert "launch the changed config under a new name" in refused


def test_a_tracking_server_that_is_down_when_a_sweep_is_cancelled(tmp_path: Path) -> None:
    with site(tmp_path, "http://127.0.0.1:9", epochs=2) as here:
        cut_off(here)
        told = here.run("cancel", "faults", code=3)
        assert "2 trials (3 epochs) are not delivered" in told
        assert "sweep sync faults" in told
        assert here.read()[0].state == "cancelled"


def test_a_command_for_a_driver_that_died_says_nothing_to_the_next(tmp_path: Path) -> None:
    with site(tmp_path, images=128, epochs=2, trials=2) as here:
        here.run()
        send(here.directory, 1, "cancel")
        more(here, 4)
        assert_nothing_lost(here, incidents=0)
