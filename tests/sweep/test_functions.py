"""The user's own functions, carried and kept."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import SweepConfig, parse_config
from sweep.errors import CommandError
from sweep.functions import check_sources, keep_sources, pickled_functions

BASE = """\
version: 1
name: own
data: {dataset: digits, validation_examples: 100}
training: {num_epochs: 2, batch_size: 64}
search: {num_trials: 1}
space: {schedule: {custom: {function: 'FILE:rule'}}}
"""
PLAIN = "def rule(t):\n    return 2.0**-t\n"
RECORD = """\
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Rate:
    start: float

    def __call__(self, t: int) -> float:
        return self.start * 0.5**t

rule = Rate(1.0)
"""
CACHED = "import functools\n\n@functools.lru_cache\n" + PLAIN
UNSENDABLE = """\
import threading

lock = threading.Lock()

def rule(t):
    with lock:
        return t
"""


def config_of(folder: Path, name: str, text: str) -> SweepConfig:
    (folder / name).write_text(text)
    return parse_config(BASE.replace("FILE", name), folder=folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rates.py", PLAIN),
        ("sweep.py", PLAIN),  # as the product's own package is called
        ("numpy.py", PLAIN),
        ("record.py", RECORD),
        ("cached.py", CACHED),
    ],
)
def test_a_function_works_where_its_file_is_not(tmp_path: Path, name: str, text: str):
    config = config_of(tmp_path, name, text)
    carried = pickled_functions(config)
    (tmp_path / name).unlink()
    elsewhere = (
        "import pickle, sys; (rule,) = pickle.load(sys.stdin.buffer).values(); "
        "print([float(rule(t)) for t in range(3)])"
    )
    done = subprocess.run([sys.executable, "-c", elsewhere], input=carried, capture_output=True)
    assert done.stdout == b"[1.0, 0.5, 0.25]\n", done.stderr


def test_nothing_of_the_product_is_carried(tmp_path: Path):
    carried = pickled_functions(config_of(tmp_path, "sweep.py", PLAIN))
    assert len(carried) < 2000
    assert b"TrialActor" not in carried
    assert pickle.loads(pickled_functions(parse_config(BASE.replace("FILE:rule", "math:exp"))))


def test_a_function_that_cannot_be_carried_is_refused(tmp_path: Path):
    config = config_of(tmp_path, "locked.py", UNSENDABLE)
    with pytest.raises(
        CommandError, match=r"must be one that can be sent to workers, but .*locked"
    ):
        pickled_functions(config)


@pytest.mark.parametrize("text", [PLAIN, RECORD, CACHED])
def test_a_changed_function_is_told_from_the_kept_one(tmp_path: Path, text: str):
    config = config_of(tmp_path, "rates.py", text)
    directory = tmp_path / "own"
    directory.mkdir()
    keep_sources(config, directory)
    assert (directory / "functions" / "0-rates.py").read_text() == text
    check_sources(config, directory)
    (tmp_path / "rates.py").write_text(text.replace("0.5", "0.4").replace("2.0", "2.1"))
    with pytest.raises(CommandError, match=r"rates.py must be as at the launch of own, but it is"):
        check_sources(config, directory)


def test_the_products_own_example_may_change(tmp_path: Path):
    config = parse_config(BASE.replace("FILE:rule", "trainers.schedules:divide_by_three"))
    keep_sources(config, tmp_path)
    assert not (tmp_path / "functions").exists()
