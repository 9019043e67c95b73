"""The live view of a sweep: as many lines as a terminal holds, at the same places all the time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.text import Text

from sweep.drawing import clock, count, span, sparkline, two_figures
from sweep.pace import Pace, best_so_far, worker_records
from sweep.records import SweepRecord, TrialRecord
from sweep.results import best_trial, leaderboard
from sweep.tables import (
    STYLES,
    Layout,
    counts_text,
    layout,
    metric_text,
    of_trials,
    table_header,
    trial_lines,
    trial_table,
)

TOP = 5
_HEADER = 5  # lines
_LEAST_BLOCKS, _MOST_BLOCKS = 8, 60
_MOST_RUNNING = 16  # lines


class Standing(NamedTuple):
    """A sweep at one moment."""

    sweep: SweepRecord
    trials: Sequence[TrialRecord]
    pace: Pace
    trouble: str = ""  # what is wrong with its driver


class Plan(NamedTuple):
    """How many lines each part of the view has."""

    top: int  # trials of the leaderboard
    running: int  # lines of running trials; 0: they are not listed
    spaced: bool  # whether blank lines part them


def view(now: Standing, *, width: int, height: int, hint: str) -> list[Text]:
    """The view in `height` lines or fewer; their number depends on the terminal alone."""
    form, slots = layout(now.sweep.config, width), now.sweep.slots
    plan = plan_for(height, form, slots.concurrent if slots else 1)
    lines = header(now, width)
    blank = [Text("")] if plan.spaced else []
    if plan.top:
        lines += blank + _leaders(now, form, plan.top)
    if plan.running:
        lines += blank + _running(now, form, plan.running, hint)
    lines = lines[:height]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def plan_for(height: int, form: Layout, slots: int) -> Plan:
    """What fits into `height` lines: the header, then trials, then what runs."""
    most = min(slots, _MOST_RUNNING)
    spaced = height >= 12
    running = min(most, max(1, height // 8)) if height >= 14 else 0
    block = running + 1 + spaced if running else 0
    room = height - _HEADER - spaced - 1 - block
    top = max(min(TOP, room // form.lines), 0)
    if running:
        running = min(most, running + room - top * form.lines)
    return Plan(top, running, spaced)


def header(now: Standing, width: int) -> list[Text]:
    """Name, state and time; progress; counts and pace; the best so far; what is in use."""
    sweep, trials, pace = now.sweep, now.trials, now.pace
    state = now.trouble or sweep.state
    times = clock(pace.seconds) if pace.seconds else ""
    if pace.left:
        times += f", {span(*pace.left)} left"
    name = Text(sweep.name, "bold")
    name.truncate(max(width - len(state) - len(times) - 4, 8), overflow="ellipsis")
    name = Text.assemble(name, "  ", (state, "red" if now.trouble else ""))
    speeds = []
    if pace.trials_per_minute is not None:
        speeds.append(f"{two_figures(pace.trials_per_minute)} trials/min")
    if pace.epochs_per_second is not None:
        speeds.append(f"{two_figures(pace.epochs_per_second)} epochs/s")
    return [
        _apart(name, times, width),
        _bar(now, width),
        _apart(counts_text(sweep, trials), ", ".join(speeds), width),
        _best(now, width),
        Text(_use(now), "dim"),
    ]


def _bar(now: Standing, width: int) -> Text:
    """The share of the trials that have ended, and of those that run."""
    ended = sum(trial.state != "running" for trial in now.trials)
    total = now.sweep.config.search.num_trials
    words = f"  {of_trials(ended, total)}"
    room = min(max(width - len(words), 0), 100)
    if total is None:
        return Text(words.strip())
    done = room * ended // total
    begun = min(room, -(-room * len(now.trials) // total)) - done
    return Text.assemble(
        ("━" * done, "green"), ("─" * begun, "cyan"), ("·" * (room - done - begun), "dim"), words
    )


def _best(now: Standing, width: int) -> Text:
    best = best_trial(now.sweep.config, now.trials)
    if best is None:
        return Text.assemble(("best", "bold"), "     no trial is complete yet")
    line = Text.assemble(
        ("best", "bold"),
        f"{metric_text(best, now.sweep.config.search.metric):>11}  trial {best.number:<4}  ",
        (f"{best.parameters['schedule']:{_longest_family(now.sweep)}}  ", "cyan"),
    )
    blocks = min(width - len(line), _MOST_BLOCKS)
    if blocks >= _LEAST_BLOCKS:
        values = np.array(best_so_far(now.sweep, now.trials))
        line.append(sparkline(values - values.min(), blocks), "green")
    return line


def _use(now: Standing) -> str:
    """The slots that are busy, what each takes, and the workers that were last heard of."""
    slots = now.sweep.slots
    if slots is None:
        return ""
    running = sum(trial.state == "running" for trial in now.trials)
    size = max(slots.concurrent, running)
    each = f"{slots.cpus_per_trial:g} CPU"
    if slots.gpus_per_trial:
        each += f" and {slots.gpus_per_trial:g} GPU"
    words = f"{running} of {count(size, 'slot')} busy, {each} each"
    workers = list(worker_records(now.trials, size))
    if workers:
        nodes = {worker["node"] for worker in workers}
        ours = {(worker["node"], worker["pid"]) for worker in workers}
        kinds = sorted({str(worker["device_kind"]) for worker in workers})
        words += f", {count(len(ours), 'worker')} on {count(len(nodes), 'node')}"
        words += f" ({', '.join(kinds)})"
    return words


def _leaders(now: Standing, form: Layout, top: int) -> list[Text]:
    """The table of the best trials that have ended, in a fixed number of lines."""
    ended = [t for t in leaderboard(now.sweep.config, now.trials) if t.state != "running"]
    lines = [table_header(form)]
    for trial in ended[:top]:
        lines += trial_lines(now.sweep, trial, form)
    return lines + [Text("")] * (1 + top * form.lines - len(lines))


def _running(now: Standing, form: Layout, rows: int, hint: str) -> list[Text]:
    """The trials that run, in a fixed number of lines."""
    running = [trial for trial in now.trials if trial.state == "running"]
    shown = running if len(running) <= rows else running[: rows - 1]
    metric, num_epochs = now.sweep.config.search.metric, now.sweep.config.training.num_epochs
    family = _longest_family(now.sweep)
    lines = [_apart(Text("running", "bold"), hint, form.width)]
    for trial in shown:
        epochs = f"{len(trial.reports)}/{num_epochs}"
        line = Text(
            f"{trial.number:>5}  {trial.parameters['schedule']:{family}}", STYLES["running"]
        )
        line.append(f"  {epochs:>{2 * len(str(num_epochs)) + 1}}")
        lines.append(line.append(f"  {metric_text(trial, metric)}"))
    if len(running) > len(shown):
        lines.append(Text(f"       and {len(running) - len(shown)} more", "dim"))
    return lines + [Text("")] * (1 + rows - len(lines))


def _longest_family(sweep: SweepRecord) -> int:
    return max(map(len, sweep.config.space.schedule))


def _apart(left: Text, right: str, width: int) -> Text:
    """Two texts at the two ends of a line; where they do not fit, the left one alone."""
    space = width - len(left) - len(right)
    if not right or space < 2:
        return left
    return left.append(" " * space).append(right, "dim")


def still(sweep: SweepRecord, trials: Sequence[TrialRecord], width: int) -> list[Text]:
    """How a sweep stands, for a page that is not drawn again."""
    now = Standing(sweep, trials, Pace(0, None, None, None))
    name, *rest = header(now, width)
    lines = [name, *rest[:3]]
    running = [trial for trial in trials if trial.state == "running"]
    ended = [trial for trial in leaderboard(sweep.config, trials) if trial.state != "running"]
    shown = [*ended[:TOP], *running]
    if shown:
        lines += [Text(""), *trial_table(sweep, shown, width), Text("")]
    return lines
