"""Learning-rate schedules as data: pure functions from parameters to a float32 curve.

A family is a function of `ticks`, the float64 times at which it is evaluated. A tick is one
optimizer step, or one epoch with `interval: epoch`; a schedule's clock starts at 0 when its warmup
has ended. Durations reach a function in ticks (`decay_ticks`); a config spells them `decay_steps`,
`decay_epochs` or `decay_fraction` (of the steps after the warmup); one left out spans all of them.
"""

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WARMUP_KEYS = ("warmup_steps", "warmup_epochs", "warmup_fraction")
_UNITS = ("steps", "epochs", "fraction")
_CLOCK_KEYS = ("interval", "first_tick")


def constant(ticks: np.ndarray, *, peak_lr: float) -> np.ndarray:
    """The same learning rate at every tick.

    lr[t] = peak_lr
    """
    _non_negative(peak_lr=peak_lr)
    return np.full(ticks.shape, peak_lr, np.float64)


def exponential_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_rate: float,
    decay_ticks: float,
    staircase: bool = False,
) -> np.ndarray:
    """Multiplied by `decay_rate` every `decay_ticks`, smoothly, or at once with `staircase`.

    lr[t] = peak_lr * decay_rate ** (t / decay_ticks)
    """
    _non_negative(peak_lr=peak_lr)
    _positive(decay_rate=decay_rate, decay=decay_ticks)
    return peak_lr * decay_rate ** _progress(ticks, decay_ticks, staircase)


def inverse_time_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_rate: float,
    decay_ticks: float,
    staircase: bool = False,
) -> np.ndarray:
    """Falls as one over time, smoothly, or in steps of `decay_ticks` with `staircase`.

    lr[t] = peak_lr / (1 + decay_rate * t / decay_ticks)
    """
    _non_negative(peak_lr=peak_lr, decay_rate=decay_rate)
    _positive(decay=decay_ticks)
    return peak_lr / (1 + decay_rate * _progress(ticks, decay_ticks, staircase))


def polynomial_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float,
    power: float = 1.0,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """A power of the time that is left, towards `final_fraction * peak_lr`, then flat.

    lr[t] = peak_lr * (f + (1 - f) * (1 - t / decay_ticks) ** power),   f = final_fraction
    """
    _non_negative(peak_lr=peak_lr)
    _positive(power=power, decay=decay_ticks)
    _fraction(final_fraction=final_fraction)
    left = 1 - np.minimum(ticks / decay_ticks, 1)
    return peak_lr * (final_fraction + (1 - final_fraction) * left**power)


def piecewise_constant(
    ticks: np.ndarray, *, values: Sequence[float], boundaries_ticks: Sequence[float]
) -> np.ndarray:
    """One value up to and including each boundary, the next value after it.

    lr[t] = values[number of boundaries b with t > b]

    As in jax.example_libraries; optax moves on at the boundary itself, one tick earlier.
    """
    boundaries = np.asarray(boundaries_ticks, np.float64)
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            "values must hold one more entry than boundaries, "
            f"but got {len(values)} values and {len(boundaries)} boundaries"
        )
    for index, value in enumerate(values):
        _non_negative(**{f"values.{index}": value})
    if not (np.all(np.isfinite(boundaries)) and np.all(np.diff(boundaries) > 0)):
        raise ValueError(f"boundaries must rise, but got {[float(b) for b in boundaries]}")
    return np.asarray(values, np.float64)[np.sum(ticks[:, None] > boundaries, axis=1)]


def cosine_decay(
    ticks: np.ndarray,
    *,
    peak_lr: float,
    decay_ticks: float,
    final_fraction: float = 0.0,
) -> np.ndarray:
    """Half a cosine from `peak_lr` towards `final_fraction * peak_lr`, then flat.

    lr[t] = peak_lr * (f + (1 - f) * (1 + cos(pi * t / decay_ticks)) / 2),   f = final_fraction

    The floor lies at t = decay_ticks, one tick past the last of a whole run.
    Loshchilov & Hutter 2017.
    """
    _non_negative(peak_lr=peak_lr)
    _positive(decay=decay_ticks)
    _fraction(final_fraction=final_fraction)
    wave = (1 + np.cos(np.pi * np.minimum(ticks / decay_ticks, 1))) / 2
    return peak_lr * (final_fraction + (1 - final_fraction) * wave)


