"""The description of a sweep's parent run in MLflow: a page of markdown that is enough by itself.

A function of the records alone. Words of users are escaped and cut, so that they stay words.
"""

import re
from collections.abc import Iterator, Sequence

from search_spaces import config_to_yaml
from sweep.records import ENDED, SweepRecord, TrialRecord
from sweep.results import best_config, best_trial, larger_budget, shown_state, trial_name

MAX_DESCRIPTION_LENGTH = 7900  # characters; MLflow takes tags of up to 8000
_MAX_WORDS = 1000  # characters of the user's own description
# Escaped they may be twice as long, or five times where all of them are &.
_MAX_ESCAPED = 2000
STATES = ("complete", "pruned", "diverged", "failed", "cancelled", "running", "interrupted")


def description(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    """What was searched, what won and how to have it again, with tables of trials and hours."""
    best = best_trial(sweep.config, trials)
    above = [
        escaped(sweep.config.description),
        _winner(sweep, best),
        _subject(sweep),
        _progress(sweep, trials),
        _families(sweep, trials),
    ]
    below = [_commands(sweep, trials, best)]
    room = MAX_DESCRIPTION_LENGTH - sum(len(part) + 2 for part in (*above, *below))
    parts = [*above, *([_config_block(sweep, best, room)] if best else []), *below]
    return "\n\n".join(part for part in parts if part)


def escaped(text: str) -> str:
    """A user's words as markdown that shows them as they are, cut where they are long."""
    words = text.strip()
    shown = words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + "..."
    shown = re.sub(r"([\\`*_\[\]|~:])", r"\\\1", shown)
    shown = re.sub(r"(?<!\S)@(?=\w)", r"\\@", shown)  # MLflow makes links of @names
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    lines = [re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", line.strip()) for line in shown.splitlines()]
    joined = "\n".join(lines)
    return joined if len(joined) <= _MAX_ESCAPED else "(too long to be shown: see config.yaml)"


def hours(sweep: SweepRecord, trial: TrialRecord) -> float:
    """What a trial's finished epochs took, in hours of one device.

    Of a CPU core where it was trained on a CPU, otherwise of a GPU: a share of one counts as that.
    """
    share = sweep.config.resources.gpus_per_trial
    total = 0.0
    for report in trial.reports:
        worker = report.get("worker", {})
        on_cpu = worker.get("platform", "cpu") == "cpu"
        devices = worker.get("num_cpus", 1) if on_cpu else 1 if share == "auto" else share
        total += (report["seconds"] or 0.0) * float(devices)
    return total / 3600


def _winner(sweep: SweepRecord, best: TrialRecord | None) -> str:
    metric = sweep.config.search.metric
    if best is None:
        over = sweep.state in ENDED
        return f"**No trial {'was trained' if over else 'is trained yet'} to its last epoch.**"
    word = "Winner" if sweep.state in ENDED else "Best so far"
    family = best.parameters["schedule"]
    return (
        f"**{word}: trial {best.number}, `{family}`, {metric} {best.value!r}** "
        f"(run `{trial_name(best)}`)"
    )


def _subject(sweep: SweepRecord) -> str:
    training, search = sweep.config.training, sweep.config.search
    pruning = sweep.config.pruning.algorithm
    epochs = _number(training.num_epochs, "epoch")
    stopping = "no trial is stopped early" if pruning == "none" else f"`{pruning}` stops weak ones"
    return (
        f"Searched for: the learning-rate schedule that trains `{training.model}` best on "
        f"`{sweep.config.data.dataset}`, with `{training.optimizer}`, {epochs} and batches of "
        f"{training.batch_size}. `{search.algorithm}` proposes trials for the "
        f"{'highest' if search.goal == 'maximize' else 'lowest'} `{search.metric}`; {stopping}."
    )


def _progress(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    found = [shown_state(sweep, trial) for trial in trials]
    counts = [f"{found.count(state)} {state}" for state in STATES if state in found]
    total = sweep.config.search.num_trials
    amount = f"{len(trials)} of {total} trials" if total else _number(len(trials), "trial")
    return f"The sweep is **{sweep.state}** with **{amount}**: {', '.join(counts) or 'none yet'}."


def _families(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> str:
    """Counts by family and state with hours, and the hours by state in the last row."""
    if not trials:
        return ""
    spent = [(t.parameters["schedule"], shown_state(sweep, t), hours(sweep, t), t) for t in trials]
    states = [state for state in STATES if any(entry[1] == state for entry in spent)]
    families = sorted({entry[0] for entry in spent})
    unit = f"{device_word(trials)} hours"
    heads = ["family", "trials", *states, "best", unit]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for family in families:
        own = [entry for entry in spent if entry[0] == family]
        best = best_trial(sweep.config, [entry[3] for entry in own])
        counts = [str(sum(entry[1] == state for entry in own) or "") for state in states]
        value = f"{best.value:.4g}" if best and best.value is not None else ""
        rows.append([f"`{family}`", str(len(own)), *counts, value, _sum(own)])
    totals = [str(sum(entry[1] == state for entry in spent)) for state in states]
    rows.append(["**all**", str(len(spent)), *totals, "", _sum(spent)])
    by_state = [_sum([entry for entry in spent if entry[1] == state]) for state in states]
    rows.append([f"**{unit}**", "", *by_state, "", _sum(spent)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def device_word(trials: Sequence[TrialRecord]) -> str:
    """What the hours are hours of: CPU or GPU, or device where trials were trained on both."""
    platforms = {
        report.get("worker", {}).get("platform", "cpu")
        for trial in trials
        for report in trial.reports
    }
    if platforms <= {"cpu"}:
        return "CPU"
    return "device" if "cpu" in platforms else "GPU"


def _config_block(sweep: SweepRecord, best: TrialRecord, room: int) -> str:
    """The config of the best trial, fenced so that nothing in it can end the block."""
    config = best_config(sweep, best).model_copy(update={"description": ""})
    text = config_to_yaml(config)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    block = f"**Its config**, which `sweep train` trains again:\n\n{fence}yaml\n{text}{fence}"
    if len(block) + 2 <= room:
        return block
    return "Its config is too long for this page: it is the artifact `best.yaml`."


def _commands(sweep: SweepRecord, trials: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    return "```\n" + "\n".join(_next_commands(sweep, trials, best)) + "\n```"


def _next_commands(
    sweep: SweepRecord, trials: Sequence[TrialRecord], best: TrialRecord | None
) -> Iterator[str]:
    name = sweep.name
    if sweep.state == "running":
        yield f"sweep status {name}"
    if sweep.state in ("interrupted", "paused"):
        yield f"sweep resume {name}"
    if sweep.state in ENDED and (budget := larger_budget(sweep, trials)):
        yield f"sweep resume {name} {budget}"
    yield f"sweep report {name} -o report.html"
    if best is not None:
        yield f"sweep export {name} -o best.yaml"
        yield "sweep train best.yaml"


def _sum(entries: Sequence[tuple[str, str, float, TrialRecord]]) -> str:
    return f"{sum(entry[2] for entry in entries):.3g}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
