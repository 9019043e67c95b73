"""A preview as text: the plan in words, the curves as blocks."""

import textwrap
from collections.abc import Iterator

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search_spaces import Choice, Distribution, IntUniform, SweepConfig, free_parameters
from sweep.drawing import LEAST_WIDTH, count, needs_log_axis, short, span, sparkline
from sweep.preview import Preview, Sample, planned_trials
from sweep.tables import chosen_text
from trainers.hyperparameters import momentum_name

_SHARED = "every family"


def check_text(config: SweepConfig) -> str:
    """That a config is valid, and how large a sweep it makes, in a line."""
    number = planned_trials(config)
    trials = "any number of trials" if number is None else count(number, "trial")
    families = len(config.space.schedule)
    return (
        f"{config.name} is valid: {trials} of up to {count(config.training.num_epochs, 'epoch')}, "
        f"{families} schedule {'family' if families == 1 else 'families'}, "
        f"{_free_text(config)}, searched by {config.search.algorithm}"
    )


def plan(preview: Preview) -> dict[str, str]:
    """What would be run, as a line of text for each aspect."""
    config = preview.config
    data, training = config.data, config.training
    held_out = f"validated on {data.validation_examples:,} of its training examples"
    lines = {
        "data": f"{data.dataset}, "
        + ("validated on its test split" if data.validation_split == "test" else held_out)
        + (f", trained on {data.train_examples:,}" if data.train_examples else ""),
        "training": f"{training.model} with {training.optimizer}; "
        f"{count(training.num_epochs, 'epoch')} of {count(preview.steps_per_epoch, 'step')}, "
        f"batch size {training.batch_size:,}",
        "trials": _search_text(preview),
        "pruning": _pruning_text(config),
        "machine": _machine_text(preview),
        "time": _time_text(preview),
    }
    return {label: text for label, text in lines.items() if text}


def ranges(config: SweepConfig) -> dict[str, str]:
    """The free parameters of each family, and those of all families under `every family`."""
    found: dict[str, list[str]] = {family: [] for family in config.space.schedule}
    found[_SHARED] = []
    for name, spread in free_parameters(config).items():
        if name != "schedule":
            table, _, rest = name.partition(".")
            family, _, key = rest.partition(".") if table == "schedule" else ("", "", name)
            found[family or _SHARED].append(f"{key} {_spread_text(spread)}")
    shared = found.pop(_SHARED)
    texts = {family: ", ".join(entries) or "nothing free" for family, entries in found.items()}
    return texts | ({_SHARED: ", ".join(shared)} if shared else {})


def preview_text(preview: Preview, width: int) -> RenderableType:
    """A preview for a terminal of that width."""
    config, width = preview.config, max(width, LEAST_WIDTH)
    title = Text.assemble((config.name, "bold"), "  ", config.description)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    for label, text in plan(preview).items():
        facts.add_row(label, Text(text))
    longest = max(map(len, (*config.space.schedule, _SHARED)))
    space = Table(box=None, pad_edge=False, header_style="bold")
    space.add_column("schedule", no_wrap=True)
    space.add_column(_free_text(config))
    for family, text in ranges(config).items():
        space.add_row(family, _wrapped(text, width - longest - 2))
    return Group(title, "", facts, "", space, "", *_sample_lines(preview, width))


def _wrapped(text: str, width: int) -> Text:
    """Broken behind commas only."""
    kept = text.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
    lines = textwrap.fill(kept, width, break_on_hyphens=False)
    return Text(lines.replace("\N{NO-BREAK SPACE}", " "))


def _sample_lines(preview: Preview, width: int) -> Iterator[Text]:
    """A line for each curve, the parameters behind it or below; a header, and what `*` means."""
    name = max(len(_name(sample)) for sample in preview.samples) + 2
    momentum = f"  {momentum_name(preview.config.training.optimizer)}"
    blocks = min(40, width - name - 27)
    before = name + blocks + 29
    indent = before if width - before >= 60 else 4
    steps = count(preview.steps_per_epoch * preview.config.training.num_epochs, "step")
    heading = f"learning rate over {steps}" if blocks > 25 else "learning rate"
    yield Text(f"{'sample':{name}}{heading:{blocks + 5}}{'peak':>10}{'last':>10}", "bold")
    for sample in preview.samples:
        line = Text(f"{_name(sample):{name}}", "cyan")
        line.append(_drawn(sample.learning_rates, blocks), "green")
        words = textwrap.wrap(sample_text(preview.config, sample), width - indent)
        if indent == before:
            line.append("  " + "".join(words[:1]))
            words = words[1:]
        yield line
        if sample.momenta is not None:
            low = float(sample.momenta.min())  # it changes by little
            yield Text(f"{momentum:{name}}{_drawn(sample.momenta, blocks, low)}", "dim")
        yield from (Text(" " * indent + word, "" if indent == before else "dim") for word in words)
    if any(sample.enqueued for sample in preview.samples):
        yield Text("* enqueued: tried first", "dim")


