"""A sweep of a thousand trials is gone on with as readily as a small one."""

import random
import time
from pathlib import Path

import optuna
import pytest

from search_spaces import load_config, planned_steps
from sweep.directory import create_ledger
from sweep.facts import load_data, sweep_facts
from tests.faults.harness import site, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRIALS = 1000
PROMISE_S = 30.0


def test_a_resume_of_a_thousand_trials_starts_the_next_within_30_seconds(tmp_path: Path):
    with site(tmp_path, trials=TRIALS + 50, algorithm="tpe", pruning="asha") as here:
        _record(here.folder / "faults.yaml", here.directory, here.tracking_uri)
        started = time.monotonic()
        command = here.start("resume", "faults")
        until((here.directory / "trials" / f"{TRIALS:04d}").exists, command.output)
        seconds = time.monotonic() - started
        print(f"the next trial after {seconds:.1f} s")
        assert seconds < PROMISE_S
        assert here.accepted().keys() >= set(range(TRIALS))


def _record(file: Path, directory: Path, tracking_uri: str) -> None:
    """A sweep as a killed driver leaves it after a thousand trials, two of them unfinished."""
    config, values = load_config(file), random.Random(0)
    ledger = create_ledger(
        directory,
        config,
        storage=None,
        tracking_uri=tracking_uri,
        steps_per_epoch=planned_steps(config),
        facts=sweep_facts(config, load_data(config, None)),
    )
    ledger.sampler_for = lambda number: optuna.samplers.RandomSampler(seed=number)  # quick
    for index in range(TRIALS):
        number, epochs = ledger.ask(), 4 if index % 3 == 0 else 2
        for epoch in range(1, epochs + 1):
            ledger.record(number, _report(epoch, values.random()))
        if index < TRIALS - 2:
            ledger.end(number, "complete" if epochs == 4 else "pruned", "")


def _report(epoch: int, value: float) -> dict:
    losses = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": value, "diverged": False}
    hashes = {"learning_rate_sha256": "a" * 64, "momentum_sha256": "a" * 64}
    return {"epoch": epoch, "seconds": 0.1, "worker": {}} | losses | hashes
