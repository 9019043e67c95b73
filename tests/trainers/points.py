"""Valid points of the search space for every family, and the bounds their curves keep to."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.trainers.curves import DIVIDED
from trainers.schedules import SCHEDULES, UNITS, WARMUP_SHAPES, Family, parameters_of

Parameters = dict[str, Any]
Bounds = tuple[float, float]


class Run(NamedTuple):
    """How long the training is, and which units its durations are spelled in."""

    num_epochs: int
    steps_per_epoch: int
    units: tuple[str, ...] = UNITS

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch


class Point(NamedTuple):
    """A space with a schedule, perhaps a warmup, and the run it is for."""

    family: str
    parameters: Parameters
    warmup: Parameters
    warmup_steps: int
    run: Run

    @property
    def space(self) -> dict[str, Any]:
        return {"schedule": {self.family: self.parameters}, "momentum": 0.9, **self.warmup}


RATES = st.floats(0, 10) | st.sampled_from([1e-30, 1e30])
FRACTIONS = st.floats(0, 1)
FALLS = st.floats(1e-3, 1)
GROWTHS = st.floats(1, 4) | st.sampled_from([1 + 1e-9, 1e3])
POWERS = st.floats(0.1, 5)
MOMENTUM = st.floats(0, 0.999)
# Durations as shares of the steps after the warmup.
SHARES = st.floats(0.01, 3) | st.sampled_from([1e-9, 1e-3, 1.0, 1e3, 1e9])
PARTS = st.integers(1, 100).map(lambda percent: percent / 100)


def records(optional: dict[str, Any] | None = None, /, **fields: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(fields, optional=optional or {})


def rising(count: int) -> st.SearchStrategy[list[float]]:
    places = st.lists(st.integers(0, 150), min_size=count, max_size=count, unique=True)
    return places.map(lambda percents: [percent / 100 for percent in sorted(percents)])


def pieces(values: st.SearchStrategy[float]) -> st.SearchStrategy[Parameters]:
    return st.integers(0, 4).flatmap(
        lambda count: records(
            values=st.lists(values, min_size=count + 1, max_size=count + 1),
            boundaries=rising(count),
        )
    )


def knots(values: st.SearchStrategy[float]) -> st.SearchStrategy[Parameters]:
    return st.integers(1, 5).flatmap(
        lambda count: records(
            {"interpolation": st.sampled_from(["linear", "cubic", "cosine"])},
            values=st.lists(values, min_size=count, max_size=count),
            knots=rising(count),
        )
    )


FLOOR = {"final_fraction": FRACTIONS}
DECAY = {"decay": SHARES}
STAIRS = {"staircase": st.booleans()}
VALID: dict[str, st.SearchStrategy[Parameters]] = {
    "constant": records(peak_lr=RATES),
    "exponential_decay": records({**DECAY, **STAIRS}, peak_lr=RATES, decay_rate=FALLS),
    "step_decay": records(peak_lr=RATES, decay_rate=FALLS, decay=SHARES),
    "inverse_time_decay": records({**DECAY, **STAIRS}, peak_lr=RATES, decay_rate=st.floats(0, 100)),
    "inverse_sqrt": records(peak_lr=RATES, timescale=SHARES),
    "linear_decay": records({**DECAY, **FLOOR}, peak_lr=RATES),
    "polynomial_decay": records({**DECAY, **FLOOR, "power": POWERS}, peak_lr=RATES),
    "cosine_decay": records({**DECAY, **FLOOR}, peak_lr=RATES),
    "rex": records({**DECAY, **FLOOR}, peak_lr=RATES),
    "cosine_restarts": records(
        {**FLOOR, "cycle_growth": GROWTHS, "peak_decay": FRACTIONS}, peak_lr=RATES, cycle=SHARES
    ),
    "one_cycle": records(
        {
            **FLOOR,
            "cycle": st.floats(1, 3) | st.just(1e9),
            "init_fraction": FRACTIONS,
            "anneal": st.sampled_from(["cosine", "linear"]),
        },
        peak_lr=RATES,
        rise=st.floats(0.01, 0.9) | st.just(1e-9),
    ),
    "warmup_stable_decay": records(
        {**FLOOR, "shape": st.sampled_from(["linear", "cosine", "1-sqrt"])},
        peak_lr=RATES,
        decay=PARTS,
    )
    | records(
        peak_lr=RATES,
        decay=PARTS,
        shape=st.just("exponential"),
        final_fraction=st.floats(1e-6, 1),
    ),
    "cyclic": records(
        {
            **DECAY,
            "init_fraction": FRACTIONS,
            "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
            "decay_rate": FALLS,
        },
        peak_lr=RATES,
        cycle=SHARES,
    ),
    "piecewise_constant": pieces(RATES),
    "interpolate": knots(RATES),
    "reduce_on_plateau": records(
        {
            "factor": FALLS,
            "threshold": FRACTIONS,
            "cooldown": st.floats(0, 1),
            "min_fraction": FRACTIONS,
        },
        peak_lr=RATES,
        patience=st.floats(0, 1),
    ),
    "custom": records(function=st.just(DIVIDED), init_lr=RATES),
}
VALID_MOMENTA: dict[str, st.SearchStrategy[Parameters]] = {
    "mirror": st.lists(MOMENTUM, min_size=2, max_size=2).map(
        lambda pair: dict(zip(("low", "high"), sorted(pair), strict=True))
    ),
    "piecewise_constant": pieces(MOMENTUM),
    "interpolate": knots(MOMENTUM),
    "custom": records(function=st.just(DIVIDED), init_lr=MOMENTUM),
}


def towards(default: float, *names: str) -> Callable[[Parameters], Bounds]:
    """From the least of the fractions of the peak that these parameters name, to the peak."""

    def bounds(parameters: Parameters) -> Bounds:
        peak = parameters["peak_lr"]
        return peak * min(parameters.get(name, default) for name in names), peak

    return bounds


def flat(parameters: Parameters) -> Bounds:
    return parameters["peak_lr"], parameters["peak_lr"]


def of_values(parameters: Parameters) -> Bounds:
    return min(parameters["values"]), max(parameters["values"])


# What the learning rates after the warmup lie between.
BOUNDS: dict[str, Callable[[Parameters], Bounds]] = {
    "constant": flat,
    "exponential_decay": lambda parameters: (0, parameters["peak_lr"]),
    "step_decay": lambda parameters: (0, parameters["peak_lr"]),
    "inverse_time_decay": lambda parameters: (0, parameters["peak_lr"]),
    "inverse_sqrt": lambda parameters: (0, parameters["peak_lr"]),
    "linear_decay": towards(0.0, "final_fraction"),
    "polynomial_decay": towards(0.0, "final_fraction"),
    "cosine_decay": towards(0.0, "final_fraction"),
    "rex": towards(0.0, "final_fraction"),
    "cosine_restarts": towards(0.0, "final_fraction"),
    "one_cycle": lambda parameters: towards(1.0, "init_fraction", "final_fraction")(
        {"init_fraction": 0.04, "final_fraction": 4e-6, **parameters}
    ),
    "warmup_stable_decay": towards(0.0, "final_fraction"),
    "cyclic": towards(0.0, "init_fraction"),
    "piecewise_constant": of_values,
    "interpolate": of_values,
    "reduce_on_plateau": flat,
    "custom": lambda parameters: (0, parameters["init_lr"]),
}
MOMENTUM_BOUNDS: dict[str, Callable[[Parameters], Bounds]] = {
    "mirror": lambda parameters: (parameters["low"], parameters["high"]),
    "piecewise_constant": of_values,
    "interpolate": of_values,
    "custom": lambda parameters: (0, parameters["init_lr"]),
}


def stems_of(family: Family) -> set[str]:
    return {name.removesuffix("_ticks") for name in parameters_of(family)}


def in_unit(share: Any, unit: str, num_steps: int, steps_per_epoch: int) -> Any:
    """A duration, or a list of them, given as a share of `num_steps`."""
    if isinstance(share, list):
        return [in_unit(entry, unit, num_steps, steps_per_epoch) for entry in share]
    return share * {"steps": num_steps, "epochs": num_steps / steps_per_epoch, "fraction": 1}[unit]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    return Run(draw(st.integers(1, 5)), draw(st.integers(1, 12)))


@st.composite
def configs(
    draw: st.DrawFn,
    family: Family,
    valid: st.SearchStrategy[Parameters],
    run: Run,
    num_steps: int,
) -> Parameters:
    """Valid parameters, each duration in one of the run's units, and perhaps another clock."""
    parameters = {}
    for name, value in draw(valid).items():
        if f"{name}_ticks" in parameters_of(family):
            unit = draw(st.sampled_from(run.units))
            parameters[f"{name}_{unit}"] = in_unit(value, unit, num_steps, run.steps_per_epoch)
        else:
            parameters[name] = value
    if family.__name__ == "mirror":
        return parameters
    clock: dict[str, st.SearchStrategy[Any]] = {"first_tick": st.sampled_from([0, 1])}
    if "epochs" in run.units:
        clock["interval"] = st.sampled_from(["step", "epoch"])
    return parameters | draw(st.fixed_dictionaries({}, optional=clock))


@st.composite
def points(draw: st.DrawFn, family: str, run: Run | None = None) -> Point:
    """A valid point; of a run of any length and all units, or of the one given."""
    run = run or draw(runs())
    steps, warmup = draw(st.integers(0, run.num_steps - 1)), {}
    if steps:
        unit = draw(st.sampled_from(run.units))
        share = steps / run.num_steps
        warmup[f"warmup_{unit}"] = in_unit(share, unit, run.num_steps, run.steps_per_epoch)
        shapes = records(
            {"warmup_init_fraction": FRACTIONS},
            warmup_shape=st.sampled_from([s for s in WARMUP_SHAPES if s != "exponential"]),
        ) | records(warmup_shape=st.just("exponential"), warmup_init_fraction=st.floats(1e-6, 1))
        warmup |= draw(shapes)
    parameters = draw(configs(SCHEDULES[family], VALID[family], run, run.num_steps - steps))
    return Point(family, parameters, warmup, steps, run)
