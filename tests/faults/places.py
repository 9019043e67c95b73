"""The places of trainers/crashes.py at which tests let a process die, by who comes to them."""

from pathlib import Path

from tests.faults.harness import Site

# Before there is a sweep. The journal's lines: the study, then its config and facts.
MAKING = (
    *("claim name", "claimed name", "replace config.yaml", "replaced config.yaml"),
    *(
        "append study.journal",
        "appended study.journal",
        "append study.journal@3",
        "appended study.journal@5",
    ),
    *("replace sweep.json", "replaced sweep.json"),
)
DRIVER = (
    *("ask", "asked", "append study.journal@2", "appended study.journal@3"),
    *("append metrics.jsonl", "appended metrics.jsonl", "recorded", "append study.journal@12"),
    *("end", "ended", "replace best.yaml", "replaced best.yaml"),
)
LAST = ("replace best.yaml", "replaced best.yaml", "free lease", "freed lease")
# More places of a driver, which only children come to.
LEDGER = (
    *("claim lease", "claimed lease", "put aside", "replace error.txt", "replaced error.txt"),
    *("free lease", "freed lease"),
)
# Tune starts another process for the trial.
TRIAL = ("checkpoint", "checkpoint written@2", "checkpoint set aside@2", "checkpoint replaced")
SHIPPER = (
    *("make store", "made store"),
    *("create experiment", "created experiment", "create parent run", "created parent run"),
    *("log dataset", "logged dataset", "create trial run", "created trial run", "log batch"),
    *("logged batch", "upload", "uploaded", "end trial run", "ended trial run"),
    *("end parent run", "ended parent run"),
    *("upload checkpoint", "uploaded checkpoint", "tag"),  # which tells that it was uploaded
    *("draw", "drawn", "upload@2", "uploaded@2", "tagged"),  # the second upload is the pictures'
    *("replace status.json", "replaced status.json"),
)
# Behind what there is but one of.
ONCE = (
    "made store",
    *("created experiment", "created parent run", "logged dataset", "ended parent run"),
    *("replaced status.json", "tagged"),
)
MADE = "made"
CONTROL = ("replace control", "replaced control")


def mark(here: Site, place: str) -> Path:
    """The file that says that a process has died there."""
    return here.marks / place.replace(" ", "_")
