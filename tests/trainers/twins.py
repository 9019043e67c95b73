"""Families of schedules and their twins in jax.example_libraries, optax and PyTorch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax.example_libraries import optimizers

from tests.trainers.curves import TICKS


class Twin(NamedTuple):
    """A family's parameters, durations in ticks, and the same schedule from another library."""

    family: str
    parameters: dict[str, Any]
    schedule: Callable[[Any], Any]


def cycles_of(*lengths: int, peaks: list[float], floor: float) -> Callable[[Any], Any]:
    """optax's SGDR, without the warmups it could have."""
    return optax.sgdr_schedule(
        {
            "init_value": peak,
            "peak_value": peak,
            "decay_steps": length,
            "warmup_steps": 0,
            "end_value": floor,
        }
        for length, peak in zip(lengths, peaks, strict=True)
    )


def flat_until(tick: int, decay: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return optax.join_schedules([optax.constant_schedule(0.3), decay], [tick])


TWINS = {
    "constant, jax": Twin("constant", {"peak_lr": 0.3}, optimizers.constant(0.3)),
    "constant, optax": Twin("constant", {"peak_lr": 0.3}, optax.constant_schedule(0.3)),
    "exponential_decay, jax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 0.1, "decay": 13},
        optimizers.exponential_decay(0.3, 13, 0.1),
    ),
    "exponential_decay, optax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 0.9, "decay": 4},
        optax.exponential_decay(0.3, 4, 0.9),
    ),
    "exponential_decay that grows, optax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 1.5, "decay": 9},
        optax.exponential_decay(0.3, 9, 1.5),
    ),
    "exponential_decay staircase, optax": Twin(
        "exponential_decay",
        {"peak_lr": 0.3, "decay_rate": 0.5, "decay": 7, "staircase": True},
        optax.exponential_decay(0.3, 7, 0.5, staircase=True),
    ),
    "step_decay, optax": Twin(
        "step_decay",
        {"peak_lr": 0.3, "decay_rate": 0.1, "decay": 8},
        optax.exponential_decay(0.3, 8, 0.1, staircase=True),
    ),
    "inverse_time_decay, jax": Twin(
        "inverse_time_decay",
        {"peak_lr": 0.3, "decay_rate": 2.5, "decay": 13},
        optimizers.inverse_time_decay(0.3, 13, 2.5),
    ),
    "inverse_time_decay staircase, jax": Twin(
        "inverse_time_decay",
        {"peak_lr": 0.3, "decay_rate": 2.5, "decay": 7, "staircase": True},
        optimizers.inverse_time_decay(0.3, 7, 2.5, staircase=True),
    ),
    "linear_decay, optax": Twin(
        "linear_decay",
        {"peak_lr": 0.3, "decay": 30, "final_fraction": 0.1},
        optax.linear_schedule(0.3, 0.03, 30),
    ),
    "linear_decay, jax": Twin(
        "linear_decay",
        {"peak_lr": 0.3, "decay": TICKS},
        optimizers.polynomial_decay(0.3, TICKS, 0.0),
    ),
    "polynomial_decay, jax": Twin(
        "polynomial_decay",
        {"peak_lr": 0.3, "decay": 30, "power": 2.0, "final_fraction": 0.25},
        optimizers.polynomial_decay(0.3, 30, 0.075, 2.0),
    ),
    "polynomial_decay, optax": Twin(
        "polynomial_decay",
        {"peak_lr": 0.3, "decay": TICKS, "power": 0.5},
        optax.polynomial_schedule(0.3, 0.0, 0.5, TICKS),
    ),
    "cosine_decay, optax": Twin(
        "cosine_decay", {"peak_lr": 0.3, "decay": TICKS}, optax.cosine_decay_schedule(0.3, TICKS)
    ),
    "cosine_decay with a floor, optax": Twin(
        "cosine_decay",
        {"peak_lr": 0.3, "decay": 30, "final_fraction": 0.1},
        optax.cosine_decay_schedule(0.3, 30, alpha=0.1),
    ),
    "cosine_restarts, optax": Twin(
        "cosine_restarts",
        {"peak_lr": 0.3, "cycle": 9},
        cycles_of(9, 9, 9, 9, 9, peaks=[0.3] * 5, floor=0.0),
    ),
    "cosine_restarts that grow, optax": Twin(
        "cosine_restarts",
        {"peak_lr": 0.3, "cycle": 4, "cycle_growth": 2, "final_fraction": 0.1},
        cycles_of(4, 8, 16, 32, peaks=[0.3] * 4, floor=0.03),
    ),
    "cosine_restarts that fall, optax": Twin(
        "cosine_restarts",
        {"peak_lr": 0.3, "cycle": 8, "cycle_growth": 1.5, "peak_decay": 0.5, "final_fraction": 0.2},
        cycles_of(8, 12, 18, 27, peaks=[0.3, 0.18, 0.12, 0.09], floor=0.06),
    ),
    "one_cycle, optax": Twin(
        "one_cycle",
        {"peak_lr": 0.3, "rise": 12, "cycle": TICKS},
        optax.cosine_onecycle_schedule(TICKS, 0.3, pct_start=0.3),
    ),
    "one_cycle linear, optax": Twin(
        "one_cycle",
        {
            "peak_lr": 0.3,
            "rise": 10,
            "cycle": 30,
            "anneal": "linear",
            "init_fraction": 0.1,
            "final_fraction": 0.01,
        },
        optax.piecewise_interpolate_schedule("linear", 0.03, {10: 10, 30: 0.01}),
    ),
    "warmup_stable_decay linear, optax": Twin(
        "warmup_stable_decay",
        {"peak_lr": 0.3, "decay": 12, "final_fraction": 0.1},
        flat_until(28, optax.linear_schedule(0.3, 0.03, 12)),
    ),
    "warmup_stable_decay cosine, optax": Twin(
        "warmup_stable_decay",
        {"peak_lr": 0.3, "decay": 12, "shape": "cosine"},
        flat_until(28, optax.cosine_decay_schedule(0.3, 12)),
    ),
    "warmup_stable_decay exponential, optax": Twin(
        "warmup_stable_decay",
        {"peak_lr": 0.3, "decay": 12, "shape": "exponential", "final_fraction": 0.05},
        flat_until(28, optax.exponential_decay(0.3, 12, 0.05, end_value=0.015)),
    ),
    "piecewise_constant, jax": Twin(
        "piecewise_constant",
        {"values": [0.1, 0.3, 0.01], "boundaries": [10, 25]},
        optimizers.piecewise_constant([10, 25], [0.1, 0.3, 0.01]),
    ),
    "interpolate, optax": Twin(
        "interpolate",
        {"values": [0.3, 0.6, 0.06, 0.3], "knots": [0, 7, 20, 33]},
        optax.piecewise_interpolate_schedule("linear", 0.3, {7: 2.0, 20: 0.1, 33: 5.0}),
    ),
    "interpolate cosine, optax": Twin(
        "interpolate",
        {
            "values": [0.3, 0.6, 0.06, 0.3],
            "knots": [0, 7, 20, 33],
            "interpolation": "cosine",
        },
        optax.piecewise_interpolate_schedule("cosine", 0.3, {7: 2.0, 20: 0.1, 33: 5.0}),
    ),
    "interpolate in three lines, optax": Twin(
        "interpolate",
        {"values": [0.012, 0.3, 0.012, 1.2e-6], "knots": [0, 12, 34, TICKS]},
        optax.linear_onecycle_schedule(TICKS, 0.3),
    ),
    "reduce_on_plateau before any, optax": Twin(
        "reduce_on_plateau",
        {"peak_lr": 0.3, "patience": 2, "cooldown": 1},
        optax.constant_schedule(0.3),
    ),
}
# PyTorch's scheduler, and the family with durations in steps.
TORCH_TWINS = {
    "StepLR": ("step_decay", {"peak_lr": 0.3, "decay_rate": 0.5, "decay": 7}),
    "ExponentialLR": ("exponential_decay", {"peak_lr": 0.3, "decay_rate": 0.9, "decay": 1}),
    "PolynomialLR": ("polynomial_decay", {"peak_lr": 0.3, "decay": 30, "power": 2}),
    "CosineAnnealingLR": ("cosine_decay", {"peak_lr": 0.3, "final_fraction": 0.1}),
    "CosineAnnealingWarmRestarts": ("cosine_restarts", {"peak_lr": 0.3, "cycle": 10}),
    "CosineAnnealingWarmRestarts, T_mult 2": (
        "cosine_restarts",
        {"peak_lr": 0.3, "cycle": 5, "cycle_growth": 2, "final_fraction": 0.1},
    ),
    "CyclicLR": ("cyclic", {"peak_lr": 0.3, "cycle": 10, "init_fraction": 0.1}),
    "CyclicLR, triangular2": (
        "cyclic",
        {"peak_lr": 0.3, "cycle": 10, "init_fraction": 0.1, "mode": "triangular2"},
    ),
    "CyclicLR, exp_range": (
        "cyclic",
        {
            "peak_lr": 0.3,
            "cycle": 10,
            "init_fraction": 0.1,
            "mode": "exp_range",
            "decay_rate": 0.95,
            "decay": 1,
        },
    ),
    "CyclicLR, momentum": ("cyclic", {"peak_lr": 0.3, "cycle": 10}),
}
# These have tests of their own below: a boundary, a floor or a warmup lies elsewhere.
SHIFTED = {"MultiStepLR", "LinearLR", "OneCycleLR", "OneCycleLR, linear"}
