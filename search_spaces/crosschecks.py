"""Rules between the sections of a sweep file."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from search_spaces.distributions import Choice, Distribution, IntUniform, Uniform, described
from search_spaces.faults import Flaw, Path
from search_spaces.points import point_flaws
from search_spaces.space import (
    Space,
    families,
    family_parameters,
    optimizer_flaws,
    parse_space,
    space_parameters,
)
from trainers.hyperparameters import HYPERPARAMETERS

if TYPE_CHECKING:
    from search_spaces.config import Pruning, Search, Training

GRID_LIMIT = 10_000


def cross_flaws(
    data: Mapping[str, Any],
    *,
    training: "Training | None",
    search: "Search | None",
    pruning: "Pruning | None",
) -> Iterator[Flaw]:
    """Faults between sections; one that is None, or invalid in `data`, is left out of it."""
    raw_training, raw_space = data.get("training"), data.get("space")
    optimizer = raw_training.get("optimizer", "sgd") if isinstance(raw_training, Mapping) else None
    if not isinstance(optimizer, str):  # a list cannot even be looked up
        optimizer = None
    if isinstance(raw_space, Mapping) and optimizer in HYPERPARAMETERS:
        yield from _within(("space",), optimizer_flaws(raw_space, optimizer))
    if training and pruning and pruning.algorithm != "none":
        yield from _grace_flaws(pruning.grace_epochs, training.num_epochs)
    points = data.get("enqueue")
    points = points if isinstance(points, list | tuple) else ()
    if search and search.num_trials is not None and len(points) > search.num_trials:
        rule = "points in enqueue <= num_trials"
        message = f"{rule} must hold, but got {len(points)} points and {search.num_trials} trials"
        yield Flaw(("search", "num_trials"), message)
    try:
        space = parse_space(raw_space)
    except ValidationError:
        return
    for index, point in enumerate(points):
        if isinstance(point, Mapping):
            yield from point_flaws(space, point, ("enqueue", index))
    if search and search.algorithm == "grid":
        yield from grid_flaws(space)
    if search and search.algorithm == "cmaes":
        yield from _cmaes_flaws(space)


def grid_flaws(space: Space) -> Iterator[Flaw]:
    """What keeps the space from being walked through point by point."""
    endless = {name: d for name, d in space_parameters(space).items() if _size(d) is None}
    for name, spread in endless.items():
        message = f"grid must have a choice or an int_uniform here, but got {described(spread)}"
        yield Flaw(_path(name), f"{message}; list values in a choice, or search with tpe")
    if endless:
        return
    total = sum(
        math.prod(_size(spread) or 1 for spread in family_parameters(space, family).values())
        for family in families(space)
    )
    if total > GRID_LIMIT:
        message = f"points in a grid <= {GRID_LIMIT} must hold, but got {total}"
        yield Flaw(("search", "algorithm"), f"{message}; shorten the choices, or search with tpe")


def _grace_flaws(grace_epochs: int, num_epochs: int) -> Iterator[Flaw]:
    if grace_epochs >= num_epochs:
        message = f"grace_epochs < num_epochs must hold, but got {grace_epochs} and {num_epochs}"
        yield Flaw(("pruning", "grace_epochs"), f"{message}; no trial could be stopped early")


def _cmaes_flaws(space: Space) -> Iterator[Flaw]:
    parameters = space_parameters(space)
    if len(families(space)) > 1:
        message = f"cmaes must have one schedule, but got {', '.join(families(space))}"
        yield Flaw(("space", "schedule"), f"{message}; keep one, or search with tpe")
    for name, spread in parameters.items():
        if isinstance(spread, Choice) and name != "schedule":
            message = f"cmaes must have ranges of numbers, but {name} is a choice"
            yield Flaw(_path(name), f"{message}; fix it, or search with tpe")
    if len(families(space)) == 1 and len(parameters) < 2:
        message = f"cmaes must have at least 2 free parameters, but got {len(parameters)}"
        yield Flaw(("search", "algorithm"), f"{message}; search with tpe")


def _size(spread: Distribution) -> int | None:
    """The number of values; None where there is no end of them."""
    if isinstance(spread, Uniform):
        return None
    if isinstance(spread, IntUniform):
        return spread.high - spread.low + 1
    return len(spread.options)


def _path(name: str) -> Path:
    """Where a free parameter stands in the file."""
    return ("space", *(int(part) if part.isdigit() else part for part in name.split(".")))


def _within(prefix: Path, flaws: Iterator[Flaw]) -> Iterator[Flaw]:
    return (flaw._replace(path=(*prefix, *flaw.path)) for flaw in flaws)
