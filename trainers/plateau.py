"""Reduce on plateau: the scale of an epoch's learning rates, from the losses before it."""

from collections.abc import Sequence
from typing import NamedTuple


class Plateau(NamedTuple):
    """The rule of `reduce_on_plateau`, in epochs."""

    factor: float
    patience: float
    threshold: float
    cooldown: float
    min_fraction: float

    def scale(self, val_losses: Sequence[float]) -> float:
        """What the epoch after these losses is multiplied with; a function of nothing else.

        An epoch is bad unless its loss is below (1 - threshold) times the best before. More than
        `patience` bad epochs in a row multiply the scale by `factor`, down to `min_fraction`; the
        `cooldown` epochs after that are never bad.
        """
        scale, best, bad, cooling = 1.0, float("inf"), 0, 0.0
        for loss in val_losses:
            if loss < best * (1 - self.threshold) or best == float("inf"):
                best, bad = loss, 0
            else:
                bad += 1
            if cooling > 0:
                cooling, bad = cooling - 1, 0
            if bad > self.patience:
                scale = max(scale * self.factor, self.min_fraction)
                bad, cooling = 0, self.cooldown
        return scale
