"""The live view in real terminals: `sweep watch` of a sweep that the test itself drives."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search_spaces import parse_config
from sweep.directory import create_ledger, latest_driver, open_ledger, read_sweep
from sweep.lease import driving
from sweep.slots import Slots
from sweep.study import Ledger
from tests.commands import CONFIG, SWEEP, environment, refused, run
from tests.terminal import Screen, colours, plain, shown

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None and not os.environ.get("CI"), reason="needs tmux"
)
SIZES = [(80, 24), (200, 50), (40, 10)]
TALL = {"LINES": 50, "COLUMNS": 300}  # of another terminal; this one knows its own size
WORKER = {"node": "10.0.0.1", "pid": 7, "device_kind": "cpu"}
MANY = """\
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    warmup_stable_decay: {peak_lr: {log_uniform: [1e-3, 1]}, decay_fraction: 0.2}
"""
KEYS = {"learning_rate_sha256": "a" * 64, "seconds": 0.1, "diverged": False, "worker": WORKER}


def report(epoch: int, value: float) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": 1.5, "val_loss": 1.5, "val_accuracy": value} | KEYS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = CONFIG.replace(MANY.split("\n")[0] + "\n", "").replace(MANY.split("\n")[1] + "\n", MANY)
    create_ledger(
        tmp_path / "sweeps" / "rates",
        parse_config(text),
        storage=None,
        tracking_uri="http://localhost:5000",
        steps_per_epoch=2,
        facts={},
    )
    return tmp_path


@contextmanager
def driver(folder: Path) -> Iterator[Ledger]:
    """What a launch holds while it runs: the lease and the ledger."""
    directory = folder / "sweeps" / "rates"
    with driving(directory, above=latest_driver(directory)) as lease:
        ledger = open_ledger(directory, lease=lease)
        ledger.set_state("running")
        ledger.set_slots(Slots(1, 0, 2))
        yield ledger


def train(ledger: Ledger, value: float, state: str = "complete") -> int:
    """One trial from its start to its end."""
    number = ledger.ask()
    for epoch in (1, 2):
        ledger.record(number, report(epoch, value))
    ledger.end(number, state, "")
    return number


@pytest.mark.parametrize("size", SIZES)
def test_the_view_is_calm_and_fits(folder: Path, size: tuple[int, int]) -> None:
    width, height = size
    with Screen(folder, "watch", "rates", size=size, **TALL) as screen:
        screen.shows("ended with")  # nobody runs it yet
    with driver(folder) as ledger, Screen(folder, "watch", "rates", size=size, **TALL) as screen:
        places = []
        for ended in range(5):
            running = ledger.ask()
            ledger.record(running, report(1, 0.5))
            lines = screen.shows(f"{ended} complete  1 running" if ended else "1 running")
            assert len(lines) < height
            assert lines == screen.lines("-J")  # no line is broken
            whole = screen.lines("-S", "-")
            assert sum(line.startswith("rates  running") for line in whole) == 1
            titles = ("rates  running", "best", "trial", "running")
            places.append([[line.startswith(t) for line in lines].index(True) for t in titles[:3]])
            assert any("trial " in line and " of 8 trials" not in line for line in lines)
            ledger.record(running, report(2, 0.5 + ended / 10))
            ledger.end(running, "complete", "")
        assert all(place == places[0] for place in places)
        lines = screen.shows("5 complete")
        assert "0.9000" in next(line for line in lines if line.startswith("best"))
        assert ("warmup_fraction" in "".join(lines)) is False
        assert any("peak_lr=" in line for line in lines)
        if width >= 80:
            text = "\n".join(lines)
            assert "0 of 2 slots busy, 1 CPU each, 1 worker on 1 node (cpu)" in text
            assert re.search("[0-9] trials/min, [0-9.]+ epochs/s", text)
            assert re.search(r"\d+:\d\d, .* left", lines[0])
            assert "Ctrl-C leaves the sweep alone" in text
            assert len([line for line in lines if re.match(" +[0-4] +0.[0-9]{4} ", line)]) == 5
        ledger.set_state("finished")


@pytest.mark.parametrize("size", SIZES)
def test_watch_ends_with_the_sweep_and_leaves_nothing_over(
    folder: Path, size: tuple[int, int]
) -> None:
    with Screen(folder, "watch", "rates", size=size, **TALL) as screen:
        pass
    with driver(folder) as ledger:
        screen = Screen(folder, "watch", "rates", size=size, **TALL)
        train(ledger, 0.5)
        screen.shows("1 complete")
        train(ledger, 0.25, "pruned")
        ledger.set_state("finished")
    with screen:
        screen.shows("ended with 0")
        text = "\n".join(screen.lines("-S", "-", "-J"))
    assert text.startswith("rates  2 of 8 trials  1 complete  1 pruned  best 0.5000 (trial 0)\n")
    assert "winner   trial 0: " in text
    for command in ("sync rates", "ui rates", "export rates -o best.yaml", "train best.yaml"):
        assert text.count(f"sweep {command}\n") == 1
    for gone in ("Ctrl-C", "running", "slots busy", "━", "─"):
        assert gone not in text


def test_ctrl_c_leaves_the_sweep_alone(folder: Path) -> None:
    with driver(folder) as ledger, Screen(folder, "watch", "rates", size=(40, 10)) as screen:
        train(ledger, 0.5)
        number = ledger.ask()
        screen.shows("1 running")
        screen.press("C-c")
        screen.shows("ended with 130")
        lines = [line for line in screen.lines("-J", "-S", "-") if line != "^C"]
        assert lines == [
            "rates goes on by itself; look again with: sweep watch rates",
            "ended with 130",
        ]
        assert not (folder / "sweeps" / "rates" / "control").exists()
        for epoch in (1, 2):
            ledger.record(number, report(epoch, 0.5))
        ledger.end(number, "complete", "")
        assert read_sweep(folder / "sweeps" / "rates")[0].state == "running"


def test_where_there_is_no_terminal_a_line_comes_for_trials_that_end(folder: Path) -> None:
    command = [SWEEP, "watch", "rates"]
    env = environment(FORCE_COLOR=1, TERM="xterm-256color")
    with driver(folder) as ledger:
        watching = subprocess.Popen(
            command, cwd=folder, env=env, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert watching.stderr is not None
        train(ledger, 0.5)
        assert watching.stderr.readline().startswith("rates  1 of 8 trials  1 complete")
        train(ledger, 0.75)
        assert watching.stderr.readline().startswith("rates  2 of 8 trials  2 complete")
        ledger.set_state("finished")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "\x1b[?25l" not in err  # nothing that moves or hides the cursor
    assert not re.search(r"\x1b\[[0-9;]*[A-HJK]", err)
    assert "winner   trial 1: " in out
    assert "\x1b" not in out


def test_no_color_is_respected(folder: Path) -> None:
    with driver(folder) as ledger:
        for variables, coloured in (({}, True), ({"NO_COLOR": 1}, False)):
            with Screen(folder, "watch", "rates", size=(80, 24), **variables) as screen:
                train(ledger, 0.5)
                screen.shows(" complete")
                found = set(colours("\n".join(screen.lines("-e"))))
                assert bool(found - {"\x1b[39m", "\x1b[49m"}) == coloured  # tmux resets them
        ledger.set_state("finished")
    for command in ("status", "best"):
        assert colours(shown(folder, command, "rates", width=80))
        assert not colours(shown(folder, command, "rates", width=80, NO_COLOR=1))


def test_a_sweep_whose_driver_died_is_told_how_to_go_on(folder: Path) -> None:
    with driver(folder) as ledger, Screen(folder, "watch", "rates", size=(80, 24)) as screen:
        ledger.ask()
        screen.shows("1 running")
    done = run(folder, "watch", "rates")
    assert done.returncode == 0
    assert done.stderr.startswith("rates  0 of 8 trials  1 interrupted\n")
    assert "go on    sweep resume rates\n" in done.stdout


def test_watch_of_no_sweep(folder: Path) -> None:
    text = refused(folder, "watch", "rats", code=2)
    assert text == "no sweep rats in sweeps; did you mean rates?"


@pytest.mark.parametrize("width", [80, 200])
def test_status_and_best_fit(folder: Path, width: int) -> None:
    with driver(folder) as ledger:
        train(ledger, 0.5)
        ledger.ask()
        for command in ("status", "best"):
            text = plain(shown(folder, command, "rates", width=width, COLUMNS=300))
            assert max(map(len, text.splitlines())) <= width
            rows = [line for line in text.splitlines() if "peak_lr=" in line]
            assert ("0.5000" in rows[0]) == (width == 200)  # parameters stand beside, or below
        assert "running" in shown(folder, "status", "rates", width=width)


@pytest.mark.slow
def test_a_launch_draws_the_same_view_and_clears_it(tmp_path: Path) -> None:
    sets = ["--set", "search.num_trials=4", "--set", "training.num_epochs=2"]
    words = ("launch", "quickstart", *sets, "--set", "pruning.algorithm=none")
    with Screen(tmp_path, *words, size=(80, 24), **TALL) as screen:
        lines = screen.shows("Ctrl-C stops after the running epochs", limit_s=280)
        assert len(lines) < 24
        assert any(line.startswith("quickstart  running ") for line in lines)
        screen.shows("ended with 0", limit_s=280)
        text = "\n".join(screen.lines("-S", "-", "-J"))
    assert "quickstart  4 of 4 trials  4 complete  best 0." in text
    assert "repeat   sweep train best.yaml" in text
    assert "Ctrl-C" not in text
    assert "slots busy" not in text


def test_long_messages_break_between_words(tmp_path: Path) -> None:
    with Screen(tmp_path, "check", "no-such-sweep-file", size=(40, 10)) as screen:
        lines = screen.shows("ended with 2")
    assert lines[0] == "there is no file and no preset"
    assert lines[1].startswith("  no-such-sweep-file; ")
    assert all(line.startswith("  ") for line in lines[1 : lines.index("ended with 2")])
