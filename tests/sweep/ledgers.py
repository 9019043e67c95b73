"""Ledgers to test, and trials in them that nobody has trained."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from search_spaces import parse_config
from sweep.directory import create_ledger
from sweep.halt import Halt
from sweep.study import Ledger

EPOCHS = 4
CONFIG = """
version: 1
name: rates
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 4, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}, final_fraction: {choice: [0, 0.1]}}
  momentum: {uniform: [0, 0.9]}
search: {algorithm: random, num_trials: 8}
"""
ONE_FAMILY = "space={schedule: {constant: {peak_lr: {log_uniform: [1e-3, 1]}}}, %s}"
RATES = "momentum: {uniform: [0, 0.9]}"
FACTS = {"user": "ada", "config_sha256": "c" * 64, "dataset_digest": "d" * 64}


def create(directory: Path, *overrides: str, storage: str | None = None) -> Ledger:
    return create_ledger(
        directory,
        parse_config(CONFIG, overrides=overrides),
        storage=storage,
        tracking_uri="http://localhost:5000",
        steps_per_epoch=10,
        facts=FACTS,
    )


def report(epoch: int, *, diverged: bool = False, **values: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": math.nan if diverged else 1.5,
        "val_loss": math.inf if diverged else 1.25,
        "val_accuracy": 0.5,
        "learning_rate_sha256": "a" * 64,
        "seconds": 0.1,
        "diverged": diverged,
        "worker": {"node": "127.0.0.1", "pid": 7},
    } | values


def trained(ledger: Ledger, state: str, *values: float) -> int:
    """A new trial that reports these values and ends in `state`."""
    number = ledger.ask()
    for epoch, value in enumerate(values, start=1):
        ledger.record(number, report(epoch, val_accuracy=value, val_loss=value))
    ledger.end(number, state, f"so it is {state}")
    return number


def python(script: str, *arguments: object) -> "subprocess.Popen[str]":
    """Another process that runs `script` after what it needs is imported."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    start += "import os, signal\nfrom sweep.directory import open_ledger, read_sweep\n"
    start += f"from {__name__} import *\nfolder = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", start + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def handed_out(ledger: Ledger, count: int) -> list[Any]:
    """What the search gives Ray Tune when it is asked `count` times."""
    # These import Ray, which a process of `python` need not.
    from sweep.capacity import Capacity
    from sweep.search import LedgerSearcher, Referee
    from sweep.slots import Slots

    capacity = Capacity(Slots(1, 0, count), None)
    searcher = LedgerSearcher(ledger, Referee(ledger), Halt(ledger.directory), capacity)
    return [searcher.suggest(str(index)) for index in range(count)]
