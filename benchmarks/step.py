"""The time of one training step and of one epoch, beside other ways to train the same model.

    python benchmarks/step.py [--data FOLDER] [--rounds 5] [--json FILE]
    python benchmarks/step.py --fused [--lanes 1 4 16 64] [--forms patches ...] [--minutes 20]
    python benchmarks/step.py --quick [--fused]

On a CPU, batches of 256 images, one after the other in each round:

    scan         the product: an epoch as one program
    loop         the product's own program called step by step
    tutorial     plain autodiff of a stax model, nothing jitted, as the JAX tutorial trains it
    jitted       the same, the step jitted
    torch        PyTorch on as many threads, if it is installed, with both layouts of images
    matmul       the product of two 1024 x 1024 float32 matrices: what the cores can give

All start from the same parameters, and must first come to the same losses. Then a trial on all
cores is measured against a trial on each core, side by side, in images per second of the machine.
Run it with nothing else at work: PyTorch's threads wait for each other and suffer most from it.

On a GPU, or with --fused, it races the forms of fused trials instead (see fused.py); on a CPU that
is a small check. JAX_PLATFORMS=cpu measures the CPU of a machine with a GPU. --quick makes it all
tiny: that shows that it runs, and its times mean nothing.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arms import (
    MATMUL_SIZE,
    Run,
    constant_rates,
    load_images,
    matmul_run,
    order_of_files,
    other_runs,
    own_program,
    own_runs,
)
from forms import FORMS
from fused import race

from trainers.data import Dataset
from trainers.devices import claim
from trainers.prepare import MANUAL_DIR_VARIABLE
from trainers.training import Settings

FLOP_PER_IMAGE = 2 * (2 * 225_792 + 3 * 3_612_672 + 3 * 125_440)  # conv1, conv2, dense
TOLERANCE = 1e-3  # between the losses of the arms
MAX_SCAN_TO_LOOP = 1.05
_DATA_HELP = f"folder of the original files; else ${MANUAL_DIR_VARIABLE}, else noise is made up"

_QUICK = {"images": 160, "batch_size": 64, "rounds": 1, "other_steps": 2, "cores": 2, "window": 0.2}
_SMALL_FUSED = {"images": 12, "batch_size": 8, "epochs": 2, "lanes": [2], "copy_mebibytes": 16}


class Arm(NamedTuple):
    """A way to train, and how many steps of it are timed per round."""

    steps: int
    run: Run


def main() -> None:
    """Measure what was asked for and print its table."""
    options = _options()
    settings = Settings(options.epochs, options.batch_size, loss_reduction="sum")
    if options.worker:
        return _serve(options, settings)
    load = os.getloadavg()[0]  # before any work of ours
    dataset = load_images(options.data, options.images)
    if options.fused:
        return _race_forms(dataset, settings, options)
    order = order_of_files(len(dataset.train_images), options.batch_size)
    own = {name: Arm(len(order), run) for name, run in own_runs(dataset, settings).items()}
    others = other_runs(dataset, settings)
    arms = own | {name: Arm(options.other_steps, run) for name, run in others.items()}
    _check_losses(arms, order[:3])
    seconds = _timed({**arms, "matmul": Arm(20, matmul_run())}, order, options.rounds)
    _print_steps(arms, seconds, order)
    print(f"the load of the machine before the start was {load:.1f}; other work blurs these times")
    rates = _machine_rates(options)
    _print_machine(rates)
    if options.json:
        numbers = {
            "jax": jax.__version__,
            "cores": len(os.sched_getaffinity(0)),
            "load_before": load,
            "batch_size": options.batch_size,
            "steps_per_epoch": len(order),
            "seconds_per_step": seconds,
            "images_per_second": rates,
        }
        options.json.write_text(json.dumps(numbers, indent=1))
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes")
    add("--data", type=Path, default=os.environ.get(MANUAL_DIR_VARIABLE), help=_DATA_HELP)
    add("--json", type=Path, help="write all numbers there")
    add("--images", type=int, default=60_000, help="of an epoch")
    add("--batch-size", type=int, default=256, help="up to 32, or a multiple of it")
    add("--rounds", type=int, default=5)
    add("--other-steps", type=int, default=40, help="per round, of the arms that are not ours")
    add("--cores", type=int, help="for the trials side by side; all, unless given")
    add("--window", type=float, default=15, help="seconds of each measurement side by side")
    add("--fused", action="store_true", help="race the forms of fused trials; always so on a GPU")
    add("--lanes", type=int, nargs="+", default=[1, 4, 16, 64])
    add("--forms", nargs="+", choices=FORMS, default=FORMS)
    add("--epochs", type=int, default=10, help="of a fused trial")
    add("--minutes", type=float, default=20, help="after which no further form is begun")
    add("--precision", default="default", help="of float32 products on a GPU, as JAX names it")
    add("--copy-mebibytes", type=int, default=2048, help="copied to measure the memory's speed")
    add("--worker", type=int, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        parser.set_defaults(**_QUICK)
    if not given.worker:  # a worker's JAX is not to start yet
        on_cpu = jax.default_backend() == "cpu"
        parser.set_defaults(fused=not on_cpu)
        if (given.fused and on_cpu) or (given.quick and not on_cpu):
            parser.set_defaults(**_SMALL_FUSED)
    return parser.parse_args()


def _race_forms(dataset: Dataset, settings: Settings, options: argparse.Namespace) -> None:
    with jax.default_matmul_precision(options.precision):
        same = race(
            dataset,
            settings,
            lanes=sorted(options.lanes),
            forms=options.forms,
            minutes=options.minutes,
            precision=options.precision,
            copy_mebibytes=options.copy_mebibytes,
            json_file=options.json,
        )
    if not same:
        sys.exit("some fused lanes came to other losses than their trials alone")


def _check_losses(arms: dict[str, Arm], order: np.ndarray) -> None:
    """Stop unless all arms compute the same."""
    expected = arms["scan"].run(order)
    for name, arm in arms.items():
        losses = arm.run(order)
        if not np.allclose(losses, expected, rtol=TOLERANCE):
            sys.exit(f"{name} must come to the losses {expected}, but came to {losses}")
    print(f"the losses of the first {len(order)} steps agree: {', '.join(arms)}")


def _timed(arms: dict[str, Arm], order: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Seconds per step of each arm in each round, after each was run once."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for timed in [False] + [True] * rounds:
        for name, (steps, run) in arms.items():
            rows = order[:steps]
            start = time.perf_counter()
            run(rows)
            if timed:
                seconds[name].append((time.perf_counter() - start) / len(rows))
    return seconds


def _print_steps(arms: dict[str, Arm], seconds: dict[str, list[float]], order: np.ndarray) -> None:
    scan = seconds["scan"]
    rounds, steps, batch = len(scan), *order.shape
    print(
        f"\n{len(os.sched_getaffinity(0))} cores, batches of {batch}, median (and range) of "
        f"{rounds} rounds; an epoch is {steps} steps,\n~ stands before one that was scaled from "
        "fewer steps; scan / arm is below 1 where the product is faster\n"
    )
    print(f"{'arm':12} {'steps':>5}  {'ms per step':24} {'s per epoch':>11}  scan / arm")
    for name, arm in arms.items():
        counted = min(arm.steps, steps)
        epoch = f"{'~' * (counted < steps)}{statistics.median(seconds[name]) * steps:.2f}"
        ratio = _ratio(scan, seconds[name])
        print(f"{name:12} {counted:5}  {_in_ms(seconds[name]):24} {epoch:>11}  {ratio:10.3f}")
    gflop = 2 * MATMUL_SIZE**3 / 1e9
    step_gflop = batch * FLOP_PER_IMAGE / 1e9
    share = statistics.median(
        (step_gflop / step) / (gflop / product)
        for step, product in zip(scan, seconds["matmul"], strict=True)
    )
    to_loop = _ratio(scan, seconds["loop"])
    print(
        f"\nmatmul {gflop / statistics.median(seconds['matmul']):.0f} GFLOP/s, scan "
        f"{step_gflop / statistics.median(scan):.0f} GFLOP/s ({step_gflop:.2f} GFLOP per step): "
        f"{share:.2f} of the matmul's rate\nscan / loop {to_loop:.3f}, to be at most "
        f"{MAX_SCAN_TO_LOOP}: {'met' if to_loop <= MAX_SCAN_TO_LOOP else 'MISSED'}"
    )
    layouts = {name: statistics.median(seconds[name]) for name in arms if name.startswith("torch")}
    if layouts:
        best = min(layouts, key=layouts.__getitem__)
        print(f"{best}, the faster of both: scan / torch {_ratio(scan, seconds[best]):.3f}")
    else:
        print("torch is not installed, so it was not compared")


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _in_ms(seconds: list[float]) -> str:
    low, middle, high = (1000 * f(seconds) for f in (min, statistics.median, max))
    return f"{middle:.1f} ({low:.1f}..{high:.1f})"


def _machine_rates(options: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of one trial on all cores and of one on each, in each round."""
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    shares = {"one trial on all cores": [cores], "a trial on each core": [[c] for c in cores]}
    rates: dict[str, list[float]] = {name: [] for name in shares}
    with contextlib.ExitStack() as stack:
        workers = {
            name: [stack.enter_context(_worker(share)) for share in shares[name]] for name in shares
        }
        for worker in (worker for group in workers.values() for worker in group):
            assert worker.stdout
            worker.stdout.readline()  # it has compiled
        for _ in range(options.rounds):
            for name, group in workers.items():
                rates[name].append(_group_rate(group, options.window))
    return rates


