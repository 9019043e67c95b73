"""What the pictures of a large sweep cost: drawing them, their size, and opening them.

    python benchmarks/pages.py [--trials 500] [--epochs 10] [--times 5]

The sweep is made up: no training, but records as a sweep leaves them. Prints wall and CPU seconds
of the report and of a single figure's page, their sizes, and, in the system's Chromium by
Playwright, the time from opening the file to the first figure.
"""

import argparse
import hashlib
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import (
    Choice,
    Distribution,
    IntUniform,
    Scalar,
    SweepConfig,
    flat_parameters,
    load_config,
    preset_path,
    sample_space,
)
from sweep.records import SweepRecord, TrialRecord
from trainers.schedules import learning_rate_curve, plateau_rule

_STEPS = 40  # optimizer steps in an epoch


def main() -> None:
    """Draw, open, and print what that took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    sweep, trials = made_up(options.trials, epochs=options.epochs)
    from sweep.figures import draw
    from sweep.report import figure_html, report_html

    with tempfile.TemporaryDirectory() as folder:
        for name, page in (
            ("report", lambda: report_html(sweep, trials)),
            ("atlas", lambda: figure_html("atlas", sweep, draw("atlas", sweep, trials))),
        ):
            text, wall, cpu = timed(page)
            path = Path(folder) / f"{name}.html"
            path.write_text(text)
            size = path.stat().st_size / 1e6
            print(f"{name}: drawn in {wall:.2f} s, {cpu:.2f} s of CPU; {size:.1f} MB", flush=True)
            spans = opening_seconds(path, options.times)
            low, middle, high = min(spans), statistics.median(spans), max(spans)
            print(f"{name}: first figure {middle:.2f} s after opening ({low:.2f} to {high:.2f})")


def timed(work: Callable[[], str]) -> tuple[str, float, float]:
    """What `work` gives, with the wall and CPU seconds it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    return made, time.perf_counter() - wall, time.process_time() - cpu


def opening_seconds(path: Path, times: int) -> list[float]:
    """Seconds from opening a page in a new tab to its first figure, each time."""
    from playwright.sync_api import sync_playwright

    spans = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for _ in range(times):
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(path.as_uri(), wait_until="commit")
            page.wait_for_selector(".figure .main-svg", state="attached", timeout=60_000)
            spans.append(time.perf_counter() - started)
            page.close()
        browser.close()
    return spans


def made_up(
    num_trials: int,
    *,
    config: SweepConfig | None = None,
    epochs: int = 10,
    states: tuple[str, ...] = (),
    seed: int = 0,
) -> tuple[SweepRecord, list[TrialRecord]]:
    """The records of a sweep that never ran; `states` in turn, or most complete and some not."""
    preset = preset_path("quickstart")
    assert preset is not None
    overrides = [f"training.num_epochs={epochs}", f"search.num_trials={max(num_trials, 1)}"]
    config = config or load_config(preset, overrides)
    chance = random.Random(seed)
    facts = {"sweep_id": "5" * 32, "config_sha256": "c" * 64, "dataset_digest": "d" * 64}
    sweep = SweepRecord(
        config.name,
        Path("sweeps") / config.name,
        config,
        "running" if "running" in states else "finished",
        _STEPS,
        1_790_000_000_000,
        "sqlite:///mlflow.db",
        config.tracking.experiment,
        facts,
    )
    usual = chance.choices(("complete", "pruned", "diverged"), (12, 7, 1), k=num_trials)
    chosen = [states[n % len(states)] for n in range(num_trials)] if states else usual
    return sweep, [_trial(sweep, n, state, chance) for n, state in enumerate(chosen)]


def _trial(sweep: SweepRecord, number: int, state: str, chance: random.Random) -> TrialRecord:
    epochs = sweep.config.training.num_epochs
    space = sample_space(sweep.config, lambda _, spread: _drawn(spread, chance))
    curve = learning_rate_curve(space, num_epochs=epochs, steps_per_epoch=_STEPS)
    run = epochs if state == "complete" else chance.randint(1, max(epochs - 1, 1))
    started = sweep.created_ms + 1000 * number
    quality = math.exp(-((math.log10(float(curve.max()) + 1e-9) + 1) ** 2) / 4)
    reports: list[dict[str, Any]] = []
    plateau = plateau_rule(space, num_epochs=epochs, steps_per_epoch=_STEPS)
    for epoch in range(1, run + 1):
        lost = state == "diverged" and epoch == run
        accuracy = 0.1 + 0.85 * quality * (1 - math.exp(-epoch / 3)) + 0.01 * chance.random()
        losses = [report["val_loss"] for report in reports]
        row = curve.reshape(epochs, _STEPS)[epoch - 1]
        if plateau:
            row = row * np.array(plateau.scales(losses), np.float32)[epoch - 1]
        reports.append(
            {
                "epoch": epoch,
                "train_loss": None if lost else 2.4 * (1 - accuracy) + 0.01,
                "val_loss": None if lost else 2.5 * (1 - accuracy) + 0.02,
                "val_accuracy": accuracy,
                "learning_rate_sha256": hashlib.sha256(row.astype("<f4").tobytes()).hexdigest(),
                "diverged": lost,
                "seconds": 0.2,
                "timestamp_ms": started + 200 * epoch,
                "worker": {"host": "node-1", "device": "cpu:0"},
            }
        )
    value = None if state == "diverged" else reports[-1][sweep.config.search.metric]
    digest = hashlib.sha256(curve.tobytes()).hexdigest()
    ended = None if state == "running" else started + 200 * run
    parameters = flat_parameters(space)
    return TrialRecord(
        number, state, space, parameters, tuple(reports), value, digest, started, ended, ""
    )


def _drawn(spread: Distribution, chance: random.Random) -> Scalar:
    if isinstance(spread, Choice):
        return chance.choice(spread.options)
    if isinstance(spread, IntUniform):
        return chance.randint(spread.low, spread.high)
    if spread.log:
        return math.exp(chance.uniform(math.log(spread.low), math.log(spread.high)))
    return chance.uniform(spread.low, spread.high)


if __name__ == "__main__":
    main()
