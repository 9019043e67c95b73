"""How much a sweep file may hold, and how much is said about a bad one."""

from pathlib import Path

import pytest

from search_spaces import config_to_yaml, load_config, parse_config
from tests.search_spaces.test_loading import SOUND, refusal

SIX = """\
    cyclic:
      peak_lr: {uniform: [0, 1]}
      init_fraction: {uniform: [0, 1]}
      cycle_fraction: {choice: [0.25, 0.5]}
      mode: {choice: [triangular, triangular2]}
  warmup_fraction: {uniform: [0, 0.5]}
  momentum: {uniform: [0, 0.9]}
"""
POINT = (
    "  - {schedule: {cyclic: {peak_lr: %r, init_fraction: %r, cycle_fraction: 0.25,"
    " mode: triangular2}}, warmup_fraction: %r, momentum: %r}\n"
)


def many_points(number: int) -> str:
    """A sound text with so many points of six parameters, every number with all its digits."""
    one = "    constant: {peak_lr: {log_uniform: [1e-3, 1]}}\n  momentum: 0.9\n"
    text = SOUND.replace(one, SIX).replace("num_trials: 8", f"num_trials: {number}")
    shares = [(1 + index) / (3 + number) for index in range(number)]
    return text + "enqueue:\n" + "".join(POINT % (s, s / 3, s / 6, s / 7) for s in shares)


def test_a_thousand_points_of_six_parameters_are_no_burden(tmp_path: Path):
    file = tmp_path / "points.yaml"
    file.write_text(many_points(1000))
    assert file.stat().st_size > 180_000
    config = load_config(file, samples=20)
    assert len(config.enqueue) == 1000
    assert parse_config(config_to_yaml(config)) == config


LONG_CHOICE = f"momentum: {{choice: [{', '.join(f'0.{number}' for number in range(100, 600))}]}}"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "name: t",
            f"name: [{'1, ' * 2001}]",
            "2:6008: a list must hold at most 2000 entries, but has more; shorten it",
        ),
        (
            "name: t",
            "".join(f"k{number}:\n" for number in range(100)),
            "101:1: a mapping must hold at most 100 keys, but has more",
        ),
        (
            "name: t",
            f"name: [{'[1, 1, 1, 1, 1, 1, 1, 1, 1], ' * 2000}]",
            "2:57998: a file must hold at most 20000 values, but has more",
        ),
        (
            "name: t",
            f"name: [{'[1, 1, 1, 1, 1, 1, 1], ' * 2000}]",
            "1:1: a file must hold at most 15000 values, but has 16020; enqueue fewer points",
        ),
        (
            "momentum: 0.9",
            LONG_CHOICE,
            "5:1: space: space must hold at most 500 values, but has 509; "
            "shorten its lists and choices",
        ),
        (
            "epochs: 10, batch_size: 64",
            "epochs: 1500, batch_size: 1",
            "4:52: training.num_epochs: the steps of a trial <= 2000000 must hold, "
            "but got 2005500; train for fewer epochs, or in larger batches",
        ),
    ],
    ids=["entries", "keys", "any values", "values", "space", "steps"],
)
def test_a_file_has_bounds(old: str, new: str, fault: str):
    found = refusal(SOUND.replace(old, new, 1), filename="f", samples=20)
    assert found == [f"f:{fault}"]


def test_only_the_first_faults_of_very_many_are_shown():
    points = "\n".join(f"  - {{schedule: x{number}}}" for number in range(150))
    (*faults, last) = refusal(f"{SOUND}enqueue:\n{points}\n".replace("8}", "999}"), filename="f")
    assert [fault.split(":")[1] for fault in faults] == [str(11 + n) for n in range(100)]
    assert last == "f: only the first 100 faults are shown, and there are more; mend these first"
    (*faults, again) = refusal("a: 1\n" * 999, filename="f")
    assert (len(faults), again) == (100, last)


def test_long_names_are_shortened_and_nothing_acts_on_a_terminal():
    word = "x" * 5000
    for text in (f"{word[:999]}: 1", f"a: &{word} 1", f"a: !{word} 1", f"? {word}\n: 1"):
        assert max(map(len, refusal(text))) < 300
    (*_, fault) = refusal(SOUND.replace("sgd", f'"{word}\\e[2J\\r\\n"'))
    assert len(fault) < 2100
    assert fault.isprintable()