def _name(sample: Sample) -> str:
    return f"{sample.family} *" if sample.enqueued else sample.family


def _drawn(curve: np.ndarray, blocks: int, foot: float = 0) -> str:
    log = not foot and needs_log_axis(curve)
    line = sparkline(curve, blocks, log=log, foot=foot)
    peak, last = short(float(curve.max())), short(float(curve[-1]))
    return f"{line}{'  log' if log else '':5}{peak:>10}{last:>10}"


def sample_text(config: SweepConfig, sample: Sample) -> str:
    """What a sample chose, on one line; all of its parameters if it had no choice."""
    words = chosen_text(config, sample.family, sample.parameters)
    return f"{words} (before any plateau)" if sample.before_feedback else words


def _search_text(preview: Preview) -> str:
    search, enqueued = preview.config.search, len(preview.config.enqueue)
    number = "any number" if preview.num_trials is None else f"{preview.num_trials:,}"
    words = [f"{number}, proposed by {search.algorithm} to {search.goal} {search.metric}"]
    if enqueued:
        words.append(f"{enqueued} of them enqueued")
    if search.hours is not None:
        words.append(f"none started after {search.hours:g} hours")
    if search.target is not None:
        words.append(f"none started once one has reached {search.target:g}")
    return "; ".join(words)


def _pruning_text(config: SweepConfig) -> str:
    pruning = config.pruning
    if pruning.algorithm == "none":
        return "none: every trial trains to its end"
    rule = "below the median"
    if pruning.algorithm == "asha":
        rule = f"all but 1 in {pruning.reduction_factor} at each rung"
    among = "its own family" if pruning.compare == "family" else "all trials"
    first = count(pruning.grace_epochs, "epoch")
    return f"{pruning.algorithm} stops {rule} of {among}, none before {first}"


def _machine_text(preview: Preview) -> str:
    cores = count(int(preview.machine["CPU"]), "core")
    gpus = int(preview.machine["GPU"])
    found = f"{cores} and {count(gpus, 'GPU') if gpus else 'no GPU'} here"
    if preview.slots is None:
        return f"{found}; {preview.refusal}"
    at_once = min(preview.slots.concurrent, preview.num_trials or preview.slots.concurrent)
    each = f"{preview.slots.cpus_per_trial:g} core" + "s" * (preview.slots.cpus_per_trial != 1)
    if preview.slots.gpus_per_trial:
        each += f" and {preview.slots.gpus_per_trial:g} GPU"
    return f"{found}: {count(at_once, 'trial')} at a time, {each} each"


def _time_text(preview: Preview) -> str:
    found = preview.estimate
    if found is None:
        hours = preview.config.search.hours
        if hours is not None and preview.num_trials is None:
            return f"{hours:g} hours, and the rest of the trials that run by then"
        return "not known: no earlier sweep here trained like this one"
    source = found.sweeps[0]
    if len(found.sweeps) > 1:
        source += f" and {count(len(found.sweeps) - 1, 'other sweep')}"
    epoch = span(found.epoch_low, found.epoch_high)
    return f"{span(found.low, found.high)} of training, {epoch} for an epoch as in {source}"


def _free_text(config: SweepConfig) -> str:
    return f"{count(len(free_parameters(config)), 'free parameter')}"


def _spread_text(spread: Distribution) -> str:
    if isinstance(spread, Choice):
        return "|".join(map(short, spread.options))
    ends = f"{short(spread.low)}..{short(spread.high)}"
    if isinstance(spread, IntUniform):
        return f"{ends} whole"
    return f"{ends} log" if spread.log else ends
