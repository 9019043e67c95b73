"""Where a sweep's records are delivered, and how far that has come; imports no MLflow."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sweep.errors import CommandError
from sweep.files import write_text

if TYPE_CHECKING:
    from sweep.records import TrialRecord

MLFLOW_ENVIRONMENT = {
    # The shipper backs off by itself, and creating a run once more would make a second one.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # printing costs a request per ended run
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

_RESTART_S = 5.0  # between two starts of a shipper that dies


class TrialDelivery(NamedTuple):
    """What the tracking server holds of one trial."""

    run_id: str
    epochs: int  # finished epochs delivered
    state: str  # as last delivered in full; interrupted: running, but its sweep runs no more


class Parent(NamedTuple):
    """What the tracking server holds of a sweep's parent run."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    points: int = 0  # best-so-far points sent by this process
    board: str = ""  # the leaderboard uploaded by this process
    best: int | None = None  # the best trial on it
    uploaded_s: float = 0.0  # monotonic clock
    described_s: float = -math.inf  # when the description was last told; monotonic clock


class Drawing(NamedTuple):
    """When a sweep's pictures are drawn again, and whether the last drawing went well."""

    due_s: float = math.inf  # monotonic clock; a sweep that is over does not wait for it
    trouble: str | None = None  # why they could not be drawn


class Destination(NamedTuple):
    """Where one sweep's runs live, and what they hold."""

    client: Any  # mlflow.MlflowClient
    experiment_id: str
    parent: Parent
    trials: Mapping[int, TrialDelivery]
    refusals: tuple[str, ...] = ()  # what the server answered but did not accept, in this pass
    drawing: Drawing = Drawing()


class Status(NamedTuple):
    """How far the delivery of one sweep has come; a copy for readers, never needed to go on."""

    uri: str = ""
    experiment_id: str | None = None
    parent_run_id: str | None = None
    undelivered_trials: int = 0
    undelivered_epochs: int = 0
    error: str | None = None
    updated_ms: int = 0
    trials: Mapping[int, TrialDelivery] = {}
    pictures: str | None = None  # why they could not be drawn; the rest is delivered all the same


class Shipper:
    """The process that writes to MLflow; it lives until its standard input ends, as ours does."""

    def __init__(self, directory: Path, driver: int):
        self._directory, self._driver = directory, driver
        self._start()

    def tend(self) -> None:
        """Start it again if it died."""
        if self._process.poll() is not None and time.monotonic() - self._started > _RESTART_S:
            self._start()

    def finish(self, late: Callable[[], bool]) -> bool:
        """Let it deliver what is left, until it is `late`; whether it could."""
        code = self._end(late)
        if code < 0 and not late():  # it was killed
            self._start()
            code = self._end(late)
        return code == 0

    def leave(self, *, limit_s: float) -> None:
        """End it, whatever it has done."""
        deadline = time.monotonic() + limit_s
        self._end(lambda: time.monotonic() >= deadline)

    def _start(self) -> None:
        self._started = time.monotonic()
        log = self._directory / "tracking" / "shipper.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*shipper_command(self._directory), "--driver", str(self._driver)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _end(self, late: Callable[[], bool]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.close()
        while self._process.poll() is None and not late():
            time.sleep(0.05)
        return end_process(self._process)


def end_process(process: subprocess.Popen[bytes]) -> int:
    """End a process if it still runs, in a second; its exit code.

    One that hangs in the kernel, as on a disk that does not answer, is not waited for.
    """
    if process.poll() is None:
        process.terminate()
    for _ in range(2):
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
    return -signal.SIGKILL


def shipper_command(directory: Path) -> list[str]:
    """The command line of a shipper."""
    return [sys.executable, "-m", "sweep.tracking", str(directory)]


def default_tracking_uri(sweeps_dir: Path) -> str:
    """MLFLOW_TRACKING_URI if it is set, else one SQLite file beside the sweeps."""
    return absolute_uri(
        os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{sweeps_dir.resolve()}/mlflow.db"
    )


def set_environment() -> None:
    """Set MLFLOW_ENVIRONMENT where a person has not; before MLflow is imported, which reads it."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def artifact_location(tracking_uri: str) -> str | None:
    """The file URI for artifacts of a SQLite store, beside its file; None: the server decides."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return (sqlite_path(tracking_uri).parent / "mlartifacts").as_uri()


def sqlite_path(tracking_uri: str) -> Path:
    """The absolute path of the file behind a sqlite:/// URI."""
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


def absolute_uri(uri: str) -> str:
    """A SQLite URI that means the same file wherever it is read; any other as it is."""
    path, mark, options = uri.removeprefix("sqlite:///").partition("?")
    if not uri.startswith("sqlite:///") or path in ("", ":memory:") or path.startswith("file:"):
        return uri
    return f"sqlite:///{Path(path).resolve()}{mark}{options}"


def lost_records(directory: Path, uri: str) -> str:
    """What to do about the SQLite file that was delivered to and is gone; "" where none is missed.

    A new one in its place would be an empty one, in a folder that may have been moved.
    """
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not (uri.startswith("sqlite:///") and path.is_absolute()) or path.exists():
        return ""
    if read_status(directory).experiment_id is None:
        return ""
    return (
        f"{path}, which held MLflow's records of {directory.name}, is gone; put it back, or move "
        "the folder that it was in back to its place. If it is lost, remove "
        f"{status_path(directory)}, and all is delivered to a new one"
    )


def is_folder(uri: str) -> bool:
    """Whether records would go to a folder of files, which MLflow no longer takes."""
    return uri.startswith("file:") or (":" not in uri and uri != "databricks")


def without_password(text: str) -> str:
    """An address, or a text with addresses, without the user and password they may carry."""
    return re.sub(r"://[^/\s]*@", "://", text)


def one_line(error: BaseException) -> str:
    """An error's text, with its kind if that is not ours, short and fit to be shown."""
    lines = str(error).strip().splitlines() or [""]
    kind = "" if isinstance(error, CommandError) else f"{type(error).__name__}: "
    return f"{kind}{without_password(lines[0])[:500]}"


def undelivered(status: Status, trials: "Sequence[TrialRecord]") -> tuple[int, int]:
    """Number of trials with something still to deliver, and of finished epochs among it."""
    none = TrialDelivery("", 0, "")
    pairs = [(status.trials.get(trial.number, none), trial) for trial in trials]
    behind = [max(len(trial.reports) - held.epochs, 0) for held, trial in pairs]
    late = [
        missing > 0 or trial.state != held.state.replace("interrupted", "running")
        for missing, (held, trial) in zip(behind, pairs, strict=True)
    ]
    return sum(late), sum(behind)


def status_path(directory: Path) -> Path:
    """The file that holds a sweep's delivery status."""
    return directory / "tracking" / "status.json"


def read_status(directory: Path) -> Status:
    """The delivery status of the sweep in `directory`; an empty one if missing or unreadable."""
    try:
        return _parse_status(json.loads(status_path(directory).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Status()


def write_status(directory: Path, status: Status) -> None:
    """Replaces the status file of the sweep in `directory` atomically."""
    path = status_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    trials = {str(number): held._asdict() for number, held in sorted(status.trials.items())}
    text = json.dumps(status._asdict() | {"trials": trials}, indent=1)
    write_text(path, text)


def _parse_status(document: Any) -> Status:
    trials = {
        int(number): TrialDelivery(str(held["run_id"]), int(held["epochs"]), str(held["state"]))
        for number, held in document["trials"].items()
    }
    return Status(**(document | {"trials": trials}))
