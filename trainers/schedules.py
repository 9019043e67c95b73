"""Learning-rate schedules as data: from a point of a search space to a float32 curve.

A curve is a pure function of the point: a warmup, then one of the families. A family's clock starts
at 0 when the warmup has ended. Durations are spelled `_steps`, `_epochs` or `_fraction` (of the
steps after the warmup); one that has a default and is left out spans all of them.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainers.bounds import fraction, non_negative, number, one_of
from trainers.decays import half_cosine
from trainers.families import SCHEDULES
from trainers.families import divide_by_three as divide_by_three  # its name in configs
from trainers.functions import Function
from trainers.momentum import MOMENTA, mirror
from trainers.plateau import Plateau

WARMUP_KEYS = ("warmup_steps", "warmup_epochs", "warmup_fraction")
WARMUP_SHAPES = ("linear", "cosine", "exponential")
UNITS = ("steps", "epochs", "fraction")
CLOCK_KEYS = ("interval", "first_tick")
Family = Callable[..., np.ndarray]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Optimizer steps in an epoch; the last may see a smaller batch."""
    return -(-num_examples // batch_size)


def learning_rate_curve(
    space: Mapping[str, Any],
    *,
    num_epochs: int,
    steps_per_epoch: int,
    functions: Mapping[str, Function] | None = None,
) -> np.ndarray:
    """The learning rate of every optimizer step, float32 (num_epochs * steps_per_epoch,).

    `space` is a concrete point of a search space: `{"schedule": {family: {...}}}` and optionally a
    warmup; its other keys are left alone. A warmup of W steps rises from `warmup_init_fraction`
    (by default 0, so that the first step has rate 0) of the family's first value to all of it at
    step W, where the family's own clock starts, as optax joins them. `functions` are those of
    `custom` that are known by now, by name. Raises ValueError, naming the parameter, for anything
    out of its bounds.
    """
    ((family, parameters),) = space["schedule"].items()
    one_of(tuple(SCHEDULES), schedule=family)
    warmup = warmup_steps(space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    body = family_curve(
        SCHEDULES[family],
        parameters or {},
        num_steps=num_epochs * steps_per_epoch - warmup,
        steps_per_epoch=steps_per_epoch,
        functions=functions or {},
    )
    with np.errstate(over="ignore", invalid="ignore"):
        ramp = body[0] * _ramp(warmup, space)
        curve = np.concatenate([ramp, body]).astype(np.float32)
    wrong = curve[~np.isfinite(curve)]
    if len(wrong):
        raise ValueError(f"every learning rate must be finite, but {family} gives {wrong[0]}")
    if curve.min() < 0:
        raise ValueError(f"every learning rate must be >= 0, but {family} gives {curve.min()}")
    return curve


def momentum_curve(
    space: Mapping[str, Any],
    learning_rates: np.ndarray,
    *,
    steps_per_epoch: int,
    functions: Mapping[str, Function] | None = None,
) -> np.ndarray | None:
    """The momentum of every optimizer step, float32 as `learning_rates`; None if it has no curve.

    `space` may hold `{"momentum_schedule": {family: {...}}}`, one of MOMENTA. Its clock starts at
    the first step of the run, warmup or not. Raises ValueError unless 0 <= momentum < 1 everywhere.
    """
    if not space.get("momentum_schedule"):
        return None
    ((family, parameters),) = space["momentum_schedule"].items()
    one_of(tuple(MOMENTA), momentum_schedule=family)
    if family == "mirror":
        given = dict(parameters or {})
        body = mirror(learning_rates, **_arguments(mirror, given, units={}, tick_steps=1))
    else:
        body = family_curve(
            MOMENTA[family],
            parameters or {},
            num_steps=len(learning_rates),
            steps_per_epoch=steps_per_epoch,
            functions=functions or {},
        )
    with np.errstate(over="ignore"):
        curve = body.astype(np.float32)
    wrong = curve[~((curve >= 0) & (curve < 1))]
    if len(wrong):
        raise ValueError(f"0 <= momentum < 1 must hold, but {family} gives {wrong[0]}")
    return curve


def plateau_rule(
    space: Mapping[str, Any], *, num_epochs: int, steps_per_epoch: int
) -> Plateau | None:
    """The feedback of a point whose family is `reduce_on_plateau`; None for every other."""
    ((family, parameters),) = space["schedule"].items()
    if family != "reduce_on_plateau":
        return None
    warmup = warmup_steps(space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    units = _units(num_epochs * steps_per_epoch - warmup, steps_per_epoch)
    given = {key: value for key, value in parameters.items() if key not in CLOCK_KEYS}
    arguments = _arguments(SCHEDULES[family], given, units, tick_steps=steps_per_epoch)
    defaults = inspect.signature(SCHEDULES[family]).parameters
    return Plateau(
        *(
            float(arguments.get(name, defaults[name].default))
            for name in ("factor", "patience_ticks", "threshold", "cooldown_ticks", "min_fraction")
        )
    )


def warmup_steps(space: Mapping[str, Any], *, num_epochs: int, steps_per_epoch: int) -> int:
    """The length of the warmup in optimizer steps, rounded to the nearest; 0 without a warmup."""
    given = [key for key in WARMUP_KEYS if space.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"a duration must be spelled once, but got {' and '.join(given)}")
    if not given:
        return 0
    total = num_epochs * steps_per_epoch
    non_negative(**{given[0]: space[given[0]]})
    length = space[given[0]] * _units(total, steps_per_epoch)[given[0].split("_")[1]]
    if length > total or (steps := round(length)) >= total:
        raise ValueError(
            f"{given[0]} must be shorter than the training of {total} steps, "
            f"but got {space[given[0]]}"
        )
    return steps


def _ramp(warmup: int, space: Mapping[str, Any]) -> np.ndarray:
    """The share of the peak at each step of the warmup, float64 (warmup,)."""
    shape, start = space.get("warmup_shape", "linear"), space.get("warmup_init_fraction", 0.0)
    one_of(WARMUP_SHAPES, warmup_shape=shape)
    fraction(warmup_init_fraction=start)
    x = np.arange(warmup) / max(warmup, 1)
    if shape == "exponential":
        if start == 0:
            raise ValueError(
                "warmup_init_fraction > 0 must hold with warmup_shape exponential, but got 0"
            )
        return start ** (1 - x)
    return start + (1 - start) * (x if shape == "linear" else half_cosine(1 - x))


def family_curve(
    family: Family,
    parameters: Mapping[str, Any],
    *,
    num_steps: int,
    steps_per_epoch: int,
    functions: Mapping[str, Function],
) -> np.ndarray:
    """A family by itself, without a warmup: float64 (num_steps,)."""
    given = dict(parameters)
    interval, first_tick = given.pop("interval", "step"), given.pop("first_tick", 0)
    if interval not in ("step", "epoch"):
        raise ValueError(f"interval must be step or epoch, but got {interval}")
    if first_tick not in (0, 1):
        raise ValueError(f"first_tick must be 0 or 1, but got {first_tick}")
    tick_steps = 1 if interval == "step" else steps_per_epoch
    index = np.arange(num_steps) // tick_steps
    ticks = first_tick + np.arange(index[-1] + 1, dtype=np.float64)
    arguments = _arguments(family, given, _units(num_steps, steps_per_epoch), tick_steps)
    if isinstance(name := arguments.get("function"), str):
        arguments["function"] = functions.get(name, name)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return family(ticks, **arguments)[index]


def _units(num_steps: int, steps_per_epoch: int) -> dict[str, int]:
    """The optimizer steps in one of each unit of a duration."""
    return {"steps": 1, "epochs": steps_per_epoch, "fraction": num_steps}


def _arguments(
    family: Family, given: dict[str, Any], units: Mapping[str, int], tick_steps: int
) -> dict[str, Any]:
    """`given` with every duration turned into ticks; refuses missing and doubled keys."""
    arguments: dict[str, Any] = {}
    for name, parameter in parameters_of(family).items():
        stem = name.removesuffix("_ticks")
        required = parameter.default is inspect.Parameter.empty
        if stem == name:
            if name in given:
                arguments[name] = given.pop(name)
            elif required:
                raise ValueError(f"{name} must be given for {family.__name__}")
            continue
        spelled = [unit for unit in UNITS if f"{stem}_{unit}" in given]
        if len(spelled) > 1:
            keys = " and ".join(f"{stem}_{unit}" for unit in spelled)
            raise ValueError(f"a duration must be spelled once, but got {keys}")
        if spelled:
            value = given.pop(f"{stem}_{spelled[0]}")
            arguments[name] = _in_ticks(stem, value, units[spelled[0]], tick_steps)
        elif required:
            raise ValueError(
                f"{stem}_fraction must be given for {family.__name__} (or _epochs, or _steps)"
            )
        elif parameter.default == math.inf:
            arguments[name] = _in_ticks(stem, 1, units["fraction"], tick_steps)
    if given and not takes_anything(family):
        keys = ", ".join(config_keys(family))
        raise ValueError(f"{family.__name__} takes {keys}, but got {min(given)}")
    if "num_ticks" in inspect.signature(family).parameters:
        arguments["num_ticks"] = _in_ticks("run", 1, units["fraction"], tick_steps)
    return arguments | given


def _in_ticks(stem: str, duration: Any, unit_steps: int, tick_steps: int) -> Any:
    """A duration, or a list of them, in ticks; whole where only rounding kept it from being so."""
    if isinstance(duration, Sequence) and not isinstance(duration, str):
        non_negative(**{f"{stem}.{index}": entry for index, entry in enumerate(duration)})
        return [_in_ticks(stem, entry, unit_steps, tick_steps) for entry in duration]
    ticks = number(stem, number(stem, duration) * unit_steps / tick_steps)
    return round(ticks) if math.isclose(ticks, round(ticks), rel_tol=1e-9) else ticks


def schedule_keys(family: str) -> tuple[str, ...]:
    """Every key that may stand under a schedule family; durations in all three spellings."""
    return config_keys(SCHEDULES[family])


def config_keys(family: Family) -> tuple[str, ...]:
    """Every key that may stand under a family in a config; durations in all three spellings."""
    keys: list[str] = []
    for name in parameters_of(family):
        stem = name.removesuffix("_ticks")
        keys += [name] if stem == name else [f"{stem}_{unit}" for unit in UNITS]
    clock = CLOCK_KEYS if "ticks" in inspect.signature(family).parameters else ()
    return (*keys, *clock)


def required_keys(family: Family) -> tuple[str, ...]:
    """The keys of a family that have no default; durations by their stem (`boundaries`)."""
    return tuple(
        name.removesuffix("_ticks")
        for name, parameter in parameters_of(family).items()
        if parameter.default is inspect.Parameter.empty
    )


def parameters_of(family: Family) -> dict[str, inspect.Parameter]:
    """What a config gives a family, by the names in its function."""
    return {
        name: parameter
        for name, parameter in inspect.signature(family).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "num_ticks"
    }


def takes_anything(family: Family) -> bool:
    """Whether the family hands keys it does not know on to a function of the user."""
    kinds = {parameter.kind for parameter in inspect.signature(family).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds
