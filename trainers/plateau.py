"""Reduce on plateau: the scale of an epoch's learning rates, from the losses before it."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Plateau(NamedTuple):
    """The rule of `reduce_on_plateau`, in epochs."""

    factor: float
    patience: float
    threshold: float
    cooldown: float
    min_fraction: float

    def scales(self, val_losses: Sequence[float | None]) -> list[float]:
        """What each epoch is multiplied with, and last the one after these losses.

        A function of the losses before it alone; one that is not finite, or None, changes nothing.
        An epoch is bad unless its loss is below (1 - threshold) times the best before. More than
        `patience` bad epochs in a row multiply the scale by `factor`, down to `min_fraction`; the
        `cooldown` epochs after that are never bad.
        """
        scale, best, bad, cooling = 1.0, math.inf, 0, 0.0
        found = [scale]
        for loss in val_losses:
            if loss is None or not math.isfinite(loss):
                found.append(scale)
                continue
            if loss < best * (1 - self.threshold) or best == math.inf:
                best, bad = loss, 0
            else:
                bad += 1
            if cooling > 0:
                cooling, bad = cooling - 1, 0
            if bad > self.patience:
                scale = max(scale * self.factor, self.min_fraction)
                bad, cooling = 0, self.cooldown
            found.append(scale)
        return found
