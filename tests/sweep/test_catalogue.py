"""`sweep schedules`: every family as its function describes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from search_spaces import parse_config
from sweep.catalogue import example_curve, find_entries
from sweep.cli import app
from tests.commands import modules_of, printed, refused
from tests.terminal import colours, plain, shown
from trainers.schedules import MOMENTA, SCHEDULES, config_keys, learning_rate_curve, momentum_curve

CONFIG = """\
version: 1
name: pasted
data: {dataset: digits, validation_examples: 100}
training: {num_epochs: 10, batch_size: 64}
search: {num_trials: 4, algorithm: random}
"""
FAMILIES = {**MOMENTA, **SCHEDULES}


def said(*arguments: str) -> str:
    """What `sweep schedules ARGUMENTS` prints, in this process."""
    done = CliRunner().invoke(app, ["schedules", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_family_is_listed_with_its_formula() -> None:
    lines = said().splitlines()
    for entry in find_entries():
        found = [line for line in lines if line.startswith(f"{entry.name} ")]
        assert len(found) == (entry.name in SCHEDULES) + (entry.name in MOMENTA)
        assert all(entry.formula in line for line in found)
        assert all(line.endswith(" ".join(entry.names)) for line in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_details_name_every_key(name: str) -> None:
    lines = said(name).splitlines()
    rows = [line.split()[0] for line in lines[lines.index("") :] if line.strip()]
    for key in config_keys(FAMILIES[name]):
        assert key in rows, key


@pytest.mark.parametrize(
    ("family", "key", "meaning", "default"),
    [
        ("constant", "peak_lr", "learning rate", "required"),
        ("one_cycle", "final_fraction", "share of peak_lr", "4e-06"),
        ("one_cycle", "anneal", "one of cosine, linear", "cosine"),
        ("one_cycle", "cycle_fraction", "duration: share of the run after the warmup", "the whole"),
        ("exponential_decay", "staircase", "true or false", "false"),
        ("piecewise_constant", "values", "list of learning rates", "required"),
        ("piecewise_constant", "boundaries_fraction", "durations, rising: share of", "required"),
        ("custom", "function", "module:function or file.py:function", "required"),
        ("mirror", "low", "momentum", "required"),
    ],
)
def test_the_details_say_what_a_key_takes(
    family: str, key: str, meaning: str, default: str
) -> None:
    (row,) = [line for line in said(family).splitlines() if line.startswith(f"{key} ")]
    assert meaning in row
    assert default in row.removeprefix(key)


@pytest.mark.parametrize("family", SCHEDULES)
def test_the_default_space_can_be_pasted(family: str) -> None:
    text = said(family)
    block = text.split(f"which may be written  {family}: default\n")[1].split("\n\n")[0]
    short = f"space: {{schedule: {{{family}: default}}}}\n"
    assert parse_config(CONFIG + block + "\n").space == parse_config(CONFIG + short).space


@pytest.mark.parametrize("name", FAMILIES)
def test_the_examples_are_valid_and_drawn(name: str) -> None:
    for found in json.loads(said(name, "--json")):
        (entry,) = [entry for entry in find_entries(name) if entry.table == found["table"]]
        curve = example_curve(entry)
        if curve is None:
            assert (name, entry.table) == ("custom", "momentum_schedule")
            continue
        space: dict[str, Any] = {found["table"]: {name: found["example"]}}
        base = {"schedule": {"one_cycle": {"peak_lr": 0.1, "rise_fraction": 0.3}}} | space
        expected = learning_rate_curve(base, num_epochs=10, steps_per_epoch=60)
        if entry.table == "momentum_schedule":
            expected = momentum_curve(base, expected, steps_per_epoch=60)
        assert expected is not None
        first = 60 if name == "reduce_on_plateau" else len(curve)
        np.testing.assert_array_equal(curve[:first], expected[:first])


def test_reduce_on_plateau_is_drawn_with_plateaus() -> None:
    (entry,) = find_entries("reduce_on_plateau")
    curve = example_curve(entry)
    assert curve is not None
    factor = entry.example["factor"]
    levels = np.unique(curve)[::-1]
    assert len(levels) >= 3
    np.testing.assert_allclose(levels[1:] / levels[:-1], factor, rtol=1e-6)
    assert "the loss never falling" in said("reduce_on_plateau")


def test_json_holds_every_family() -> None:
    found = json.loads(said("--json"))
    assert [e["name"] for e in found if e["table"] == "schedule"] == list(SCHEDULES)
    assert [e["name"] for e in found if e["table"] == "momentum_schedule"] == list(MOMENTA)
    for entry in found:
        family = FAMILIES[entry["name"]]
        assert set(config_keys(family)) <= {key["key"] for key in entry["parameters"]}


def test_markdown_has_a_row_for_each_family() -> None:
    rows = said("--markdown").splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(SCHEDULES)
    assert all(row.count("|") == 5 for row in rows)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("cosine", "did you mean cosine_decay or cosine_restarts?"),
        ("mirorr", "did you mean mirror?"),
        ("xyz", "list them: sweep schedules"),
    ],
)
def test_an_unknown_family_is_refused(tmp_path: Path, name: str, way_out: str) -> None:
    text = refused(tmp_path, "schedules", name, code=2)
    assert text == f"there is no schedule {name}; {way_out}"


@pytest.mark.parametrize("arguments", [[], ["interpolate"], ["warmup_stable_decay"]])
@pytest.mark.parametrize("width", [80, 200])
def test_it_fits_the_terminal(tmp_path: Path, arguments: list[str], width: int) -> None:
    text = shown(tmp_path, "schedules", *arguments, width=width)
    assert colours(text)
    assert max(map(len, plain(text).splitlines())) <= width
    assert not colours(shown(tmp_path, "schedules", *arguments, width=width, NO_COLOR=1))


def test_a_narrow_terminal_gets_it_wrapped(tmp_path: Path) -> None:
    assert "peak_lr" in shown(tmp_path, "schedules", width=20)


def test_it_is_plain_where_there_is_no_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in printed(tmp_path, "schedules")


@pytest.mark.parametrize("arguments", [["schedules"], ["schedules", "rex"]])
def test_it_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    found = modules_of(tmp_path, *arguments)
    assert "sweep.catalogue" in found
    assert not {"jax", "ray", "mlflow", "optuna", "matplotlib"} & found
