"""Schedules that rise as well: one cycle, or one after the other."""

from typing import Literal, get_args

import numpy as np

from trainers.bounds import at_least_1, fraction, non_negative, one_of, positive, positive_fraction
from trainers.decays import ROUNDING, WHOLE_RUN, elapsed, half_cosine
from trainers.knots import between_knots

Anneal = Literal["cosine", "linear"]
Mode = Literal["triangular", "triangular2", "exp_range"]


def cosine_restarts(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    cycle_ticks: float,
    cycle_growth: float = 1.0,
    peak_decay: float = 1.0,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """Half cosines, one after the other; each starts again from the peak, SGDR.

    peak_lr * (f + (1 - f) * peak_decay ** n * (1 + cos(pi * x)) / 2),   x = share of cycle n

    The first cycle takes `cycle`, each next one `cycle_growth` times the one before; a restart is
    the first tick of its cycle. Loshchilov & Hutter 2017.
    """
    non_negative(peak_lr=peak_lr)
    positive(cycle=cycle_ticks)
    at_least_1(cycle_growth=cycle_growth)
    fraction(peak_decay=peak_decay, final_fraction=final_fraction)
    cycles, share = _cycles(elapsed(ticks, cycle_ticks), cycle_growth)
    wave = peak_decay**cycles * half_cosine(share)
    return peak_lr * (final_fraction + (1 - final_fraction) * wave)


def one_cycle(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    rise_ticks: float,
    cycle_ticks: float = WHOLE_RUN,
    init_fraction: float = 0.04,
    final_fraction: float = 4e-6,
    anneal: Anneal = "cosine",
) -> np.ndarray:
    """Up from `init_fraction * peak_lr` to the peak at `rise`, then down for the rest of `cycle`.

    between peak_lr * (init_fraction, 1, final_fraction) at t = (0, rise, cycle), then flat

    The floor is reached at t = cycle, as in optax; PyTorch's OneCycleLR, whose pct_start, 1 /
    div_factor and 1 / (div_factor * final_div_factor) these are, has it at the last tick, one
    earlier, and its peak too. Smith & Topin 2019.
    """
    non_negative(peak_lr=peak_lr)
    positive(rise=rise_ticks, cycle=cycle_ticks)
    if rise_ticks >= cycle_ticks:
        raise ValueError(
            f"rise < cycle must hold, but got {rise_ticks:g} and {cycle_ticks:g} ticks"
        )
    fraction(init_fraction=init_fraction, final_fraction=final_fraction)
    one_of(get_args(Anneal), anneal=anneal)
    values = peak_lr * np.array([init_fraction, 1, final_fraction])
    return between_knots(ticks, np.array([0, rise_ticks, cycle_ticks], np.float64), values, anneal)


def cyclic(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    cycle_ticks: float,
    init_fraction: float = 0.0,
    mode: Mode = "triangular",
    decay_rate: float = 1.0,
    decay_ticks: float = WHOLE_RUN,
) -> np.ndarray:
    """Straight up from `init_fraction * peak_lr` to the peak and down again, over and over.

    peak_lr * (i + (1 - i) * s * triangle(t)),   i = init_fraction, s = scale by mode

    triangle(t) is 0 at the start and the end of each `cycle` and 1 in its middle. The scale s is 1
    for triangular, halves with each cycle for triangular2, and is decay_rate ** (t / decay) for
    exp_range; PyTorch's CyclicLR has gamma for decay_rate at a decay of one step. Smith 2017.
    """
    non_negative(peak_lr=peak_lr)
    positive(cycle=cycle_ticks, decay=decay_ticks)
    fraction(init_fraction=init_fraction)
    positive_fraction(decay_rate=decay_rate)
    one_of(get_args(Mode), mode=mode)
    cycles, share = np.divmod(elapsed(ticks, cycle_ticks), 1)
    scales = {
        "triangular": np.ones(ticks.shape),
        "triangular2": 0.5**cycles,
        "exp_range": decay_rate ** (ticks / decay_ticks),
    }
    wave = scales[mode] * (1 - np.abs(2 * share - 1))
    return peak_lr * (init_fraction + (1 - init_fraction) * wave)


def _cycles(times: np.ndarray, growth: float) -> tuple[np.ndarray, np.ndarray]:
    """The number of the cycle at each time, in lengths of the first, and the share of it so far."""
    if growth == 1:
        cycles, share = np.divmod(times, 1)
        return cycles, share

    def start(cycle: np.ndarray) -> np.ndarray:
        return np.expm1(cycle * np.log(growth)) / (growth - 1)

    cycles = np.floor(np.log1p(times * (growth - 1)) / np.log(growth))
    latest = times * (1 + ROUNDING)  # the logarithm may round across a restart
    cycles -= start(cycles) > latest
    cycles += start(cycles + 1) <= latest
    return cycles, np.clip((times - start(cycles)) / growth**cycles, 0, 1)
