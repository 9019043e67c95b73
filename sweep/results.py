"""What came out of a sweep: its leaderboard, its best trial, the config that trains it again."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from search_spaces import SweepConfig, concrete_config, config_to_yaml
from sweep.delivery import without_password
from sweep.errors import CommandError
from sweep.files import write_text
from sweep.records import SweepRecord, TrialRecord


def best_trial(config: SweepConfig, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the best metric; of equals the first."""
    return next(iter(leaderboard(config, [t for t in trials if t.state == "complete"])), None)


def leaderboard(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that have a value: complete ones first, each group from best to worst."""
    sign = -1 if config.search.goal == "maximize" else 1
    valued = [
        (t.state != "complete", sign * t.value, t.number, t) for t in trials if t.value is not None
    ]
    return [entry[-1] for entry in sorted(valued, key=lambda entry: entry[:3])]


def trial_name(record: TrialRecord) -> str:
    """The name of a trial everywhere a person reads it: `0007-cosine_decay-peak3.1e-3`."""
    name = f"{record.number:04d}-{record.parameters['schedule']}"
    peak = record.parameters.get("peak_lr")
    return name if peak is None else f"{name}-peak{_short(peak)}"


def shown_state(sweep: SweepRecord, trial: TrialRecord) -> str:
    """A trial's state; interrupted if it has not ended, but its sweep runs no more."""
    cut_off = trial.state == "running" and sweep.state != "running"
    return "interrupted" if cut_off else trial.state


def larger_budget(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str | None:
    """The options of a resume that let a sweep which is over go on; None where none does.

    A grid has no more points, and a target that is reached ends the sweep again. Hours are raised
    where trials are left: they ran out, or there is no number of trials.
    """
    search, best = sweep.config.search, best_trial(sweep.config, trials)
    if best and reaches_target(sweep.config, best.value):
        return None
    spent = search.num_trials is not None and len(trials) >= search.num_trials
    if spent and search.algorithm == "grid":
        return None
    if search.hours is not None and not spent:
        return f"--hours {2 * search.hours:g}"
    return f"--num-trials {(search.num_trials or 0) * (2 if spent else 1)}"


def reaches_target(config: SweepConfig, value: float | None) -> bool:
    """Whether a complete trial's value ends the search."""
    search = config.search
    if search.target is None or value is None:
        return False
    return value >= search.target if search.goal == "maximize" else value <= search.target


def summary(sweep: SweepRecord, trials: list[TrialRecord]) -> dict[str, Any]:
    """A sweep as plain values, for tables and JSON."""
    best = best_trial(sweep.config, trials)
    return {
        "name": sweep.name,
        "state": sweep.state,
        "created": datetime.fromtimestamp(sweep.created_ms / 1000).isoformat(" ", "seconds"),
        "num_trials": sweep.config.search.num_trials,
        "trials": dict(sorted(Counter(shown_state(sweep, trial) for trial in trials).items())),
        "metric": sweep.config.search.metric,
        "best": best and trial_summary(best),
        "tracking_uri": without_password(sweep.tracking_uri),
        "directory": str(sweep.directory),
    }


def trial_summary(trial: TrialRecord) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "trial": trial.number,
        "run_name": trial_name(trial),
        "state": trial.state,
        "value": trial.value,
        "epochs": len(trial.reports),
        "parameters": trial.parameters,
        "curve_sha256": trial.curve_sha256,
        "message": trial.message,
    }


def exportable_trial(
    sweep: SweepRecord, trials: list[TrialRecord], number: int | None
) -> TrialRecord:
    """Trial `number`, or the best; CommandError unless it is complete."""
    if number is None:
        best = best_trial(sweep.config, trials)
        if best is None:
            raise CommandError(f"no trial of {sweep.name} is complete, so none can be exported")
        return best
    found = next((trial for trial in trials if trial.number == number), None)
    if found is None or found.state != "complete":
        state = found.state if found else "unknown"
        raise CommandError(f"only a complete trial can be exported, but trial {number} is {state}")
    return found


def best_config(sweep: SweepRecord, trial: TrialRecord) -> SweepConfig:
    """The config that trains `trial` again, with what is expected of it."""
    expected = {
        "sweep": sweep.name,
        "trial": trial.number,
        "metric": sweep.config.search.metric,
        "value": trial.value,
        "curve_sha256": trial.curve_sha256,
        "config_sha256": sweep.facts["config_sha256"],
        "dataset_digest": sweep.facts["dataset_digest"],
    }
    suffix = f"-best{trial.number:04d}"
    name = sweep.name[: 64 - len(suffix)] + suffix
    return concrete_config(sweep.config, trial.space, name=name, expected=expected)


def best_config_yaml(sweep: SweepRecord, trial: TrialRecord) -> str:
    """The text of `best.yaml`."""
    metric = sweep.config.search.metric
    return (
        f"# Trial {trial.number} of the sweep {sweep.name}: {metric} = {trial.value}.\n"
        f"# Train it again with: sweep train best.yaml\n{config_to_yaml(best_config(sweep, trial))}"
    )


def write_best(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """Write `best.yaml` into the sweep's directory, once there is a best trial."""
    best = best_trial(sweep.config, trials)
    if best:
        write_text(sweep.directory / "best.yaml", best_config_yaml(sweep, best))


def _short(number: float) -> str:
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
