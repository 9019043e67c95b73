"""The pictures of a sweep's parent run: when they are drawn again, and which records they show.

Drawing takes seconds. While the sweep runs it may take a seventieth of the time between two
drawings; once the sweep is over the pictures are drawn a last time.
"""

import hashlib
import json
import time
from collections.abc import Sequence

from sweep.delivery import Drawing, one_line
from sweep.records import ENDED, SweepRecord, TrialRecord
from sweep.results import shown_state
from trainers.crashes import reach

FIRST_S = 120.0  # how long a sweep is delivered before it is drawn for the first time
RESTS = 70  # how many times as long as a drawing took it rests until the next


def fingerprint(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    """Names what the pictures show: pictures of equal fingerprints are the same."""
    seen = [(t.number, shown_state(sweep, t), len(t.reports), t.value) for t in trials]
    shown = [sweep.name, sweep.state, sweep.config.model_dump(mode="json"), seen]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def is_due(drawing: Drawing, sweep: SweepRecord) -> bool:
    """Whether it is time to draw; a sweep that is to go on keeps the pictures it has."""
    if sweep.state != "running" and sweep.state not in ENDED:
        return False
    rests = sweep.state == "running" or drawing.trouble is not None
    return not rests or time.monotonic() >= drawing.due_s


def draw(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> tuple[dict[str, bytes], Drawing]:
    """The files by name, and when the next are due; none, and the reason, if they cannot be drawn.

    Whatever goes wrong is told: a picture must not keep a trial from being delivered.
    """
    started = time.monotonic()
    files: dict[str, bytes] = {}
    trouble = None
    reach("draw")
    try:
        files = drawn(sweep, trials)
    except Exception as error:
        trouble = one_line(error)
    reach("drawn")
    return files, rested(started, trouble)


def rested(started: float, trouble: str | None = None) -> Drawing:
    """When the next drawing is due after one that began at `started` and has just ended."""
    now = time.monotonic()
    return Drawing(now + RESTS * (now - started), trouble)


def drawn(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, bytes]:
    """The report, the atlas as a page of its own, and as an image that shows in the run's page."""
    from sweep.figures import draw_all  # plotly: only where one draws
    from sweep.report import atlas_png, figure_html, report_html

    figures = draw_all(sweep, trials)
    return {
        "report.html": report_html(sweep, trials, figures).encode(),
        "atlas.html": figure_html("atlas", sweep, figures["atlas"]).encode(),
        "atlas.png": atlas_png(sweep, trials),
    }