def custom(ticks: np.ndarray, /, *, function: str, **parameters: Any) -> np.ndarray:
    """Any Python function of the tick, named `module:function` or `path/to/file.py:function`.

    lr[t] = function(t, **parameters)

    All other keys of the family are the function's keyword arguments.
    """
    rule = _load_function(function)
    try:
        return np.array([float(rule(_as_int(tick), **parameters)) for tick in ticks.tolist()])
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"function must return a learning rate for every tick, but {function} "
            f"raised {type(error).__name__}: {error}"
        ) from error


def divide_by_three(tick: int, *, init_lr: float) -> float:
    """An example for `custom`: the rate divided by three at every tick.

    lr[t] = init_lr / 3**t
    """
    return init_lr * 3.0**-tick


SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    family.__name__: family
    for family in (
        constant,
        exponential_decay,
        inverse_time_decay,
        polynomial_decay,
        piecewise_constant,
        cosine_decay,
        custom,
    )
}


def schedule_keys(family: str) -> tuple[str, ...]:
    """Every key that may stand under `family` in a config; durations in all three spellings."""
    keys: list[str] = []
    for name in _parameters(family):
        stem = name.removesuffix("_ticks")
        keys += [name] if stem == name else [f"{stem}_{unit}" for unit in _UNITS]
    return (*keys, *_CLOCK_KEYS)


def required_keys(family: str) -> tuple[str, ...]:
    """The keys of `family` that have no default; durations by their stem (`boundaries`)."""
    return tuple(
        name.removesuffix("_ticks")
        for name, parameter in _parameters(family).items()
        if parameter.default is inspect.Parameter.empty and name != "decay_ticks"
    )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Optimizer steps in an epoch; the last may see a smaller batch."""
    return -(-num_examples // batch_size)


def warmup_steps(space: Mapping[str, Any], *, num_epochs: int, steps_per_epoch: int) -> int:
    """The length of the warmup in optimizer steps, rounded to the nearest; 0 without a warmup."""
    given = [key for key in WARMUP_KEYS if space.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"a duration must be spelled once, but got {' and '.join(given)}")
    if not given:
        return 0
    total = num_epochs * steps_per_epoch
    _non_negative(**{given[0]: space[given[0]]})
    scale = {
        "warmup_steps": 1,
        "warmup_epochs": steps_per_epoch,
        "warmup_fraction": total,
    }
    steps = round(space[given[0]] * scale[given[0]])
    if steps >= total:
        raise ValueError(
            f"{given[0]} must be shorter than the training of {total} steps, "
            f"but got {space[given[0]]}"
        )
    return steps


def learning_rate_curve(
    space: Mapping[str, Any], *, num_epochs: int, steps_per_epoch: int
) -> np.ndarray:
    """The learning rate of every optimizer step, float32 (num_epochs * steps_per_epoch,).

    `space` is a concrete point of a search space: `{"schedule": {family: {...}}}` and optionally
    one of WARMUP_KEYS; its other keys are left alone. A warmup of W steps rises in a straight line
    from 0 at step 0 to the family's first value at step W, where the family's own clock starts (as
    optax joins them). Raises ValueError, naming the parameter, for anything out of its bounds.
    """
    ((family, parameters),) = space["schedule"].items()
    if family not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, but got {family}")
    warmup = warmup_steps(space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    steps = num_epochs * steps_per_epoch - warmup
    body = _body(family, dict(parameters or {}), steps, steps_per_epoch)
    ramp = body[0] * np.arange(warmup) / max(warmup, 1)
    with np.errstate(over="ignore"):
        curve = np.concatenate([ramp, body]).astype(np.float32)
    if not np.all(np.isfinite(curve)):
        raise ValueError(f"every learning rate must be finite, but {family} gives {curve.max()}")
    if curve.min() < 0:
        raise ValueError(f"every learning rate must be >= 0, but {family} gives {curve.min()}")
    return curve


def _body(family: str, parameters: dict[str, Any], steps: int, epoch_steps: int) -> np.ndarray:
    """The family's own part of the curve, float64 (steps,)."""
    interval = parameters.pop("interval", "step")
    if interval not in ("step", "epoch"):
        raise ValueError(f"interval must be step or epoch, but got {interval}")
    first_tick = parameters.pop("first_tick", 0)
    if first_tick not in (0, 1):
        raise ValueError(f"first_tick must be 0 or 1, but got {first_tick}")
    tick_steps = 1 if interval == "step" else epoch_steps
    index = np.arange(steps) // tick_steps
    ticks = first_tick + np.arange(index[-1] + 1, dtype=np.float64)
    units = {"steps": 1, "epochs": epoch_steps, "fraction": steps}
    arguments = _arguments(family, parameters, units, tick_steps)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return SCHEDULES[family](ticks, **arguments)[index]


