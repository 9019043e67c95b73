"""What a sweep's records look like in MLflow: names, tags, parameters, points and texts; no calls.

Everything here is a function of the records alone, so projecting them again gives the same runs.
"""

import getpass
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from search_spaces import SweepConfig
from sweep.curves import thin_curve
from sweep.records import SweepRecord, TrialRecord
from sweep.results import leaderboard, shown_state, trial_name
from trainers.schedules import learning_rate_curve, momentum_curve, plateau_rule

EPOCH_METRICS = ("train_loss", "val_loss", "val_accuracy")
FINISHED_STATES = ("complete", "pruned", "diverged")
RUN_STATUS = {
    "running": "RUNNING",
    "interrupted": "KILLED",
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "diverged": "FINISHED",
    "cancelled": "KILLED",
    "failed": "FAILED",
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "paused": "KILLED",
}
MAX_PARAMETER_LENGTH = 6000  # MLflow cuts longer ones without a word
LEADERBOARD_COLUMNS = ("rank", "trial", "run name", "state", "family", "parameters")


class Point(NamedTuple):
    """One value of one metric; sending the same one again adds nothing."""

    key: str
    value: float
    timestamp_ms: int
    step: int


class AppliedCurve(NamedTuple):
    """A trial's curves as rebuilt from its parameters and losses, checked against its reports."""

    values: np.ndarray | None  # float32 (num_epochs * steps_per_epoch,); None: cannot be rebuilt
    verified_epochs: int  # finished epochs, from the first on, whose row is the one consumed
    mismatch: int | None  # the first epoch whose row is another one
    momenta: np.ndarray | None = None  # like `values`; None: the momentum has no curve


def applied_curve(sweep: SweepRecord, trial: TrialRecord) -> AppliedCurve:
    """The curves a trial was trained with, as far as the hashes in its reports confirm them."""
    num_epochs, steps = sweep.config.training.num_epochs, sweep.steps_per_epoch
    try:
        planned = learning_rate_curve(trial.space, num_epochs=num_epochs, steps_per_epoch=steps)
        momenta = momentum_curve(trial.space, planned, steps_per_epoch=steps)
        plateau = plateau_rule(trial.space, num_epochs=num_epochs, steps_per_epoch=steps)
    except ValueError:
        return AppliedCurve(None, 0, 1 if trial.reports else None)
    rows = planned.reshape(-1, steps)
    if plateau:
        scales = plateau.scales([report["val_loss"] for report in trial.reports])
        scales += scales[-1:] * (len(rows) - len(scales))  # epochs to come, as it stands now
        rows = rows * np.array(scales[: len(rows)], np.float32)[:, None]
    hashed = [("learning_rate_sha256", rows)]
    if momenta is not None:
        hashed.append(("momentum_sha256", momenta.reshape(rows.shape)))
    for done, report in enumerate(trial.reports):
        if any(_sha256(curve, done) != report[key] for key, curve in hashed):
            return AppliedCurve(rows.ravel(), done, done + 1, momenta)
    return AppliedCurve(rows.ravel(), len(trial.reports), None, momenta)


def _sha256(rows: np.ndarray, epoch: int) -> str:
    """The hash of the row of an epoch, which counts from 0."""
    row = rows[epoch].astype("<f4").tobytes() if epoch < len(rows) else b""
    return hashlib.sha256(row).hexdigest()


