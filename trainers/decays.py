"""Schedules that fall once. t is the tick, d the family's duration, x = min(t / d, 1) the share
of it, f the `final_fraction`; the indented line of a docstring is the learning rate."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from trainers.bounds import fraction, non_negative, one_of, positive

WHOLE_RUN = math.inf  # stands for all ticks of the run
ROUNDING = 1e-12  # relative, of a few operations on float64
Shape = Literal["linear", "cosine", "1-sqrt", "exponential"]


def exponential_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_rate: float,
    decay_ticks: float = WHOLE_RUN,
    staircase: bool = False,
) -> np.ndarray:
    """Multiplied by `decay_rate` every `decay`, smoothly, or at once with `staircase`.

    peak_lr * decay_rate ** (t / d)
    """
    non_negative(peak_lr=peak_lr)
    positive(decay_rate=decay_rate, decay=decay_ticks)
    return peak_lr * decay_rate ** _progress(ticks, decay_ticks, staircase)


def step_decay(
    ticks: np.ndarray, *, peak_lr: float, decay_rate: float, decay_ticks: float
) -> np.ndarray:
    """Multiplied by `decay_rate` at once whenever another `decay` has passed.

    peak_lr * decay_rate ** floor(t / d)

    The tick t = d is the first of the lower rate, as in PyTorch's StepLR.
    """
    return exponential_decay(
        ticks, peak_lr=peak_lr, decay_rate=decay_rate, decay_ticks=decay_ticks, staircase=True
    )


def inverse_time_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_rate: float,
    decay_ticks: float = WHOLE_RUN,
    staircase: bool = False,
) -> np.ndarray:
    """Falls as one over time, smoothly, or in steps of `decay` with `staircase`.

    peak_lr / (1 + decay_rate * t / d)
    """
    non_negative(peak_lr=peak_lr, decay_rate=decay_rate)
    positive(decay=decay_ticks)
    return peak_lr / (1 + decay_rate * _progress(ticks, decay_ticks, staircase))


def inverse_sqrt(ticks: np.ndarray, *, peak_lr: float, timescale_ticks: float) -> np.ndarray:
    """Falls as one over the root of time; after `timescale` it is down to 0.71 of the peak.

    peak_lr * sqrt(s / (t + s)),   s = timescale

    With a linear warmup of the same length this is the schedule of Vaswani et al. 2017.
    """
    non_negative(peak_lr=peak_lr)
    positive(timescale=timescale_ticks)
    return peak_lr / np.sqrt(1 + ticks / timescale_ticks)


def linear_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float = WHOLE_RUN,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """A straight line from `peak_lr` to `final_fraction * peak_lr`, then flat.

    peak_lr * (f + (1 - f) * (1 - x))

    The floor is reached at t = d, one tick past the last of a whole run.
    """
    return polynomial_decay(
        ticks, peak_lr=peak_lr, decay_ticks=decay_ticks, final_fraction=final_fraction
    )


def polynomial_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float = WHOLE_RUN,
    power: float = 1.0,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """A power of the time that is left, towards `final_fraction * peak_lr`, then flat.

    peak_lr * (f + (1 - f) * (1 - x) ** power)
    """
    positive(power=power)
    return _decay(lambda x: (1 - x) ** power, ticks, peak_lr, decay_ticks, final_fraction)


def cosine_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float = WHOLE_RUN,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """Half a cosine from `peak_lr` to `final_fraction * peak_lr`, then flat.

    peak_lr * (f + (1 - f) * (1 + cos(pi * x)) / 2)

    The floor is reached at t = d, one tick past the last of a whole run.
    Loshchilov & Hutter 2017.
    """
    return _decay(half_cosine, ticks, peak_lr, decay_ticks, final_fraction)


def rex(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float = WHOLE_RUN,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """Stays high and falls steeply late, towards `final_fraction * peak_lr`, then flat.

    peak_lr * (f + (1 - f) * (1 - x) / (1 - x / 2))

    Reflected exponential, Chen et al. 2022.
    """
    return _decay(lambda x: (1 - x) / (1 - x / 2), ticks, peak_lr, decay_ticks, final_fraction)


def warmup_stable_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float,
    num_ticks: float,
    shape: Shape = "linear",
    final_fraction: float = 0.0,
) -> np.ndarray:
    """Flat, then down to `final_fraction * peak_lr` within the last `decay` of the run.

    peak_lr * (f + (1 - f) * shape(x)),   x = share of the decay, 0 before it

    shape(x): 1 - x; (1 + cos(pi * x)) / 2; 1 - sqrt(x); exponential is peak_lr * f ** x, f > 0. The
    floor is reached one tick past the last. The warmup is the one that any family can take.
    Hu et al. 2024; Hägele et al. 2024 for 1-sqrt.
    """
    non_negative(peak_lr=peak_lr)
    positive(decay=decay_ticks)
    fraction(final_fraction=final_fraction)
    one_of(get_args(Shape), shape=shape)
    if decay_ticks > num_ticks:
        raise ValueError(
            "decay must be no longer than the run after the warmup, "
            f"but got {decay_ticks:g} of {num_ticks:g} ticks"
        )
    x = np.clip((ticks - (num_ticks - decay_ticks)) / decay_ticks, 0, 1)
    if shape == "exponential":
        if final_fraction == 0:
            raise ValueError("final_fraction > 0 must hold with shape exponential, but got 0")
        return peak_lr * final_fraction**x
    shapes = {"linear": 1 - x, "cosine": half_cosine(x), "1-sqrt": 1 - np.sqrt(x)}
    return peak_lr * (final_fraction + (1 - final_fraction) * shapes[shape])


def half_cosine(x: np.ndarray) -> np.ndarray:
    """Half a cosine, from 1 at x = 0 to 0 at x = 1."""
    return (1 + np.cos(np.pi * x)) / 2


def _decay(
    shape: Callable[[np.ndarray], np.ndarray],
    ticks: np.ndarray,
    peak_lr: float,
    decay_ticks: float,
    final_fraction: float,
) -> np.ndarray:
    """From `peak_lr` along `shape`, which falls from 1 at x = 0 to 0 at x = 1, to the floor."""
    non_negative(peak_lr=peak_lr)
    positive(decay=decay_ticks)
    fraction(final_fraction=final_fraction)
    left = shape(np.minimum(ticks / decay_ticks, 1))
    return peak_lr * (final_fraction + (1 - final_fraction) * left)


def _progress(ticks: np.ndarray, decay_ticks: float, staircase: bool) -> np.ndarray:
    return np.floor(elapsed(ticks, decay_ticks)) if staircase else ticks / decay_ticks


def elapsed(ticks: np.ndarray, duration: float) -> np.ndarray:
    """`ticks` in units of `duration`; whole where only rounding kept it from being so."""
    times = ticks / duration
    whole = np.rint(times)
    return np.where(np.abs(times - whole) <= ROUNDING * whole, whole, times)
