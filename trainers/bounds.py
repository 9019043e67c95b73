"""What a schedule's parameters must be; every refusal names the rule and the value."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def number(name: str, value: Any) -> float:
    """`value` as a finite float."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number, but got {value!r}")
    try:
        converted = float(value)
    except OverflowError:  # an int that no float can hold
        converted = math.inf
    if not math.isfinite(converted):
        raise ValueError(f"{name} must be finite, but got {value}")
    return converted


def non_negative(**named: Any) -> None:
    """Every value must be >= 0."""
    for name, value in named.items():
        if number(name, value) < 0:
            raise ValueError(f"{name} >= 0 must hold, but got {value}")


def positive(**named: Any) -> None:
    """Every value must be > 0."""
    for name, value in named.items():
        if number(name, value) <= 0:
            raise ValueError(f"{name} > 0 must hold, but got {value}")


def at_least_1(**named: Any) -> None:
    """Every value must be >= 1."""
    for name, value in named.items():
        if number(name, value) < 1:
            raise ValueError(f"{name} >= 1 must hold, but got {value}")


def fraction(**named: Any) -> None:
    """Every value must lie from 0 to 1."""
    for name, value in named.items():
        if not 0 <= number(name, value) <= 1:
            raise ValueError(f"0 <= {name} <= 1 must hold, but got {value}")


def positive_fraction(**named: Any) -> None:
    """Every value must lie above 0 and up to 1."""
    for name, value in named.items():
        if not 0 < number(name, value) <= 1:
            raise ValueError(f"0 < {name} <= 1 must hold, but got {value}")


def one_of(options: tuple[str, ...], **named: Any) -> None:
    """Every value must be one of the options."""
    for name, value in named.items():
        if value not in options:
            raise ValueError(f"{name} must be one of {', '.join(options)}, but got {value}")


def numbers(name: str, values: Any, *, at_least: int = 1) -> np.ndarray:
    """`values`, a flat list of finite numbers, as float64."""
    is_list = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
    if not is_list or len(values) < at_least:
        raise ValueError(f"{name} must be a list of numbers, but got {values!r}")
    found = [number(f"{name}.{index}", value) for index, value in enumerate(values)]
    return np.array(found, np.float64)
