"""Optimizers as optax transforms that yield a direction, for the learning rate to scale last."""

from collections.abc import Mapping
from typing import Any

import optax

from trainers.hyperparameters import HYPERPARAMETERS


def direction(optimizer: str, hyperparameters: Mapping[str, Any]) -> optax.GradientTransformation:
    """The transform from gradients to the direction that `-learning_rate` is multiplied with.

    `hyperparameters` holds every entry of HYPERPARAMETERS[optimizer]; the numbers may be traced.
    Weight decay is added to the gradient (L2), except for adamw, where it is decoupled
    (Loshchilov & Hutter 2019).
    """
    h = hyperparameters
    decay = optax.add_decayed_weights(h["weight_decay"])
    if optimizer in ("sgd", "momentum", "nesterov"):
        return optax.chain(decay, optax.trace(h["momentum"], nesterov=optimizer == "nesterov"))
    adam = optax.scale_by_adam(h["b1"], h["b2"], h["eps"])
    return optax.chain(adam, decay) if optimizer == "adamw" else optax.chain(decay, adam)


def hyperparameters(optimizer: str, space: Mapping[str, Any]) -> dict[str, float]:
    """Every hyperparameter of `optimizer`: from the concrete `space`, else its default."""
    return {
        name: float(space.get(name, default))
        for name, default in HYPERPARAMETERS[optimizer].items()
    }