def _worker(cores: list[int]) -> subprocess.Popen[str]:
    """This script once more, as a trial on some of the cores."""
    numbers = [str(core) for core in cores]
    return subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--worker", *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _group_rate(workers: list[subprocess.Popen[str]], seconds: float) -> float:
    """Images per second of trials that start together and train for as long."""
    for worker in workers:
        assert worker.stdin
        print(seconds, file=worker.stdin, flush=True)
    return sum(float(worker.stdout.readline()) for worker in workers if worker.stdout)


def _serve(options: argparse.Namespace, settings: Settings) -> None:
    """Be a worker: for each line of seconds, train for so long and answer images per second."""
    os.sched_setaffinity(0, options.worker)
    claim(num_cpus=len(options.worker), gpu_share=None)
    dataset = load_images(options.data, options.images)
    start, call = own_program(dataset, settings)
    order = order_of_files(len(dataset.train_images), options.batch_size)[:5]
    rates = constant_rates(order)
    state = jax.block_until_ready(call(start(), order, rates))[0]
    print("ready", flush=True)
    for line in sys.stdin:
        images, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < float(line):
            state = jax.block_until_ready(call(state, order, rates))[0]
            images += int(np.sum(order >= 0))
        print(images / (time.perf_counter() - begin), flush=True)


def _print_machine(rates: dict[str, list[float]]) -> None:
    print()
    for name, values in rates.items():
        low, middle, high = (f(values) for f in (min, statistics.median, max))
        print(f"{name:24} {middle:7.0f} ({low:.0f}..{high:.0f}) images per second")
    wide, narrow = rates.values()
    print(f"{'ratio':24} {_ratio(narrow, wide):7.2f} times as many with a trial on each core")


if __name__ == "__main__":
    main()
