"""What a sweep spends beyond training: many trials of almost no work, two at a time.

    python benchmarks/overhead.py [--trials 200] [--epochs 5]

Prints the wall time per trial that is not training: from the first proposal to the last result
(`whole`, with the start of the workers in it), and from the end of the tenth trial on (`steady`).
The sweep is a real one: study, checkpoints, metric files and MLflow are on.
"""

import argparse
import tempfile
from pathlib import Path

from search_spaces import SweepConfig, load_config, preset_path
from sweep.driver import launch
from sweep.study import TrialRecord

_WARM = 10  # trials until both workers have compiled


def config(trials: int, epochs: int) -> SweepConfig:
    """The quickstart with 64 training images and no pruning."""
    preset = preset_path("quickstart")
    assert preset is not None
    settings = {
        "data.train_examples": 64,
        "training.num_epochs": epochs,
        "search.num_trials": trials,
        "pruning.algorithm": "none",
        "resources.max_concurrent": 2,
    }
    return load_config(preset, [f"{key}={value}" for key, value in settings.items()])


def overhead_ms(trials: list[TrialRecord], skip: int) -> float:
    """Milliseconds per trial beyond training, from the end of trial `skip` on, with two workers."""
    by_end = sorted(trials, key=lambda trial: trial.ended_ms or 0)
    start = (by_end[skip - 1].ended_ms or 0) if skip else min(t.started_ms for t in trials)
    counted = by_end[skip:]
    wall = (by_end[-1].ended_ms or 0) - start
    training = 1000 * sum(r["seconds"] for trial in counted for r in trial.reports)
    return (wall - training / 2) / len(counted)


def main() -> None:
    """Run the sweep and print both figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = launch(config(options.trials, options.epochs), Path(folder) / "overhead")
    for name, skip in (("whole", 0), ("steady", _WARM)):
        print(f"{name:7} {overhead_ms(outcome.trials, skip):6.1f} ms per trial beyond training")


if __name__ == "__main__":
    main()
