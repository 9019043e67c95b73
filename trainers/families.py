"""The table of schedule families: functions from ticks to float64 learning rates.

A tick is one optimizer step, or one epoch with `interval: epoch`; t = 0 is the first after the
warmup (1 with `first_tick: 1`). Parameters that end in `_ticks` are durations: a config spells
them `_steps`, `_epochs` or `_fraction`. The indented line of a docstring is the family's formula.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from trainers.bounds import fraction, non_negative, positive_fraction
from trainers.cycles import cosine_restarts, cyclic, one_cycle
from trainers.decays import (
    cosine_decay,
    exponential_decay,
    inverse_sqrt,
    inverse_time_decay,
    linear_decay,
    polynomial_decay,
    rex,
    step_decay,
    warmup_stable_decay,
)
from trainers.functions import Function, load_function
from trainers.knots import interpolate, piecewise_constant


def constant(ticks: np.ndarray, *, peak_lr: float) -> np.ndarray:
    """The same learning rate at every tick.

    peak_lr
    """
    non_negative(peak_lr=peak_lr)
    return np.full(ticks.shape, peak_lr, np.float64)


def reduce_on_plateau(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    patience_ticks: float,
    factor: float = 0.1,
    threshold: float = 1e-4,
    cooldown_ticks: float = 0.0,
    min_fraction: float = 0.0,
) -> np.ndarray:
    """Flat; scaled down by `factor` when the validation loss has stopped falling.

    peak_lr * max(factor ** n, min_fraction),   n = number of plateaus so far

    An epoch is bad unless its loss is below (1 - threshold) times the best before. More than
    `patience` bad epochs in a row scale the epochs that follow; then `cooldown` epochs do not
    count. As PyTorch's ReduceLROnPlateau, but without its eps. This is the curve before any
    plateau.
    """
    non_negative(peak_lr=peak_lr, patience=patience_ticks, cooldown=cooldown_ticks)
    positive_fraction(factor=factor)
    fraction(threshold=threshold, min_fraction=min_fraction)
    return np.full(ticks.shape, peak_lr, np.float64)


def custom(ticks: np.ndarray, /, *, function: str | Function, **parameters: Any) -> np.ndarray:
    """Any Python function of the tick, named `module:function` or `path/to/file.py:function`.

    function(t, **parameters)

    All other keys of the family are the function's keyword arguments. It must be a pure function:
    a trial is built from its parameters alone.
    """
    rule = function if callable(function) else load_function(function)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for data
            return np.array([float(rule(_as_int(tick), **parameters)) for tick in ticks.tolist()])
    except (Exception, SystemExit) as error:
        name = function if isinstance(function, str) else getattr(rule, "__name__", rule)
        raise ValueError(
            f"function must return a number for every tick, but {name} "
            f"raised {type(error).__name__}: {error}"
        ) from error


def divide_by_three(tick: int, *, init_lr: float) -> float:
    """An example for `custom`: the rate divided by three at every tick, init_lr / 3**t."""
    return init_lr * 3.0**-tick


SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    family.__name__: family
    for family in (
        constant,
        exponential_decay,
        step_decay,
        inverse_time_decay,
        inverse_sqrt,
        linear_decay,
        polynomial_decay,
        cosine_decay,
        rex,
        cosine_restarts,
        one_cycle,
        warmup_stable_decay,
        cyclic,
        piecewise_constant,
        interpolate,
        reduce_on_plateau,
        custom,
    )
}


def _as_int(tick: float) -> int | float:
    return int(tick) if tick.is_integer() else tick
