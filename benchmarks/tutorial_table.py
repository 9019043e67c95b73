"""A published table, measured again: the eight runs of the preset `tutorial`, ten epochs each.

    python benchmarks/tutorial_table.py [--manual-dir DIR] [--work DIR] [--markdown FILE]
                                        [--json FILE] [--num-epochs N] [--train-examples N]

Prints every train loss and accuracy beside the published one, then the largest deviations; the
exit code is 1 where one is over its bound. Each core trains one run at a time on one thread: a step
of 256 images takes 65 ms so, and about 45 ms on two threads, which is less for one run and more for
two. Stopped by anything, the same command goes on after the last whole epoch of each run.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

from search_spaces import (
    ConfigError,
    SweepConfig,
    load_config,
    point_to_parameters,
    preset_path,
    sample_space,
)
from sweep.errors import CommandError
from sweep.files import locked, write_text
from trainers.data import Dataset, DatasetError, load_dataset

PUBLISHED = Path(__file__).with_suffix(".json")
Quantity = Literal["train_loss", "val_accuracy"]
TITLES: Mapping[Quantity, str] = {"train_loss": "train loss", "val_accuracy": "accuracy"}


class Row(NamedTuple):
    """One run's figures, epoch by epoch."""

    name: str
    train_loss: Sequence[float]  # mean over the batches of the losses summed over a batch
    val_accuracy: Sequence[float]  # 0..1


class Bound(NamedTuple):
    """How far from the published figures an epoch of first..last may lie, counted from 1."""

    quantity: Quantity
    first: int
    last: int
    limit: float  # of a loss relative, of an accuracy absolute; inf: reported only


BOUNDS = (
    Bound("train_loss", 1, 2, 0.02),
    Bound("train_loss", 3, 10, 0.003),
    Bound("train_loss", 10, 10, 0.001),
    Bound("val_accuracy", 1, 2, math.inf),
    Bound("val_accuracy", 3, 10, 0.002),
)


class Finding(NamedTuple):
    """The largest deviation that a bound is about, and where it is; None: no such epoch yet."""

    bound: Bound
    largest: float | None
    where: str

    @property
    def holds(self) -> bool:
        """Whether the deviation is within its bound, which it may be equal to."""
        return self.largest is None or round(self.largest, 9) <= self.bound.limit


class Plan(NamedTuple):
    """What the workers are to do; plain data, for it is sent to them."""

    data: dict[str, Any]  # arguments of load_dataset
    training: dict[str, Any]  # fields of Settings
    spaces: list[dict[str, Any]]  # one concrete point per run
    num_epochs: int  # to train, of the epochs that `training` names
    work: Path


def deviation(quantity: Quantity, published: float, measured: float) -> float:
    """How far a figure lies above the published one: a loss relative, an accuracy absolute."""
    difference = measured - published
    return difference / published if quantity == "train_loss" else difference


def findings(published: Sequence[Row], measured: Sequence[Row]) -> list[Finding]:
    """For each bound the largest deviation among the epochs that were measured."""
    found = []
    for bound in BOUNDS:
        sizes = [
            (abs(deviation(bound.quantity, *pair)), f"{ours.name}, epoch {epoch}")
            for theirs, ours in zip(published, measured, strict=True)
            for epoch, pair in enumerate(_pairs(bound.quantity, theirs, ours), start=1)
            if bound.first <= epoch <= bound.last
        ]
        found.append(Finding(bound, *max(sizes, default=(None, ""))))
    return found


def passed(found: Sequence[Finding]) -> bool:
    """Whether every bound holds as far as it was measured."""
    return all(finding.holds for finding in found)


def _pairs(quantity: Quantity, published: Row, measured: Row) -> list[tuple[float, float]]:
    """The published and the measured figure of each epoch that was measured."""
    return list(zip(getattr(published, quantity), getattr(measured, quantity), strict=False))


def enqueued_spaces(config: SweepConfig) -> list[dict[str, Any]]:
    """The enqueued points of a config in their order, with a value for every parameter."""
    values = [point_to_parameters(config, point) for point in config.enqueue]
    return [sample_space(config, lambda name, _, known=known: known[name]) for known in values]


