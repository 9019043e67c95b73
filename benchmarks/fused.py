"""Trials with different learning-rate curves as lanes of one program: which form is the fastest.

Started by `python benchmarks/step.py --fused`; the forms are described in `forms.py`. All lanes
see the same batches. Every lane's loss is compared with that of its trial run alone by the product.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arms import order_of_files, own_program
from forms import Case, fused_epoch, lane_params

from trainers.data import Dataset
from trainers.schedules import learning_rate_curve
from trainers.training import Settings, init_state

TOLERANCE = 1e-3  # between the loss of a float32 lane and that of the trial alone
DTYPES = ("float32", "bfloat16")

# One of these per lane; each further group of lanes starts them at three quarters of the rate.
_FAMILIES: tuple[dict[str, Any], ...] = (
    {"constant": {}},
    {"exponential_decay": {"decay_rate": 0.1}},
    {"polynomial_decay": {"power": 0.3, "final_fraction": 0.1}},
    {"cosine_decay": {}},
)
_PEAK_LR = 0.0256  # for the mean loss of a batch: 1e-4 for the sum over 256 examples


class Program(NamedTuple):
    """An epoch of a case: `call(state, order, learning rates)` -> state, losses (steps, lanes)."""

    start: Callable[[], Any]
    call: Callable[[Any, np.ndarray, np.ndarray], tuple[Any, jax.Array]]


class Race(NamedTuple):
    """What all programs share."""

    dataset: Dataset
    images: jax.Array
    labels: jax.Array
    orders: list[np.ndarray]  # per epoch, int32 (steps, batch), -1 where there is no example
    settings: Settings
    bytes_per_second: float  # measured, of a copy


def race(
    dataset: Dataset,
    settings: Settings,
    *,
    lanes: list[int],
    forms: list[str],
    minutes: float,
    precision: str,
    copy_mebibytes: int,
    json_file: Path | None,
) -> bool:
    """Measure, print and write every case; whether all float32 lanes match their trials alone.

    After `minutes` no further case is begun; those left are named.
    """
    deadline = time.monotonic() + 60 * minutes
    shared = _shared(dataset, settings, copy_mebibytes)
    numbers = _facts(shared, precision)
    _print_head(numbers)
    alone, losses_alone = [], _losses_alone(shared)
    for case in _cases(lanes, forms):
        if time.monotonic() < deadline:
            found = _measured(case, shared, numbers["cases"])
            if "error" not in found:
                alone += islice(losses_alone, max(case.lanes - len(alone), 0))
                found["deviation"] = _deviation(found["losses"], alone)
            numbers["cases"].append(found)
            _print_case(found)
        else:
            numbers["skipped"].append(case._asdict())
            print(f"{_label(case._asdict())}  skipped: {minutes:g} minutes are over")
        if json_file:
            json_file.write_text(json.dumps(numbers, indent=1))
    return not any(_is_wrong(found) for found in numbers["cases"])


def _facts(shared: Race, precision: str) -> dict[str, Any]:
    """What the numbers stand on, and room for them."""
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "matmul_precision": precision,
        "images": len(shared.images),
        "settings": shared.settings._asdict(),
        "copy_bytes_per_second": shared.bytes_per_second,
        "cases": [],
        "skipped": [],
    }


def _shared(dataset: Dataset, settings: Settings, copy_mebibytes: int) -> Race:
    num_examples = len(dataset.train_images)
    rows = order_of_files(num_examples, settings.batch_size)
    orders = []
    for epoch in range(settings.num_epochs):
        shuffled = np.random.default_rng((settings.seed, epoch)).permutation(num_examples)
        orders.append(np.where(rows < 0, -1, shuffled[rows]).astype(np.int32))
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    return Race(dataset, images, labels, orders, settings, _copy_rate(copy_mebibytes))


def _copy_rate(mebibytes: int, repeats: int = 10) -> float:
    """Bytes read and written per second by x + 1, the best of `repeats`."""
    block = jnp.zeros(mebibytes * 2**18, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    add(block).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        add(block).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * block.nbytes / min(seconds)


def _cases(lanes: list[int], forms: list[str]) -> Iterator[Case]:
    """The product first, then few lanes first. One lane is of interest where nothing is batched."""
    if "own" in forms:
        yield Case("own", "float32", 1)
    for number in lanes:
        for form in forms:
            if form != "own" and (number > 1 or form in ("unrolled", "patches")):
                yield from (Case(form, dtype, number) for dtype in DTYPES)


def _measured(case: Case, shared: Race, before: list[dict[str, Any]]) -> dict[str, Any]:
    """The times of a case and the losses of its lanes, or why there are none."""
    rates = np.stack([_curve(lane, shared) for lane in range(case.lanes)], axis=-1)
    try:
        program = _program(case, shared)
        (first,), _ = _run(program, shared, rates[:1])
        seconds, losses = _run(program, shared, rates)
    except jax.errors.JaxRuntimeError as error:  # out of memory, or there is no such kernel
        return {**case._asdict(), "error": str(error).partition("\n")[0]}
    epoch_seconds = statistics.median(seconds)
    found = {
        **case._asdict(),
        "compile_seconds": first - epoch_seconds,
        "epoch_seconds": epoch_seconds,
        "every_epoch_seconds": seconds,
        "run_seconds": sum(seconds),
        "trial_epoch_seconds": epoch_seconds / case.lanes,
        "bound_share": _least_seconds(case.dtype, shared) * case.lanes / epoch_seconds,
        "losses": losses.tolist(),
    }
    return {**found, "speedup": _speedup(found, before)}


def _speedup(found: dict[str, Any], before: list[dict[str, Any]]) -> float | None:
    """Against the fastest program of one lane so far, of the same dtype if there is one."""
    single = [one for one in (*before, found) if one["lanes"] == 1 and "error" not in one]
    same = [one for one in single if one["dtype"] == found["dtype"]] or single
    if not same:
        return None
    return min(one["epoch_seconds"] for one in same) / found["trial_epoch_seconds"]


def _least_seconds(dtype: str, shared: Race) -> float:
    """An epoch of one trial at the copy's speed, when each operation reads and writes memory.

    The first layer's activations and their gradients pass 6 times, the second's 7, the pixels (one
    byte each) twice, with bias and ReLU computed on the way: 955 KB per image in float32.
    """
    pixels = int(np.prod(shared.images.shape[1:3]))
    size = jnp.dtype(dtype).itemsize
    per_image = 2 * pixels + size * pixels * (6 * 32 + 7 * 16)
    return per_image * len(shared.images) / shared.bytes_per_second


def _losses_alone(shared: Race) -> Iterator[float]:
    """The final loss of each lane's trial, run alone by the product, in the order of the lanes."""
    program = _program(Case("own", "float32", 1), shared)
    for lane in count():
        yield float(_run(program, shared, _curve(lane, shared)[:, :, None])[1][0])


