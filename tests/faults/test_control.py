"""pause, stop and cancel from another terminal, and what goes on afterwards, and what does not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from search_spaces import parse_config, planned_steps
from sweep.directory import create_ledger
from sweep.facts import load_data, sweep_facts
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
SHORT: dict[str, Any] = {"images": 256, "epochs": 20, "trials": 20, "at_once": 1}
LONG: dict[str, Any] = {"images": 256, "epochs": 200, "trials": 4}
OVER = "give it a budget, such as:\n         sweep resume faults --num-trials "


def comes_to(here: Site, place: str, command: Command | None = None) -> Command:
    """A launch or resume, or this one, that runs, once it has come to the place again."""
    before = here.passed()[place]
    command = command or here.start()
    until(
        lambda: command.process.poll() is not None or here.passed()[place] > before,
        command.output,
        280,
    )
    assert command.process.poll() is None, command.output()
    return command


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
    assert status["undelivered"] == {
        "trials": 0,
        "epochs": 0,
        "error": None,
        "pictures": None,
    }
    assert status["state"] == listed["state"] == held.parent.data.tags["sweep.state"]
    for trial in here.read()[1]:
        run = held.trials[trial.number]
        status_of = "KILLED" if trial.state == "cancelled" else "FINISHED"
        assert (run.data.tags["state"], run.info.status) == (trial.state, status_of)
    return status["state"], held.parent.info.status, held.parent.data.tags["mlflow.note.content"]


def test_pause_and_then_stop(tmp_path: Path) -> None:
    with site(tmp_path, **SHORT) as here:
        output = asked_to(here, "pause", comes_to(here, "ended"))
        assert "paused: no new trials are started" in output
        assert re.search("so far +trial", output)
        assert re.search("go on +sweep resume faults\n", output)
        assert states(here) == ("paused", {"complete"})
        paused = here.accepted()
        assert len(paused) < here.trials
        state, status, note = shown(here)
        assert (state, status) == ("paused", "KILLED")
        assert "sweep resume faults" in note
        assert "is not running; go on with: sweep resume faults" in here.run("pause", "faults")
        assert "which is paused\n" in here.run("launch", "faults.yaml", code=4)

        output = asked_to(here, "stop", comes_to(here, "ended"))
        assert "stopped: no new trials are started" in output
        assert re.search("winner +trial", output)
        assert OVER in output
        assert len(paused) < len(here.accepted()) < here.trials
        assert shown(here)[:2] == ("stopped", "FINISHED")
        assert "faults is over: stopped" in here.run("stop", "faults")
        assert "sweep resume faults --num-trials 20" in here.run("launch", "faults.yaml", code=4)
        stopped = here.accepted()
        assert OVER in here.run("resume", "faults")
        assert here.accepted() == stopped
        assert_nothing_lost(here, paused, incidents=0, state="stopped")
        assert {trial.state for trial in here.read()[1]} == {"complete"}


def test_cancel_and_a_raised_budget(tmp_path: Path) -> None:
    with site(tmp_path, **LONG) as here:
        driver = comes_to(here, "recorded")
        refused = here.run("launch", "faults.yaml", code=4)
        assert f"being run by process {driver.process.pid} of " in refused
        assert "sweep watch faults" in refused
        assert "--name faults-2" in refused
        comes_to(here, "ended", driver)
        output = asked_to(here, "cancel", driver, code=1)
        assert "cancelled: running trials are ended now" in output
        assert OVER in output
        assert states(here) == ("cancelled", {"complete", "cancelled"})
        assert shown(here)[:2] == ("cancelled", "KILLED")
        until(lambda: not here.processes(), here.processes, 5)
        assert re.search(
            "^faults  cancelled\n(.*\n)+?.*[0-9] cancelled(.*\n)+MLflow   every",
            here.run("status", "faults"),
        )
        assert "complete" in here.run("best", "faults")
        trials = here.read()[1]
        assert any(trial.reports for trial in trials if trial.state == "cancelled")
        for trial in trials:
            kept = here.directory / "trials" / f"{trial.number:04d}" / "checkpoint"
            assert kept.exists() == (trial.state == "complete")
        assert OVER in here.run("resume", "faults", code=1)
        assert here.read()[1] == trials
        here.trials += 1
        here.run("resume", "faults", "--num-trials", str(here.trials))
        assert here.read()[1][: len(trials)] == trials
        assert states(here) == ("finished", {"complete", "cancelled"})
        assert len(trials) < len(here.accepted()) == here.trials
        assert shown(here)[:2] == ("finished", "FINISHED")
        assert "faults is over: finished" in here.run("cancel", "faults")


# No process runs it


def cut_off(here: Site, *trained: int) -> int:
    """The number of a driver that died, having trained so many epochs of each of its trials."""
    config = parse_config((here.folder / "faults.yaml").read_text())
    ledger = create_ledger(
        here.directory,
        config,
        storage=None,
        tracking_uri=here.tracking_uri,
        steps_per_epoch=planned_steps(config),
        facts=sweep_facts(config, load_data(config, None)),
    )
    ledger.set_state("running")
    for last in trained:
        number = ledger.ask()
        for epoch in range(1, last + 1):
            losses = {"train_loss": 1.5, "val_loss": 1.25, "val_accuracy": 0.5, "diverged": False}
            facts = {"learning_rate_sha256": "a" * 64, "seconds": 0.1, "worker": {"pid": 7}}
            ledger.record(number, {"epoch": epoch} | losses | facts)
        if last == here.epochs:
            ledger.end(number, "complete", "")
    return ledger.driver


@pytest.mark.parametrize(
    ("command", "state", "status"),
    [("stop", "stopped", "FINISHED"), ("cancel", "cancelled", "KILLED")],
)
def test_a_sweep_that_nobody_runs_is_ended_there(
    tmp_path: Path, command: str, state: str, status: str
) -> None:
    with site(tmp_path, epochs=2) as here:
        cut_off(here, 2, 1)
        assert here.read()[0].state == "interrupted"
        told = here.run(command, "faults")
        assert "faults is over, 2 trials; MLflow holds all of faults" in told
        assert states(here) == (state, {"complete", "cancelled"})
        assert (here.directory / "best.yaml").exists()
        assert shown(here)[:2] == (state, status)
        assert f"faults is over: {state}" in here.run(command, "faults")


def test_a_resume_may_only_raise_the_budget(tmp_path: Path) -> None:
    with site(tmp_path, epochs=2) as here:
        cut_off(here, 2, 1)
        assert "which is interrupted\n" in here.run("launch", "faults.yaml", code=4)
        fewer = here.run("resume", "faults", "--num-trials", "15", code=2)
        assert "num_trials, which is 16, but got 15; give more, or leave it out" in fewer
        hours = here.run("resume", "faults", "--hours", "1", code=2)
        assert "hours, which is unlimited, but got 1.0; give more, or leave it out" in hours
        frozen = here.directory / "config.yaml"
        text = frozen.read_text()
        frozen.write_text(text.replace("epochs: 2", "epochs: 3").replace("size: 64", "size: 32"))
        refused = here.run("resume", "faults", code=2)
        assert "training.num_epochs" in refused
        assert "training.batch_size" in refused
        assert "launch the changed config under a new name" in refused


def test_a_tracking_server_that_is_down_when_a_sweep_is_cancelled(tmp_path: Path) -> None:
    with site(tmp_path, "http://127.0.0.1:9", epochs=2) as here:
        cut_off(here, 2, 1)
        told = here.run("cancel", "faults", code=3)
        assert "2 trials (3 epochs) are not delivered" in told
        assert "sweep sync faults" in told
        assert here.read()[0].state == "cancelled"


def test_a_command_for_a_driver_that_died_says_nothing_to_the_next(tmp_path: Path) -> None:
    with site(tmp_path, images=128, epochs=2, trials=2, at_once=1) as here:
        driver = cut_off(here, 0)
        accepted = here.accepted()
        send(here.directory, driver, "cancel")
        here.run()
        assert not (here.directory / "control").exists()
        assert_nothing_lost(here, accepted, incidents=0)