def published_rows(text: str, spaces: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The published figures; CommandError unless they are those of `spaces`, in that order."""
    runs = json.loads(text)["runs"]
    if len(runs) != len(spaces):
        raise CommandError(f"the preset must have {len(runs)} points, but it has {len(spaces)}")
    for run, space in zip(runs, spaces, strict=True):
        body = space["schedule"].get(run["schedule"], {})
        if not body or any(body.get(key) != value for key, value in run["parameters"].items()):
            raise CommandError(
                f"the published run {run['name']} must have its point in the preset at the same "
                f"place, with {run['parameters']}, but there stands {space['schedule']}"
            )
    return [Row(run["name"], run["train_loss"], run["val_accuracy"]) for run in runs]


def measure(
    plan: Plan, num_workers: int, on_epoch: Callable[[int, dict[str, Any]], None]
) -> list[list[dict[str, Any]]]:
    """The reports of every run, epoch by epoch, from workers that take every n-th run each."""
    workers = _started(plan, num_workers)
    reports: list[list[dict[str, Any]]] = [[] for _ in plan.spaces]
    busy = list(workers)
    try:
        while busy:
            for reader in wait(busy):
                assert isinstance(reader, Connection)
                try:
                    number, report = reader.recv()
                except EOFError:
                    busy.remove(reader)
                    workers[reader].join()
                    if workers[reader].exitcode:
                        raise CommandError("a worker failed; the same command goes on") from None
                else:
                    reports[number].append(report)
                    on_epoch(number, report)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.join()
    return reports


def _started(plan: Plan, num_workers: int) -> dict[Connection, BaseProcess]:
    """The workers by the connection that their reports come from."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    # Ctrl-C reaches the whole group of processes; the workers leave it to this one.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for first in range(num_workers):
        reader, writer = context.Pipe(duplex=False)
        runs = range(len(plan.spaces))[first::num_workers]
        workers[reader] = context.Process(target=_work, args=(plan, runs, writer), daemon=True)
        workers[reader].start()
        writer.close()
    signal.signal(signal.SIGINT, interrupt)
    return workers


def _work(plan: Plan, runs: Sequence[int], writer: Connection) -> None:
    """Train some of the runs on one thread, sending every report."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from trainers.devices import claim

    claim(num_cpus=1, gpu_share=0)
    from trainers.training import on_device

    dataset = on_device(load_dataset(**plan.data))
    for number in runs:
        for report in _train(plan, number, dataset):
            writer.send((number, report._asdict()))


def _train(plan: Plan, number: int, dataset: Dataset) -> Iterator[Any]:
    """The EpochReports of one run; those that its checkpoint holds cost nothing.

    The curve is that of all epochs, so a run of a few is the start of the whole one.
    """
    from trainers.runs import fit_point
    from trainers.training import Settings

    path = plan.work / f"{number}-{len(dataset.train_images)}.checkpoint"
    settings = Settings(**plan.training)
    epochs = fit_point(dataset, plan.spaces[number], settings, checkpoint_path=path)
    return islice(epochs, plan.num_epochs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a second writer of the checkpoints could be started any time


def measured_row(name: str, reports: Sequence[Mapping[str, Any]]) -> Row:
    """The figures of a run's reports; CommandError where a loss is not finite."""
    if not all(math.isfinite(reports[-1][loss]) for loss in ("train_loss", "val_loss")):
        raise CommandError(f"the losses of {name} must be finite, but not in epoch {len(reports)}")
    return Row(name, *([r[quantity] for r in reports] for quantity in TITLES))


def _size(quantity: Quantity, value: float, sign: str = "") -> str:
    if quantity == "train_loss":
        return f"{100 * value:{sign}.3f} %"
    return f"{value:{sign}.4f}"


def _figure(quantity: Quantity, value: float) -> str:
    return f"{value:.3f}" if quantity == "train_loss" else f"{value:.4f}"


def summary(found: Sequence[Finding]) -> list[str]:
    """A line for each bound, and the verdict."""
    lines = []
    for finding in found:
        (quantity, first, last, limit), largest, where = finding
        epochs = f"epochs {first} to {last}" if last > first else f"epoch {last}"
        line = f"{TITLES[quantity]}, {epochs}: "
        if largest is None:
            line += "not measured"
        else:
            line += f"at most {_size(quantity, largest)} off ({where}), "
            verdict = "holds" if finding.holds else "is missed"
            bound = f"the bound of {_size(quantity, limit)} {verdict}"
            line += "no bound" if math.isinf(limit) else bound
        lines.append(line)
    far = ", as far as it was measured" if any(one.largest is None for one in found) else ""
    return [*lines, f"Every bound holds{far}." if passed(found) else "A bound is missed."]


def text_table(published: Sequence[Row], measured: Sequence[Row]) -> str:
    """Every figure with its deviation, one column per epoch."""
    lines = []
    for quantity, title in TITLES.items():
        epochs = range(1, len(measured[0].train_loss) + 1)
        lines.append(f"{title:11}" + "".join(f"{epoch:10}" for epoch in epochs))
        for theirs, ours in zip(published, measured, strict=True):
            pairs = _pairs(quantity, theirs, ours)
            columns = {
                "published": [_figure(quantity, theirs) for theirs, _ in pairs],
                "measured": [_figure(quantity, ours) for _, ours in pairs],
                "deviation": [_size(quantity, deviation(quantity, *pair), "+") for pair in pairs],
            }
            lines.append(ours.name)
            for head, cells in columns.items():
                lines.append(f"  {head:9}" + "".join(f"{cell:>10}" for cell in cells))
        lines.append("")
    return "\n".join(lines)


def markdown(
    published: Sequence[Row], measured: Sequence[Row], found: Sequence[Finding], made: str
) -> str:
    """A page section: a table of losses and one of accuracies, and what follows from them."""
    lines = ["## A published table, measured again", "", made, ""]
    lines += [f"- {line}" for line in summary(found)]
    epochs = range(1, len(measured[0].train_loss) + 1)
    for quantity, title in TITLES.items():
        lines += ["", f"{title.capitalize()} after each epoch, published / measured:", ""]
        lines.append(f"| run | {' | '.join(map(str, epochs))} |")
        lines.append("|---|" + "--:|" * len(epochs))
        for theirs, ours in zip(published, measured, strict=True):
            pairs = _pairs(quantity, theirs, ours)
            cells = [" / ".join(_figure(quantity, figure) for figure in pair) for pair in pairs]
            lines.append(f"| {ours.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line; a person's mistake ends in a message, never in a traceback."""
    try:
        found = run(_options())
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    except (CommandError, ConfigError, DatasetError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, CommandError) else 2)
    sys.exit(0 if passed(found) else 1)


def run(options: argparse.Namespace) -> list[Finding]:
    """Measure, print and write what `options` ask for."""
    plan = make_plan(options)
    published = published_rows(PUBLISHED.read_text(), plan.spaces)
    load_dataset(**plan.data)  # prepared once, before there are several to do so

    def show(number: int, report: dict[str, Any]) -> None:
        print(
            f"{published[number].name}: epoch {report['epoch']}, "
            f"train loss {report['train_loss']:.3f}, accuracy {report['val_accuracy']:.4f}, "
            f"{report['seconds']:.3f} s",
            file=sys.stderr,
        )

    with locked(plan.work / "lock", patience_s=0):
        reports = measure(plan, min(_num_cores(), len(plan.spaces)), show)
    measured = [measured_row(row.name, run) for row, run in zip(published, reports, strict=True)]
    found = findings(published, measured)
    print(text_table(published, measured), *summary(found), sep="\n")
    if options.markdown:
        write_text(options.markdown, markdown(published, measured, found, _made(options, reports)))
    if options.json:
        results = {
            "runs": [row._asdict() for row in measured],
            "seconds": [[report["seconds"] for report in run] for run in reports],
            "summary": summary(found),
            "passed": passed(found),
        }
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    return found


def make_plan(options: argparse.Namespace) -> Plan:
    """What `options` ask for, checked."""
    preset = preset_path("tutorial")
    assert preset is not None
    examples = options.train_examples
    fewer = [] if examples is None else [f"data.train_examples={examples}"]
    config = load_config(preset, fewer)
    num_epochs, most = options.num_epochs, config.training.num_epochs
    if not 1 <= num_epochs <= most:
        raise CommandError(f"1 <= num-epochs <= {most} must hold, but got {num_epochs}", 2)
    for file in (options.markdown, options.json):
        if file and not file.parent.is_dir():
            raise CommandError(f"{file} must lie in a folder that exists, but it does not", 2)
    data = config.data.model_dump()
    data |= {"name": data.pop("dataset"), "manual_dir": options.manual_dir}
    training = config.training.model_dump()
    return Plan(data, training, enqueued_spaces(config), num_epochs, options.work)


def _made(options: argparse.Namespace, reports: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """How a page was made: the command, without the folders of one machine."""
    command = "python benchmarks/tutorial_table.py"
    if options.num_epochs < 10:
        command += f" --num-epochs {options.num_epochs}"
    if options.train_examples is not None:
        command += f" --train-examples {options.train_examples}"
    minutes = sum(report["seconds"] for run in reports for report in run) / 60
    return f"Made by `{command}`; {minutes:.0f} core-minutes of training."


def _num_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a published table again.")
    parser.add_argument("--manual-dir", type=Path, help="take the images from here")
    parser.add_argument(
        "--work", type=Path, default=Path("build/tutorial_table"), help="keep checkpoints here"
    )
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--num-epochs", type=int, default=10, help="train the first so many epochs")
    parser.add_argument(
        "--train-examples", type=int, help="train on the first so many images, for a quick look"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