def _run(program: Program, shared: Race, rates: np.ndarray) -> tuple[list[float], np.ndarray]:
    """The seconds of each epoch, and each lane's mean loss per example in the last one.

    rates: float32 (epochs, steps, lanes). The losses are read once per epoch, as the product does.
    """
    state, seconds, losses = program.start(), [], np.zeros(())
    for order, row in zip(shared.orders, rates, strict=False):
        start = time.perf_counter()
        state, losses = program.call(state, order, row)
        losses = np.asarray(jax.block_until_ready((losses, state))[0], np.float64)
        seconds.append(time.perf_counter() - start)
    return seconds, losses.sum(axis=0) / len(shared.images)


def _curve(lane: int, shared: Race) -> np.ndarray:
    """The learning rates of a lane, float32 (epochs, steps)."""
    ((family, parameters),) = _FAMILIES[lane % len(_FAMILIES)].items()
    peak = _PEAK_LR / shared.settings.batch_size * 0.75 ** (lane // len(_FAMILIES))
    epochs, steps = len(shared.orders), len(shared.orders[0])
    point = {"schedule": {family: {**parameters, "peak_lr": peak}}}
    curve = learning_rate_curve(point, num_epochs=epochs, steps_per_epoch=steps)
    return curve.reshape(epochs, steps)


def _program(case: Case, shared: Race) -> Program:
    if case.form == "own":
        start, call = own_program(shared.dataset, shared.settings)

        def call_own(state: Any, order: np.ndarray, rates: np.ndarray) -> tuple[Any, jax.Array]:
            state, losses = call(state, order, rates[:, 0])
            return state, losses[:, None]

        return Program(start, call_own)
    params = init_state(shared.dataset, shared.settings).params
    return Program(
        lambda: lane_params(params, case),
        lambda state, order, rates: fused_epoch(
            state, shared.images, shared.labels, order, rates, case=case
        ),
    )


def _deviation(losses: list[float], alone: list[float]) -> float:
    """The largest relative difference of a lane from its trial alone."""
    expected = np.asarray(alone[: len(losses)])
    return float(np.max(np.abs(np.asarray(losses) - expected) / expected))


def _is_wrong(found: dict[str, Any]) -> bool:
    """Whether float32 lanes are too far from their trials alone, or are not finite."""
    return found["dtype"] == "float32" and not found.get("deviation", 0) <= TOLERANCE


def _print_head(numbers: dict[str, Any]) -> None:
    settings = numbers["settings"]
    print(
        f"{numbers['device']}, jax {numbers['jax']}, matmul precision "
        f"{numbers['matmul_precision']}, {numbers['images']} images, batches of "
        f"{settings['batch_size']};\na copy reads and writes "
        f"{numbers['copy_bytes_per_second'] / 1e9:.0f} GB/s\n\n"
        "compile s   what the first epoch took longer than the later ones\n"
        "speedup     against the fastest program of one lane, of that dtype if there is one\n"
        "of bound    what is reached of the copy's speed, were every operation to use memory\n"
        "deviation   of the last epoch's losses from the trials alone, which are float32; lanes\n"
        f"            of float32 may have at most {TOLERANCE:g}\n\n"
        f"{'form':13} {'dtype':8} {'lanes':>5} {'compile s':>9} {'s/epoch':>9} "
        f"{'s/' + str(settings['num_epochs']) + ' epochs':>11} {'ms/trial-epoch':>14} "
        f"{'speedup':>7} {'of bound':>8} {'deviation':>9}",
        flush=True,
    )


def _print_case(found: dict[str, Any]) -> None:
    if "error" in found:
        print(f"{_label(found)}  failed: {found['error']}", flush=True)
        return
    speedup = f"{found['speedup']:.2f}" if found["speedup"] else "-"
    print(
        f"{_label(found)} {found['compile_seconds']:9.1f} {found['epoch_seconds']:9.4f} "
        f"{found['run_seconds']:11.3f} {1000 * found['trial_epoch_seconds']:14.2f} {speedup:>7} "
        f"{found['bound_share']:8.3f} {found['deviation']:9.1e}"
        f"{'  TOO FAR' * _is_wrong(found)}",
        flush=True,
    )


def _label(case: dict[str, Any]) -> str:
    return f"{case['form']:13} {case['dtype']:8} {case['lanes']:5}"
