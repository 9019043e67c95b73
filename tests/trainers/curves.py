"""How the tests of the schedules make, evaluate and compare curves."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainers.schedules import learning_rate_curve

TICKS = 40  # four epochs of ten steps, or forty epochs
DIVIDED = "trainers.schedules:divide_by_three"
TORCH = json.loads((Path(__file__).parent / "torch_schedules.json").read_text())
DURATIONS = {"decay", "boundaries", "knots", "cycle", "rise", "timescale", "patience", "cooldown"}


def curve_of(
    family: str,
    parameters: dict[str, Any],
    *,
    num_epochs: int = 4,
    steps_per_epoch: int = 10,
    **warmup: Any,
) -> np.ndarray:
    space = {"schedule": {family: parameters}, **warmup}
    return learning_rate_curve(space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)


def spelled(parameters: dict[str, Any], unit: str) -> dict[str, Any]:
    """The parameters with every duration named by its unit."""
    return {
        f"{name}_{unit}" if name in DURATIONS else name: value for name, value in parameters.items()
    }


def evaluated(schedule: Callable[[Any], Any], ticks: Sequence[int]) -> np.ndarray:
    """In float64, so that a difference is ours and not the twin's rounding."""
    with jax.enable_x64(True):
        every = jax.vmap(lambda tick: jnp.asarray(schedule(tick), jnp.float64))
        return np.asarray(every(jnp.asarray(ticks)))


def recorded(scheduler: str, quantity: str = "lr") -> np.ndarray:
    """What PyTorch's scheduler gave, float64 (TICKS,)."""
    return np.array(TORCH["schedules"][scheduler][quantity])


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)


def starts_with(text: str) -> str:
    return "^" + re.escape(text)
