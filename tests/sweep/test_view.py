"""The live view, and the tables, at every size of a terminal."""

import re
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from search_spaces import parse_config, preset_path
from sweep.pace import Pace
from sweep.records import SweepRecord, TrialRecord
from sweep.slots import Slots
from sweep.tables import drawn_curve, layout, trial_table
from sweep.view import Standing, plan_for, view

_PRESET = preset_path("quickstart")
assert _PRESET is not None
CONFIG = parse_config(_PRESET.read_text())
SPACES: dict[str, dict[str, Any]] = {
    "constant": {"peak_lr": 0.25},
    "polynomial_decay": {"peak_lr": 0.104, "power": 2.75, "final_fraction": 0.1},
    "reduce_on_plateau": {"peak_lr": 0.5, "patience_epochs": 1, "factor": 0.1},
    "exponential_decay": {"peak_lr": 1.0, "decay_rate": 1e-4},
}


def trial(number: int, state: str, family: str = "polynomial_decay") -> TrialRecord:
    space = {"schedule": {family: SPACES[family]}, "warmup_fraction": 0.1, "momentum": 0.123456}
    shown = {"schedule": family} | SPACES[family] | {"warmup_fraction": 0.1, "momentum": 0.123456}
    report = {"timestamp_ms": 5, "val_accuracy": 0.75, "val_loss": 1.0, "train_loss": 1.0}
    worker = {"node": "n", "pid": number % 2, "device_kind": "cpu"}
    reports = tuple(report | {"epoch": epoch, "worker": worker} for epoch in range(1, 11))
    ended = None if state == "running" else 9
    return TrialRecord(number, state, space, shown, reports, 0.75, "", 0, ended, "")


def sweep(slots: int = 2, name: str = "quickstart", state: str = "running") -> SweepRecord:
    return SweepRecord(name, Path("q"), CONFIG, state, 18, 0, "", "", {}, Slots(1, 0.25, slots))


SCENES: dict[str, list[TrialRecord]] = {
    "nothing": [],
    "begun": [trial(0, "running"), trial(1, "running")],
    "middle": [*(trial(n, "complete") for n in range(12)), trial(12, "running")],
    "ended": [trial(n, ("complete", "pruned", "diverged")[n % 3]) for n in range(24)],
}
PACE = Pace(3661, 31.4, 0.0123, (64, 110))


def drawn(trials: list[TrialRecord], width: int, height: int, slots: int = 2) -> list[Text]:
    now = Standing(sweep(slots, name="a" * 64), trials, PACE)
    return view(now, width=width, height=height, hint="Ctrl-C leaves the sweep alone")


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 81, 120, 160, 200, 300])
@pytest.mark.parametrize("slots", [1, 2, 64])
def test_every_line_fits_and_their_number_is_the_terminals_alone(width: int, slots: int) -> None:
    for height in (5, 8, 10, 13, 14, 22, 30, 48, 60):
        views = {name: drawn(trials, width, height, slots) for name, trials in SCENES.items()}
        assert len({len(lines) for lines in views.values()}) == 1
        for lines in views.values():
            assert 5 <= len(lines) <= height
            assert max(line.cell_len for line in lines) <= width
            assert all("\n" not in line.plain for line in lines)


def test_what_a_terminal_of_24_lines_holds() -> None:
    form = layout(CONFIG, 80)
    assert (form.blocks, form.beside, form.lines) == (14, False, 2)
    assert plan_for(22, form, 2) == (5, 2, True)
    text = [line.plain for line in drawn(SCENES["middle"], 80, 22)]
    assert re.fullmatch("a{40,}…  running  1h01, 64 to 110 s left", text[0])
    assert text[1] == "━" * 31 + "─" * 4 + "·" * 28 + "  12 of 24 trials"
    assert re.fullmatch("12 complete  1 running +31 trials/min, 0.012 epochs/s", text[2])
    assert text[4] == "1 of 2 slots busy, 1 CPU and 0.25 GPU each, 2 workers on 1 node (cpu)"
    words = "peak_lr=0.104 power=2.75 final_fraction=0.1 warmup_fraction=0.1 momentum=0.123"
    assert text[8] == f"       {words}"[:79] + "…"
    assert text[18].endswith("Ctrl-C leaves the sweep alone")


def test_more_running_trials_than_lines_are_counted() -> None:
    running = [trial(number, "running") for number in range(40)]
    text = [line.plain for line in drawn(running, 80, 30, slots=40)]
    rows = [line for line in text if "10/10" in line]
    assert text[-1].strip() == f"and {40 - len(rows)} more"


def test_trouble_with_the_driver_is_shown() -> None:
    now = Standing(sweep(), SCENES["begun"], PACE, "not heard of for 40 s")
    text = view(now, width=80, height=22, hint="")[0].plain
    assert text.startswith("quickstart  not heard of for 40 s ")


def test_curves_are_drawn_as_they_were_followed() -> None:
    assert drawn_curve(sweep(), trial(0, "complete", "constant"), 8) == "▅███████"
    fallen = drawn_curve(sweep(), trial(0, "complete", "reduce_on_plateau"), 8)
    assert fallen.startswith("██▇")
    assert fallen.endswith("▁ log")  # ten losses that do not fall
    assert drawn_curve(sweep(), trial(0, "complete", "exponential_decay"), 8).endswith("▁ log")


def test_a_function_that_is_gone_leaves_its_curve_out() -> None:
    gone = {"schedule": {"custom": {"function": "no_such_module:f"}}}
    lost = trial(0, "complete")._replace(space=gone)
    assert drawn_curve(sweep(), lost, 8) == ""
    lines = trial_table(sweep(), [lost], 80)
    assert len(lines) == 3


def test_an_open_trial_of_a_sweep_that_stands_still_is_interrupted() -> None:
    (_, row, _) = trial_table(sweep(state="paused"), [trial(0, "running")], 80)
    assert "interrupted" in row.plain
