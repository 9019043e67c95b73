"""Prints what PyTorch's schedulers give at every step, for torch_schedules.json beside this file.

The recorded values are those of torch 2.13.0, which no test needs:

    python tests/trainers/record_torch_schedules.py > tests/trainers/torch_schedules.json
"""

import itertools
import json
import math
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch.optim import lr_scheduler  # pyright: ignore[reportMissingImports]

PEAK, STEPS = 0.3, 40
ONE_CYCLE = {"max_lr": PEAK, "total_steps": STEPS, "base_momentum": 0.85, "max_momentum": 0.95}
CYCLIC = {"base_lr": 0.03, "max_lr": PEAK, "step_size_up": 5, "cycle_momentum": False}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "StepLR": ("StepLR", {"step_size": 7, "gamma": 0.5}),
    "MultiStepLR": ("MultiStepLR", {"milestones": [10, 25], "gamma": 0.1}),
    "ExponentialLR": ("ExponentialLR", {"gamma": 0.9}),
    "LinearLR": ("LinearLR", {"total_iters": 8}),
    "PolynomialLR": ("PolynomialLR", {"total_iters": 30, "power": 2.0}),
    "CosineAnnealingLR": ("CosineAnnealingLR", {"T_max": STEPS, "eta_min": 0.03}),
    "CosineAnnealingWarmRestarts": ("CosineAnnealingWarmRestarts", {"T_0": 10}),
    "CosineAnnealingWarmRestarts, T_mult 2": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 5, "T_mult": 2, "eta_min": 0.03},
    ),
    "OneCycleLR": ("OneCycleLR", ONE_CYCLE),
    "OneCycleLR, linear": (
        "OneCycleLR",
        {
            **ONE_CYCLE,
            "anneal_strategy": "linear",
            "pct_start": 0.25,
            "div_factor": 10,
            "final_div_factor": 100,
        },
    ),
    "CyclicLR": ("CyclicLR", CYCLIC),
    "CyclicLR, triangular2": ("CyclicLR", {**CYCLIC, "mode": "triangular2"}),
    "CyclicLR, exp_range": ("CyclicLR", {**CYCLIC, "mode": "exp_range", "gamma": 0.95}),
    "CyclicLR, momentum": (
        "CyclicLR",
        {
            **CYCLIC,
            "base_lr": 0.0,
            "cycle_momentum": True,
            "base_momentum": 0.8,
            "max_momentum": 0.9,
        },
    ),
}
LOSSES = {
    "flat": [1.0] * 16,
    "falling": [1 / (1 + epoch) for epoch in range(16)],
    "rising": [1 + epoch / 4 for epoch in range(16)],
    "a new best within a cooldown": [5, 5, 5, 5, 3, 3, 3, 3, 2.9, 2.9, 2.9, 2.9, 2.9, 2.9, 2.9, 1],
    "creeping": [0.99**epoch for epoch in range(16)],
    "below zero": [-1, -1.05, -1.2, -1.2, -1.19, -1.4, -1.4, -1.4, -1.4, -1.4, -1.6, -1.6, -1.5],
    "noisy": [round(1 / (1 + epoch / 4) + 0.1 * math.sin(3 * epoch), 4) for epoch in range(30)],
}
RULES = [
    {"factor": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0, "min_lr": 0.0},
    {"factor": 0.5, "patience": 0, "threshold": 0.0, "cooldown": 0, "min_lr": 0.0},
    {"factor": 0.5, "patience": 1, "threshold": 0.02, "cooldown": 0, "min_lr": 0.2},
    {"factor": 0.5, "patience": 2, "threshold": 0.1, "cooldown": 3, "min_lr": 0.0},
    {"factor": 0.3, "patience": 1, "threshold": 1e-4, "cooldown": 2, "min_lr": 0.05},
]


def optimizer(learning_rate: float) -> Any:
    return torch.optim.SGD([torch.zeros(1)], lr=learning_rate, momentum=0.9)


def quantities(name: str, arguments: dict[str, Any]) -> dict[str, list[float]]:
    """The learning rate each step is made with, and the momentum where it changes."""
    stepped = optimizer(PEAK)
    scheduler = getattr(lr_scheduler, name)(stepped, **arguments)
    followed: dict[str, list[float]] = {"lr": [], "momentum": []}
    for _ in range(STEPS):
        for quantity, values in followed.items():
            values.append(stepped.param_groups[0][quantity])
        stepped.step()
        scheduler.step()
    return followed if len(set(followed["momentum"])) > 1 else {"lr": followed["lr"]}


def plateau_scales(losses: list[float], rule: dict[str, Any]) -> list[float]:
    """The learning rate, 1 at first, of the epoch after each loss."""
    stepped = optimizer(1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(stepped, eps=0, **rule)
    scales = []
    for loss in losses:
        scheduler.step(loss)
        scales.append(stepped.param_groups[0]["lr"])
    return scales


def lines(entries: dict[str, Any]) -> str:
    """A JSON object with an entry on each line."""
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())


if __name__ == "__main__":
    plateaus = {
        f"{name}, rule {index}": {
            "losses": losses,
            "rule": rule,
            "scales": plateau_scales(losses, rule),
        }
        for (name, losses), (index, rule) in itertools.product(LOSSES.items(), enumerate(RULES))
    }
    schedules = {case: quantities(*arguments) for case, arguments in CASES.items()}
    print(
        f'{{\n"torch": "{torch.__version__}",\n"schedules": {{\n{lines(schedules)}\n}},\n'
        f'"plateaus": {{\n{lines(plateaus)}\n}}\n}}'
    )
