"""`sweep ui`: a real MLflow server, on loopback alone, one for each store."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from search_spaces import parse_config
from sweep.delivery import read_status
from sweep.directory import create_ledger
from sweep.ui_view import ask, view
from tests.commands import CONFIG, SWEEP, environment, printed, refused

pytestmark = pytest.mark.slow


class Running(NamedTuple):
    """A `sweep ui` that serves."""

    process: "subprocess.Popen[str]"
    lines: list[str]
    address: str


@contextmanager
def serving(folder: Path, *arguments: str, **variables: object) -> Iterator[Running]:
    """`sweep ui ARGUMENTS` in `folder`, once it has said all; ended with the block."""
    process = subprocess.Popen(
        [SWEEP, "ui", "--port", "0", *arguments],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        while not lines or lines[-1] != "(Ctrl-C ends it)":
            lines.append(process.stdout.readline().rstrip("\n"))
            assert lines[-1], process.communicate()
        (address,) = re.findall(r"MLflow UI: (http://127\.0\.0\.1:\d+)", lines[0])
        yield Running(process, lines, address)
    finally:
        with suppress(ProcessLookupError):  # it has ended, as it should
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def sweeps_in(folder: Path) -> None:
    """A delivered sweep without trials, and its store."""
    create_ledger(
        folder / "sweeps" / "rates",
        parse_config(CONFIG),
        storage=None,
        tracking_uri=f"sqlite:///{folder}/sweeps/mlflow.db",
        steps_per_epoch=2,
        facts={"sweep_id": "s", "config_sha256": "c" * 64, "dataset_digest": "d" * 64},
    )
    printed(folder, "sync", "rates")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    sweeps_in(home)
    return home


@pytest.fixture(scope="module")
def ui(home: Path) -> Iterator[Running]:
    with serving(home, "rates") as running:
        yield running


def descendants(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(descendants(int(child)) for child in children))


def listening(pids: set[int]) -> set[str]:
    """The addresses, with ports, that processes listen on."""
    found = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    lines = (
        line for line in found.splitlines() if pids & {*map(int, re.findall(r"pid=(\d+)", line))}
    )
    return {line.split()[3] for line in lines}


def test_it_serves_on_loopback_alone(ui: Running):
    assert ask(f"{ui.address}/health") == b"OK"
    assert listening(descendants(ui.process.pid)) == {ui.address.removeprefix("http://")}


def test_it_opens_on_the_experiment_with_the_columns_of_the_sweep(ui: Running, home: Path):
    number = read_status(home / "sweeps" / "rates").experiment_id
    runs, own = ui.lines[:2]
    assert f"/#/experiments/{number}/runs?viewStateShareKey=sweep.rates&" in runs
    assert re.match(rf"rates: {ui.address}/#/experiments/{number}/runs/[0-9a-f]{{32}}\?", own)
    found = ask(f"{ui.address}/api/2.0/mlflow/experiments/get?experiment_id={number}")
    assert found is not None
    tags = {tag["key"]: tag["value"] for tag in json.loads(found)["experiment"]["tags"]}
    shown = json.loads(tags["mlflow.sharedViewState.sweep.rates"])
    assert shown == view(parse_config(CONFIG))
    assert shown["selectedColumns"] == [
        "tags.`state`",
        "tags.`family`",
        "metrics.`val_accuracy`",
        "metrics.`best_val_accuracy`",
        "metrics.`epoch`",
        "params.`peak_lr`",
    ]


def test_a_second_one_names_the_first(ui: Running, home: Path):
    assert printed(home, "ui", "rates").splitlines() == [
        ui.lines[0].replace("MLflow UI", "already running"),
        ui.lines[1],
    ]
    without_name = printed(home, "ui").splitlines()
    assert without_name[0] == ui.lines[0].replace("MLflow UI", "already running")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_server_and_is_no_failure(tmp_path: Path, number: signal.Signals):
    with serving(tmp_path) as running:
        pids = descendants(running.process.pid)
        assert len(pids) > 1
        running.process.send_signal(number)
        assert running.process.wait(60) == 0
        assert running.process.stderr is not None
        assert "Traceback" not in running.process.stderr.read()
        assert ask(f"{running.address}/health") is None
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert (tmp_path / "sweeps" / "mlflow.db.ui").read_text() == ""  # nothing says that it runs


def test_a_server_that_outlives_its_command_is_found(tmp_path: Path):
    with serving(tmp_path) as running:
        running.process.kill()
        running.process.wait()
        assert printed(tmp_path, "ui") == f"already running: {running.address}\n"


def test_a_browser_is_opened_where_asked_for(tmp_path: Path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    with serving(tmp_path, "--open", BROWSER=f"{browser} %s") as running:
        assert (tmp_path / "opened").read_text() == f"{running.address}\n"
        printed(tmp_path, "ui", BROWSER=f"{browser} %s", DISPLAY=":0")  # but no terminal
        assert (tmp_path / "opened").read_text() == f"{running.address}\n"


def test_a_store_that_is_none_is_told_with_the_log(tmp_path: Path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mlflow.db").write_text("this is no database\n" * 100)
    message = refused(tmp_path, "ui", "--port", "0", code=5).splitlines()[-1]
    log = tmp_path / "sweeps" / "mlflow.db.ui.log"
    assert re.fullmatch(rf"the MLflow server ended with exit code \d+; see {log}", message)
    assert "not a database" in log.read_text()
