"""Places where a test can make the process die, to see that nothing is lost there.

SWEEP_CRASH_AT=PLACE[@N],... kills the process when it comes to PLACE for the Nth time, once each: a
file in the folder SWEEP_CRASH_MARKS says that it was done. The file `passed` in that folder has a
line for every place that any process came to.
"""

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path

_passed: Counter[str] = Counter()


def reach(place: str, what: str = "") -> None:
    """Die here if that is asked for; otherwise nothing. `what` is being done is told as well."""
    marks = os.environ.get("SWEEP_CRASH_MARKS")
    if not marks:
        return
    with Path(marks, "passed").open("a") as file:
        file.write(f"{place}\n" + (f"{place}: {what}\n" if what else ""))
    _passed[place] += 1
    for wanted in os.environ.get("SWEEP_CRASH_AT", "").split(","):
        name, _, count = wanted.partition("@")
        if place != name or _passed[place] != int(count or 1):
            continue
        with contextlib.suppress(FileExistsError):
            Path(marks, wanted.replace(" ", "_")).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
