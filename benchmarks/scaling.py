"""Two trials at once against one at a time, and the memory that the data of several workers takes.

    python benchmarks/scaling.py [--rounds 2] [--trials 8] [--epochs 3] [--workers 4]

Each round runs a real sweep twice, of the same trials on one core each: one at a time, then two at
once. `sweep` is the time from the first proposal to the last result, with the start of the workers
and their compiling in it; `command` has in it the start and the end of Ray and what MLflow gets.

Then workers take the whole data set as those of a sweep do, from Ray's object store, and others
make private copies of it. Counted is what the data adds to the workers: to their shares (PSS) of
the store's memory, and to all other memory. `on the node` takes in what other processes share of
the store, as the driver does. With --rounds 0 only the memory is measured.

Fashion-MNIST comes as for a sweep, from the cache or from $SWEEP_MANUAL_DIR. Run it with nothing
else at work, on two cores at least.
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from search_spaces import SweepConfig, load_config, preset_path
from sweep.cluster import connected
from sweep.driver import launch, load_data
from sweep.trial import Shared
from trainers.data import Dataset
from trainers.devices import claim

GOAL_SPEEDUP = 1.7
GOAL_MEMORY = 0.35
SPLITS = ("train_images", "train_labels", "val_images", "val_labels")
_ARMS = {1: "one at a time", 2: "two at once"}


class Seconds(NamedTuple):
    """What a sweep took."""

    sweep: float
    command: float


class Memory(NamedTuple):
    """Bytes of a process or of several."""

    store: int  # its share of the object store's memory
    other: int  # all else

    def __sub__(self, before: "Memory") -> "Memory":
        return Memory(self.store - before.store, self.other - before.other)


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=2)
    add("--trials", type=int, default=8)
    add("--epochs", type=int, default=3)
    add("--train-examples", type=int, default=14_080, help="of each epoch")
    add("--workers", type=int, default=4, help="whose memory is measured")
    options = parser.parse_args()
    print(f"the load of the machine before the start was {os.getloadavg()[0]:.1f}", flush=True)
    found: dict[int, list[Seconds]] = {concurrent: [] for concurrent in _ARMS}
    for _ in range(options.rounds):
        for concurrent, name in _ARMS.items():
            found[concurrent].append(seconds(config(options, concurrent)))
            sweep, command = found[concurrent][-1]
            print(f"{name:13}  sweep {sweep:6.1f} s  command {command:6.1f} s", flush=True)
    if options.rounds:
        _print_speedup(found)
    _print_memory(load_data(_preset(), None), options.workers)


def _preset(*overrides: str) -> SweepConfig:
    path = preset_path("fashion_mnist")
    assert path is not None
    return load_config(path, list(overrides))


def config(options: argparse.Namespace, concurrent: int) -> SweepConfig:
    """A sweep whose trials differ in their learning rate alone, and all of which end."""
    return _preset(
        f"data.train_examples={options.train_examples}",
        "data.validation_examples=2000",
        f"training.num_epochs={options.epochs}",
        "space={schedule: {constant: {peak_lr: {log_uniform: [1.0e-3, 0.05]}}}}",
        f"search={{algorithm: random, num_trials: {options.trials}}}",
        "pruning={algorithm: none}",
        "resources.cpus_per_trial=1",
        "resources.gpus_per_trial=0",
        f"resources.max_concurrent={concurrent}",
    )


def seconds(config: SweepConfig) -> Seconds:
    """What a sweep of `config` took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trials = launch(config, Path(folder) / "scaling").trials
    command = time.perf_counter() - start
    states = {trial.state for trial in trials}
    if states != {"complete"}:
        raise SystemExit(f"all trials must be complete, but some are {states}")
    ended = max(trial.ended_ms or 0 for trial in trials)
    return Seconds((ended - min(trial.started_ms for trial in trials)) / 1000, command)


