"""What the momentum may follow: the curves that any quantity can have, and the learning rate."""

from collections.abc import Callable

import numpy as np

from trainers.bounds import fraction
from trainers.families import custom, interpolate, piecewise_constant


def mirror(learning_rates: np.ndarray, *, low: float, high: float) -> np.ndarray:
    """High where the learning rate is low, and `low` where it is at its peak.

    high - (high - low) * lr[t] / max(lr)

    What one-cycle training does with the momentum, for any schedule, before any plateau.
    Smith & Topin 2019.
    """
    fraction(low=low, high=high)
    if low > high:
        raise ValueError(f"low <= high must hold, but got {low} and {high}")
    peak = max(float(learning_rates.max()), np.finfo(np.float32).tiny)
    return high - (high - low) * (learning_rates.astype(np.float64) / peak)


MOMENTA: dict[str, Callable[..., np.ndarray]] = {
    family.__name__: family for family in (mirror, interpolate, piecewise_constant, custom)
}
