"""The structures a program is compiled for, and the numbers each optimizer takes. Pure data."""

MODELS = ("cnn",)

# Optimizer -> hyperparameter -> default. Every one is an input of the compiled program.
HYPERPARAMETERS: dict[str, dict[str, float]] = {
    "sgd": {"momentum": 0.0, "weight_decay": 0.0},
    "momentum": {"momentum": 0.9, "weight_decay": 0.0},
    "nesterov": {"momentum": 0.9, "weight_decay": 0.0},
    "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
}


def momentum_name(optimizer: str) -> str:
    """The hyperparameter that a momentum schedule drives: b1 where there is no momentum.

    Adam corrects its bias with the b1 of the step, as optax and PyTorch do: 1 - b1 ** t.
    """
    return "momentum" if "momentum" in HYPERPARAMETERS[optimizer] else "b1"
