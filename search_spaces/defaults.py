"""A search space for each family, for SGD with a mean loss: what `family: default` stands for.

Every duration is a fraction and every sample is valid, however long the run is.
"""

from typing import Any

_PEAK: dict[str, Any] = {"peak_lr": {"log_uniform": [1e-3, 1]}}
_FLOOR: dict[str, Any] = {"final_fraction": {"choice": [0, 0.01, 0.1]}}

DEFAULT_SPACES: dict[str, dict[str, Any]] = {
    "constant": _PEAK,
    "exponential_decay": _PEAK | {"decay_rate": {"log_uniform": [1e-3, 1]}},
    "step_decay": _PEAK
    | {
        "decay_rate": {"log_uniform": [0.05, 0.7]},
        "decay_fraction": {"uniform": [0.1, 0.5]},
    },
    "inverse_time_decay": _PEAK | {"decay_rate": {"log_uniform": [0.1, 100]}},
    "inverse_sqrt": _PEAK | {"timescale_fraction": {"log_uniform": [0.01, 1]}},
    "linear_decay": _PEAK | _FLOOR,
    "polynomial_decay": _PEAK | {"power": {"uniform": [0.5, 3]}} | _FLOOR,
    "cosine_decay": _PEAK | _FLOOR,
    "rex": _PEAK | _FLOOR,
    "cosine_restarts": _PEAK
    | {
        "cycle_fraction": {"choice": [0.5, 0.25, 0.2]},  # so that the run ends with a whole cycle
        "peak_decay": {"uniform": [0.5, 1]},
    },
    "one_cycle": _PEAK
    | {
        "rise_fraction": {"uniform": [0.1, 0.5]},
        "anneal": {"choice": ["cosine", "linear"]},
    },
    "warmup_stable_decay": _PEAK
    | {
        "decay_fraction": {"uniform": [0.1, 0.7]},
        "shape": {"choice": ["linear", "cosine", "1-sqrt", "exponential"]},
        "final_fraction": {"choice": [0.001, 0.01, 0.1]},
    },
    "cyclic": _PEAK
    | {
        "cycle_fraction": {"choice": [0.5, 0.25, 0.2]},
        "init_fraction": {"uniform": [0, 0.2]},
        "mode": {"choice": ["triangular", "triangular2", "exp_range"]},
        "decay_rate": {"log_uniform": [0.01, 1]},
    },
    "piecewise_constant": {
        "values": [
            {"log_uniform": [1e-2, 1]},
            {"log_uniform": [1e-3, 0.1]},
            {"log_uniform": [1e-4, 1e-2]},
        ],
        "boundaries_fraction": [{"uniform": [0.3, 0.6]}, {"uniform": [0.65, 0.95]}],
    },
    "interpolate": {
        "values": [
            {"log_uniform": [1e-3, 1]},
            {"log_uniform": [1e-2, 1]},
            {"log_uniform": [1e-3, 0.3]},
            {"log_uniform": [1e-5, 1e-2]},
        ],
        "knots_fraction": [0, {"uniform": [0.1, 0.4]}, {"uniform": [0.5, 0.9]}, 1],
        "interpolation": {"choice": ["linear", "cubic"]},
    },
    "reduce_on_plateau": _PEAK
    | {
        "patience_fraction": {"uniform": [0, 0.2]},
        "factor": {"log_uniform": [0.1, 0.7]},
    },
    "custom": {
        "function": "trainers.schedules:divide_by_three",
        "init_lr": {"log_uniform": [1e-2, 1]},
        "interval": "epoch",
    },
}