def _arguments(
    family: str, given: dict[str, Any], units: Mapping[str, int], tick_steps: int
) -> dict[str, Any]:
    """`given` with every duration turned into ticks; refuses missing and doubled keys.

    `units` holds the optimizer steps in one of each unit, `tick_steps` those in one tick.
    """
    arguments: dict[str, Any] = {}
    for name, parameter in _parameters(family).items():
        stem = name.removesuffix("_ticks")
        if stem == name:
            if name in given:
                arguments[name] = given.pop(name)
            elif parameter.default is inspect.Parameter.empty:
                raise ValueError(f"{name} must be given for {family}")
            continue
        spelled = [unit for unit in _UNITS if f"{stem}_{unit}" in given]
        if len(spelled) > 1:
            keys = " and ".join(f"{stem}_{unit}" for unit in spelled)
            raise ValueError(f"a duration must be spelled once, but got {keys}")
        if not spelled and name != "decay_ticks":
            raise ValueError(f"{stem}_fraction must be given for {family} (or _epochs, or _steps)")
        unit = spelled[0] if spelled else "fraction"
        arguments[name] = _in_ticks(stem, given.pop(f"{stem}_{unit}", 1), units[unit], tick_steps)
    if given and family != "custom":
        raise ValueError(f"{family} takes {', '.join(schedule_keys(family))}, but got {min(given)}")
    return arguments | given


def _in_ticks(stem: str, duration: Any, unit_steps: int, tick_steps: int) -> Any:
    """A duration, or a list of them, in ticks; whole where only rounding kept it from being so."""
    if isinstance(duration, Sequence) and not isinstance(duration, str):
        return [_in_ticks(stem, entry, unit_steps, tick_steps) for entry in duration]
    ticks = _number(stem, _number(stem, duration) * unit_steps / tick_steps)
    return round(ticks) if math.isclose(ticks, round(ticks), rel_tol=1e-9) else ticks


def _parameters(family: str) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(SCHEDULES[family]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _progress(ticks: np.ndarray, decay_ticks: float, staircase: bool) -> np.ndarray:
    progress = ticks / decay_ticks
    return np.floor(progress) if staircase else progress


def _load_function(name: str) -> Callable[..., float]:
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"function must read module:function or file.py:function, but got {name}")
    place, _, attribute = name.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, attribute)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"function must be importable, but {name} raised {type(error).__name__}: {error}"
        ) from error


def _as_int(tick: float) -> int | float:
    return int(tick) if tick.is_integer() else tick


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number, but got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int that no float can hold
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, but got {value}")
    return number


def _non_negative(**named: Any) -> None:
    for name, value in named.items():
        if _number(name, value) < 0:
            raise ValueError(f"{name} >= 0 must hold, but got {value}")


def _positive(**named: Any) -> None:
    for name, value in named.items():
        if _number(name, value) <= 0:
            raise ValueError(f"{name} > 0 must hold, but got {value}")


def _fraction(**named: Any) -> None:
    for name, value in named.items():
        if not 0 <= _number(name, value) <= 1:
            raise ValueError(f"0 <= {name} <= 1 must hold, but got {value}")