def curve_points(
    sweep: SweepRecord, trial: TrialRecord, curve: AppliedCurve, *, after_epoch: int
) -> Iterator[Point]:
    """Points of learning rate and momentum against the optimizer step, of verified epochs.

    Only of epochs > `after_epoch`. The last step that an ended trial was trained for is among them
    even where the curve is thinned.
    """
    if curve.values is None or curve.verified_epochs == 0:
        return
    last = curve.verified_epochs * sweep.steps_per_epoch - 1
    for key, values in (("learning_rate", curve.values), ("momentum", curve.momenta)):
        if values is None:
            continue
        steps = thin_curve(values)
        shown = steps[(steps >= after_epoch * sweep.steps_per_epoch) & (steps <= last)].tolist()
        if trial.state != "running" and last not in steps:
            shown.append(last)
        for step in shown:
            time = trial.reports[step // sweep.steps_per_epoch]["timestamp_ms"]
            yield Point(key, float(values[step]), time, step)


def epoch_points(sweep: SweepRecord, trial: TrialRecord, *, after_epoch: int) -> Iterator[Point]:
    """Points of the metrics of finished epochs, at the number of optimizer steps taken by then.

    `epoch` comes last within an epoch: once the server has it, it has the others too.
    """
    for report in trial.reports[after_epoch:]:
        step, time = report["epoch"] * sweep.steps_per_epoch, report["timestamp_ms"]
        for key in EPOCH_METRICS:
            if report[key] is not None and math.isfinite(report[key]):
                yield Point(key, float(report[key]), time, step)
        yield Point("epoch", float(report["epoch"]), time, step)


def fixed_trial_tags(sweep: SweepRecord, trial: TrialRecord, parent_run_id: str) -> dict[str, str]:
    """The tags a trial's run is created with: its identity and its origin."""
    digest = sweep.facts.get("dataset_digest")
    return _origin_tags(sweep) | {
        "mlflow.parentRunId": parent_run_id,
        "sweep.kind": "trial",
        "sweep.trial": str(trial.number),
        "trial": str(trial.number),
        "family": trial.parameters["schedule"],
        **({"dataset_digest": digest} if digest else {}),
    }


def trial_tags(sweep: SweepRecord, trial: TrialRecord, curve: AppliedCurve) -> dict[str, str]:
    """The tags of a trial's run that tell how it went."""
    tags = {"state": shown_state(sweep, trial), "message": _brief(trial.message)}
    if trial.curve_sha256:
        tags["curve_sha256"] = trial.curve_sha256
    if curve.mismatch is not None:
        tags["curve_mismatch"] = str(curve.mismatch)
    if trial.state in ("pruned", "diverged"):
        tags["stopped_epoch"] = str(len(trial.reports))
    if trial.state == "diverged":
        tags["diverged_epoch"] = str(_diverged_epoch(trial))
    worker = trial.reports[-1].get("worker", {}) if trial.reports else {}
    known = {key: value for key, value in worker.items() if value not in ("", None, [])}
    return tags | {f"worker.{key}": _listed(value) for key, value in known.items()}


def parameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow keeps them: text that reads back as the same number."""
    return {key: _fitting(v if isinstance(v, str) else repr(v)) for key, v in values.items()}


def sweep_parameters(config: SweepConfig) -> dict[str, str]:
    """The fixed facts of a sweep, flat and dotted; those without a value left out."""
    sections = config.model_dump(mode="json", include={"data", "training", "search", "pruning"})
    return parameters(
        {
            f"{section}.{key}": value
            for section, fields in sections.items()
            for key, value in fields.items()
            if value is not None
        }
    )


def parent_tags(sweep: SweepRecord) -> dict[str, str]:
    """The tags of a sweep's parent run, but for its description and what its files are of."""
    elsewhere = ("sweep_id", "user", "git_commit")
    facts = {f"sweep.{key}": v for key, v in sweep.facts.items() if key not in elsewhere and v}
    return (
        facts
        | _origin_tags(sweep)
        | {
            "sweep.kind": "parent",
            "sweep.name": sweep.name,
            "sweep.state": sweep.state,
            "mlflow.loggedArtifacts": json.dumps([{"path": "leaderboard.json", "type": "table"}]),
        }
    )


def best_points(config: SweepConfig, trials: list[TrialRecord]) -> list[Point]:
    """The best value so far against the number of finished trials, from the first value on."""
    better = max if config.search.goal == "maximize" else min
    finished = [trial for trial in trials if trial.state in FINISHED_STATES]
    finished.sort(key=lambda trial: (trial.ended_ms or 0, trial.number))
    best: float | None = None
    points = []
    for count, trial in enumerate(finished, start=1):
        if trial.state == "complete" and trial.value is not None:
            best = trial.value if best is None else better(best, trial.value)
        if best is not None:
            key = f"best_{config.search.metric}"
            points.append(Point(key, best, trial.ended_ms or trial.started_ms, count))
    return points


def leaderboard_table(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    """The trials as a table that the MLflow UI previews (pandas, orient "split"), best first."""
    ordered = leaderboard(sweep.config, trials)
    ordered += [trial for trial in trials if trial.value is None]
    rows = [
        [
            position if trial.state == "complete" else None,
            trial.number,
            trial_name(trial),
            shown_state(sweep, trial),
            trial.parameters["schedule"],
            ", ".join(f"{key}={value}" for key, value in parameters(trial.parameters).items()),
            trial.value,
            len(trial.reports),
        ]
        for position, trial in enumerate(ordered, start=1)
    ]
    columns = [*LEADERBOARD_COLUMNS, sweep.config.search.metric, "epochs"]
    return json.dumps({"columns": columns, "data": rows}, allow_nan=False)


def end_ms(trial: TrialRecord) -> int:
    """When a trial ended, or was last heard of; milliseconds since 1970."""
    heard = trial.reports[-1]["timestamp_ms"] if trial.reports else trial.started_ms
    return trial.ended_ms or heard


def _origin_tags(sweep: SweepRecord) -> dict[str, str]:
    commit = sweep.facts.get("git_commit")
    return {
        "sweep.id": sweep.facts["sweep_id"],
        "mlflow.user": sweep.facts.get("user") or getpass.getuser(),
        "mlflow.source.name": "sweep",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def _diverged_epoch(trial: TrialRecord) -> int:
    """The first epoch whose loss is not finite; the one after the last reported if none is."""
    diverged = (report["epoch"] for report in trial.reports if report["diverged"])
    return next(diverged, len(trial.reports) + 1)


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _brief(message: str) -> str:
    """The last line of a message, which of a traceback is the one that tells."""
    lines = message.strip().splitlines()
    return lines[-1][:250] if lines else ""


def _fitting(text: str) -> str:
    if len(text) <= MAX_PARAMETER_LENGTH:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: MAX_PARAMETER_LENGTH - 100]}... ({len(text)} characters, sha256 {digest[:16]})"
