"""The files of a sweep's MLflow runs: which there are, and when they are sent.

The client is given, so MLflow is not imported here. What was sent is told by tags that are set
after it, so a file whose sending was cut off is sent again.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep import pictures, projection
from sweep.delivery import Destination, Parent
from sweep.metrics import checkpoint_path
from sweep.records import ENDED, SweepRecord, TrialRecord
from sweep.results import best_config_yaml, best_trial
from trainers.crashes import reach

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEADERBOARD_S = 10.0  # between two uploads of the leaderboard
CHECKPOINT_TAG = "sweep.checkpoint_trial"  # the trial whose run holds its trained state
PICTURES_TAG = "sweep.pictures"  # the fingerprint of what the pictures show


def deliver_leaderboard(
    client: "MlflowClient", held: Parent, sweep: SweepRecord, trials: Sequence[TrialRecord]
) -> Parent:
    """Uploads the small files of the parent run: when the best changes, and at the end."""
    best = best_trial(sweep.config, trials)
    number = None if best is None else best.number
    rested = time.monotonic() - held.uploaded_s >= LEADERBOARD_S
    due = not held.board or (number != held.best and rested) or sweep.state != "running"
    board = projection.leaderboard_table(sweep, trials) if due else held.board
    if board == held.board:
        return held
    files = {
        "config.yaml": (sweep.directory / "config.yaml").read_bytes(),
        "environment.json": environment(sweep, trials).encode(),
        "leaderboard.json": board.encode(),
    }
    if best is not None:
        files["best.yaml"] = best_config_yaml(sweep, best).encode()
    upload(client, held.run_id, files)
    return held._replace(board=board, best=number, uploaded_s=time.monotonic())


def environment(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    """What the sweep ran with, as JSON: code, packages, the launching machine, the workers."""
    facts, suffix = dict(sweep.facts), "_version"
    packages = {
        key.removesuffix(suffix): facts.pop(key) for key in sorted(facts) if key.endswith(suffix)
    }
    keys = ("node", "platform", "device_kind", "gpu_ids", "num_cpus")
    workers = Counter(
        json.dumps({key: worker[key] for key in keys if worker.get(key) not in (None, "", [])})
        for trial in trials
        for worker in ([trial.reports[-1].get("worker", {})] if trial.reports else [])
    )
    document = {
        "code": {key: facts.pop(key) for key in ("git_commit", "git_dirty") if key in facts},
        "packages": packages,
        "sweep": facts,
        "workers": [json.loads(w) | {"trials": count} for w, count in sorted(workers.items())],
    }
    return json.dumps(document, indent=2) + "\n"


def deliver_checkpoint(
    destination: Destination, sweep: SweepRecord, trials: Sequence[TrialRecord]
) -> Destination:
    """Uploads the trained state of the winner to its run, once the sweep is over."""
    best, parent = best_trial(sweep.config, trials), destination.parent
    if sweep.state not in ENDED or best is None or best.number not in destination.trials:
        return destination
    path = checkpoint_path(sweep.directory / "trials", best.number)
    if parent.tags.get(CHECKPOINT_TAG) == str(best.number) or not path.is_file():
        return destination
    reach("upload checkpoint")
    destination.client.log_artifact(destination.trials[best.number].run_id, str(path))
    reach("uploaded checkpoint")
    return _tagged(destination, CHECKPOINT_TAG, str(best.number))


def deliver_pictures(
    destination: Destination, sweep: SweepRecord, trials: Sequence[TrialRecord]
) -> Iterator[Destination]:
    """Draws and uploads the pictures where they are due and show something else than is held."""
    if not pictures.is_due(destination.drawing, sweep):
        return
    shown, started = pictures.fingerprint(sweep, trials), time.monotonic()
    if destination.parent.tags.get(PICTURES_TAG) == shown:
        return
    files, drawing = pictures.draw(sweep, trials)
    destination = destination._replace(drawing=drawing)
    yield destination  # an upload that fails must not make it draw again at once
    if files:
        upload(destination.client, destination.parent.run_id, files)
        destination = _tagged(destination, PICTURES_TAG, shown)
        yield destination._replace(drawing=pictures.rested(started))


def upload(client: "MlflowClient", run_id: str, files: Mapping[str, bytes]) -> None:
    """Stores files as artifacts of a run."""
    with tempfile.TemporaryDirectory(prefix="sweep-artifacts-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        reach("upload")
        client.log_artifacts(run_id, folder)
        reach("uploaded")


def _tagged(destination: Destination, key: str, value: str) -> Destination:
    parent = destination.parent
    reach("tag")
    destination.client.set_tag(parent.run_id, key, value)
    reach("tagged")
    return destination._replace(parent=parent._replace(tags={**parent.tags, key: value}))