def _print_speedup(found: dict[int, list[Seconds]]) -> None:
    for part, goal in (("sweep", f", the goal is {GOAL_SPEEDUP:g}"), ("command", "")):
        one, two = (
            statistics.median(getattr(taken, part) for taken in found[concurrent])
            for concurrent in _ARMS
        )
        print(f"{part}: {one:.1f} s / {two:.1f} s = {one / two:.2f}{goal}")


def _print_memory(dataset: Dataset, workers: int) -> None:
    dataset = dataset._replace(
        test_images=dataset.test_images[:0], test_labels=dataset.test_labels[:0]
    )
    size = sum(getattr(dataset, name).nbytes for name in SPLITS)
    with connected("local"):
        held, node = growth(dataset, workers, private=False)
        copies = growth(dataset, workers, private=True)[0].other
    print(
        f"the data is {_mb(size)}; {workers} private copies: {_mb(copies)}\n"
        f"shared: {_mb(held.store)} of the store and {_mb(held.other)} besides; "
        f"on the node {_mb(node)}\n"
        f"memory: {sum(held) / copies:.2f} of private copies, the goal is {GOAL_MEMORY:g}; "
        f"on the node {node / copies:.2f}"
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def growth(dataset: Dataset, workers: int, *, private: bool) -> tuple[Memory, int]:
    """What the data adds to these workers together, and to all processes of the node."""
    start: Any = ray.remote(num_cpus=0)(Worker).remote
    actors = [start() for _ in range(workers)]
    little = dataset._replace(**{name: getattr(dataset, name)[:64] for name in SPLITS})
    counted = []
    for data in (little, dataset):  # after the first one, the workers have all that is not data
        shared = ray.put(Shared(data, {}, b"", ""))
        places = ray.get([actor.hold.remote(shared, private) for actor in actors])
        counted.append(_counted(places))
    (before, store_before), (after, store_after) = counted
    added = after - before
    return added, store_after - store_before + added.other


class Worker:
    """Holds data as a worker of a sweep does, or as its own."""

    def hold(self, shared: Shared, private: bool) -> tuple[int, int]:
        """Take the data, read all of it, and say who this is and where Ray has put it."""
        claim(num_cpus=1, gpu_share=0)
        from trainers.training import on_device

        dataset = shared.dataset if private else on_device(shared.dataset)
        arrays = [np.asarray(getattr(dataset, name)) for name in SPLITS]
        self.arrays = [array.copy() for array in arrays] if private else arrays
        for array in self.arrays:
            array.sum()
        return os.getpid(), shared.dataset.train_images.ctypes.data


def _counted(places: list[tuple[int, int]]) -> tuple[Memory, int]:
    """The memory of these processes, and the shares of all processes in the store."""
    pid, address = places[0]
    (store,) = (part.file for part in mappings(pid) if part.start <= address < part.end)
    own = {pid: _memory(pid, store) for pid, _ in places}
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    everywhere = sum(_memory(pid, store).store for pid in pids)
    return Memory(*map(sum, zip(*own.values(), strict=True))), everywhere


def _memory(pid: int, store: str) -> Memory:
    shares = [(part.file == store, part.share) for part in mappings(pid)]
    return Memory(
        sum(share for of_store, share in shares if of_store),
        sum(share for of_store, share in shares if not of_store),
    )


class Mapping(NamedTuple):
    """Part of a process's memory."""

    start: int
    end: int
    file: str  # its device and inode
    share: int  # bytes in memory, each divided by the number of processes that have it


def mappings(pid: int) -> Iterator[Mapping]:
    """The mappings of a process; none where it has ended or may not be looked into."""
    try:
        text = Path(f"/proc/{pid}/smaps").read_text()
    except OSError:
        return
    pattern = r"^(\w+)-(\w+) \S+ \w+ (\S+ \d+).*\n(?:(?!Pss:).*\n)+?Pss: +(\d+) kB"
    for start, end, file, share in re.findall(pattern, text, re.MULTILINE):
        yield Mapping(int(start, 16), int(end, 16), file, int(share) * 1024)


if __name__ == "__main__":
    main()
