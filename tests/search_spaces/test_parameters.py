"""Samples, points and grids of a space."""

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Choice,
    ConfigError,
    Distribution,
    IntUniform,
    SweepConfig,
    Uniform,
    concrete_config,
    config_to_yaml,
    custom_functions,
    flat_parameters,
    free_parameters,
    grid_points,
    is_concrete,
    parse_config,
    point_to_parameters,
    sample_space,
)

HEAD = """\
version: 1
name: t
data: {dataset: digits, validation_examples: 100}
training: {optimizer: sgd, num_epochs: 10, batch_size: 64}
search: {num_trials: 8}
"""
MIXED = f"""{HEAD}
space:
  schedule:
    constant: {{peak_lr: {{log_uniform: [1e-3, 1]}}}}
    piecewise_constant:
      values: [0.1, {{uniform: [0.01, 0.1]}}, {{choice: [1e-3, 1e-4]}}]
      boundaries_epochs: [{{int_uniform: [1, 3]}}, 5]
    cosine_decay: {{peak_lr: 0.3}}
    custom: {{function: "trainers.schedules:divide_by_three", init_lr: 0.1, momentum: 1}}
  warmup_fraction: {{uniform: [0, 0.2]}}
  momentum: 0.9
enqueue:
  - {{schedule: cosine_decay, warmup_fraction: 0}}
"""


def lowest(_: str, spread: Distribution) -> Any:
    return spread.options[0] if isinstance(spread, Choice) else spread.low


def test_free_parameters_are_scoped_by_their_family():
    assert free_parameters(parse_config(MIXED)) == {
        "schedule": Choice(("constant", "piecewise_constant", "cosine_decay", "custom")),
        "schedule.constant.peak_lr": Uniform(1e-3, 1.0, log=True),
        "schedule.piecewise_constant.values.1": Uniform(0.01, 0.1),
        "schedule.piecewise_constant.values.2": Choice((1e-3, 1e-4)),
        "schedule.piecewise_constant.boundaries_epochs.0": IntUniform(1, 3),
        "warmup_fraction": Uniform(0.0, 0.2),
    }


def test_one_family_is_no_parameter():
    config = parse_config(f"{HEAD}space: {{schedule: {{constant: {{peak_lr: 1}}}}}}")
    assert free_parameters(config) == {}
    assert is_concrete(config)
    assert not is_concrete(parse_config(MIXED))


@pytest.mark.parametrize(
    ("family", "asked"),
    [
        ("constant", ["schedule.constant.peak_lr", "warmup_fraction"]),
        ("cosine_decay", ["warmup_fraction"]),
        (
            "piecewise_constant",
            [
                "schedule.piecewise_constant.values.1",
                "schedule.piecewise_constant.values.2",
                "schedule.piecewise_constant.boundaries_epochs.0",
                "warmup_fraction",
            ],
        ),
    ],
)
def test_a_sample_asks_only_for_the_family_it_has(family: str, asked: list[str]):
    names = []

    def suggest(name: str, spread: Distribution) -> Any:
        names.append(name)
        return family if name == "schedule" else lowest(name, spread)

    sample = sample_space(parse_config(MIXED), suggest)
    assert names == ["schedule", *asked]
    assert list(sample["schedule"]) == [family]


def test_a_sample_has_the_shape_of_the_space():
    names: dict[str, Any] = {"schedule": "piecewise_constant"}
    sample = sample_space(parse_config(MIXED), lambda n, spread: names.get(n, lowest(n, spread)))
    assert sample == {
        "schedule": {
            "piecewise_constant": {"values": [0.1, 0.01, 1e-3], "boundaries_epochs": [1, 5]}
        },
        "warmup_fraction": 0.0,
        "momentum": 0.9,
    }
    assert flat_parameters(sample) == {
        "schedule": "piecewise_constant",
        "values.0": 0.1,
        "values.1": 0.01,
        "values.2": 1e-3,
        "boundaries_epochs.0": 1,
        "boundaries_epochs.1": 5,
        "warmup_fraction": 0.0,
        "momentum": 0.9,
    }


def test_a_key_of_the_family_never_hides_a_shared_one():
    names: dict[str, Any] = {"schedule": "custom"}
    sample = sample_space(parse_config(MIXED), lambda n, spread: names.get(n, lowest(n, spread)))
    assert flat_parameters(sample) == {
        "schedule": "custom",
        "function": "trainers.schedules:divide_by_three",
        "init_lr": 0.1,
        "custom.momentum": 1,
        "warmup_fraction": 0.0,
        "momentum": 0.9,
    }


def test_an_enqueued_point_names_the_free_parameters_only():
    config = parse_config(MIXED)
    assert point_to_parameters(config, config.enqueue[0]) == {
        "schedule": "cosine_decay",
        "warmup_fraction": 0.0,
    }


@pytest.mark.parametrize(
    ("point", "rule"),
    [
        ({"schedule": "constant"}, r"schedule\.constant\.peak_lr: peak_lr must be given"),
        ({"schedule": "rex"}, "schedule: the space has no schedule 'rex'; it has: constant"),
        ({"schedule": {"constant": {"peak_lr": 2}}}, r"must lie in log_uniform \[0.001, 1.0\]"),
        ({"schedule": {"cosine_decay": {"peak_lr": 1}}}, "must be 0.3 as in space, but got 1"),
        ({"schedule": "cosine_decay"}, "warmup_fraction must be given, but is missing"),
        ({"schedule": "cosine_decay", "b1": 0.9}, "the space has no 'b1'; it has: schedule"),
        ({}, "a point must have one of constant, piecewise_constant"),
    ],
)
def test_a_point_must_be_one_of_the_space(point: dict[str, Any], rule: str):
    with pytest.raises(ValueError, match=rule):
        point_to_parameters(parse_config(MIXED), point)


def test_a_grid_walks_family_by_family():
    config = parse_config(f"""{HEAD}
space:
  schedule:
    constant: {{peak_lr: {{choice: [0.1, 1]}}}}
    cosine_decay: {{peak_lr: 1, decay_epochs: {{int_uniform: [5, 6]}}}}
  momentum: {{choice: [0, 0.9]}}
""")
    constant = [
        {"schedule": "constant", "schedule.constant.peak_lr": lr, "momentum": m}
        for lr in (0.1, 1)
        for m in (0, 0.9)
    ]
    cosine = [
        {"schedule": "cosine_decay", "schedule.cosine_decay.decay_epochs": n, "momentum": m}
        for n in (5, 6)
        for m in (0, 0.9)
    ]
    assert grid_points(config) == constant + cosine


def test_a_grid_of_a_fixed_space_is_one_point():
    config = parse_config(f"{HEAD}space: {{schedule: {{constant: {{peak_lr: 1}}}}}}")
    assert grid_points(config) == [{}]


def test_a_grid_needs_an_end_of_values():
    with pytest.raises(ValueError, match="grid must have a choice or an int_uniform here, but got"):
        grid_points(parse_config(MIXED))


def test_a_concrete_config_is_a_sweep_of_one_trial():
    config = parse_config(MIXED, overrides=["pruning.algorithm=asha", "search.algorithm=tpe"])
    sample = sample_space(config, lowest)
    best = concrete_config(config, sample, name="best", expected={"value": 0.1 + 0.2})
    assert is_concrete(best)
    assert (best.name, best.search.num_trials, best.pruning.algorithm) == ("best", 1, "none")
    assert best.expected == {"value": 0.1 + 0.2}
    assert (best.training, best.data) == (config.training, config.data)
    assert sample_space(best, lowest) == sample
    assert point_to_parameters(best, sample) == {}


finite = st.floats(-1e300, 1e300)
positive = st.floats(1e-300, 1e300)


def ends(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)


options = st.lists(finite, min_size=1, max_size=4, unique=True)
leaves = st.one_of(
    finite,
    st.integers(-(2**53), 2**53),
    st.builds(lambda pair: {"uniform": pair}, ends(finite)),
    st.builds(lambda pair: {"log_uniform": pair}, ends(positive)),
    st.builds(lambda pair: {"int_uniform": pair}, ends(st.integers(-(2**53), 2**53))),
    st.builds(lambda values: {"choice": values}, options),
)
lists = st.lists(leaves, min_size=1, max_size=3)
families = st.fixed_dictionaries(
    {},
    optional={
        "constant": st.fixed_dictionaries({"peak_lr": leaves}),
        "cosine_decay": st.fixed_dictionaries({"peak_lr": leaves, "decay_steps": leaves}),
        "piecewise_constant": st.fixed_dictionaries({"values": lists, "boundaries_steps": lists}),
        "custom": st.fixed_dictionaries(
            {"function": st.text(max_size=20)},
            optional={"names": st.text(max_size=9).map(lambda text: {"choice": [text]})},
        ),
    },
).filter(bool)
spaces = st.builds(lambda schedule, warmup: {"schedule": schedule} | warmup, families,
                   st.dictionaries(st.just("warmup_steps"), leaves, max_size=1))  # fmt: skip


def drawn(data: st.DataObject, spread: Distribution) -> Any:
    match spread:
        case Choice(values):
            return data.draw(st.sampled_from(values))
        case IntUniform(low, high):
            return data.draw(st.integers(low, high))
        case Uniform(low, high):
            return data.draw(st.floats(low, high))


def config_of(space: dict[str, Any]) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "version": 1,
            "name": "t",
            "data": {"dataset": "digits", "validation_examples": 100},
            "training": {"num_epochs": 10, "batch_size": 64},
            "space": space,
            "search": {"num_trials": 8},
        }
    )


@settings(max_examples=150, deadline=None)
@given(spaces, st.data())
def test_every_sample_lies_in_the_space_and_comes_back_whole(
    space: dict[str, Any], data: st.DataObject
):
    config = config_of(space)
    asked: dict[str, Any] = {}

    def suggest(name: str, spread: Distribution) -> Any:
        asked[name] = drawn(data, spread)
        return asked[name]

    sample = sample_space(config, suggest)
    free = free_parameters(config)
    assert asked.keys() <= free.keys()
    assert point_to_parameters(config, sample) == asked
    best = concrete_config(config, sample, expected={"value": math.pi})
    assert is_concrete(best)
    again = parse_config(config_to_yaml(best))
    assert again == best
    assert sample_space(again, suggest) == sample
    assert parse_config(config_to_yaml(config)) == config


SCHEDULED = f"""{HEAD}
space:
  schedule: {{constant: {{peak_lr: 0.1}}}}
  momentum_schedule:
    interpolate: {{values: [0.95, {{uniform: [0.8, 0.9]}}, 0.95], knots_fraction: [0, 0.3, 1]}}
  warmup_shape: {{choice: [linear, cosine]}}
enqueue:
  - schedule: constant
    momentum_schedule: {{interpolate: {{values: [0.95, 0.85, 0.95]}}}}
    warmup_shape: cosine
"""


def test_a_momentum_schedule_is_searched_like_a_schedule():
    config = parse_config(SCHEDULED)
    name = "momentum_schedule.interpolate.values.1"
    assert free_parameters(config) == {
        name: Uniform(0.8, 0.9),
        "warmup_shape": Choice(("linear", "cosine")),
    }
    assert point_to_parameters(config, config.enqueue[0]) == {name: 0.85, "warmup_shape": "cosine"}
    sample = sample_space(config, lowest)
    body = {"values": [0.95, 0.8, 0.95], "knots_fraction": [0, 0.3, 1]}
    assert sample["momentum_schedule"] == {"interpolate": body}
    assert flat_parameters(sample)[name] == 0.8
    again = parse_config(config_to_yaml(concrete_config(config, sample)))
    assert sample_space(again, lowest) == sample


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0.95, 0.85, 0.95]", "[0.95, 0.85]", "must be a list of 3 entries, but got [0.95, 0.85]"),
        ("0.85", "0.7", "values[1] must lie in uniform [0.8, 0.9], but got 0.7"),
        (
            "- schedule: constant\n    momentum",
            "- schedule: constant\n    x",
            "space has no 'x_sch",
        ),
        ("{interpolate: {values: [0.95, 0", "{mirror: {values: [0.95, 0", "has no 'mirror' here"),
        ("{interpolate: {values: [0.95, 0.85, 0.95]}}", "0.9", "must be a mapping as in space"),
    ],
)
def test_a_point_off_the_momentum_schedule_is_refused(old: str, new: str, message: str):
    head, enqueue = SCHEDULED.split("enqueue:")
    assert old in enqueue
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(head + "enqueue:" + enqueue.replace(old, new))


def test_the_users_functions_are_known_by_name():
    functions = "{choice: ['json:loads', 'rules.py:f']}"
    config = parse_config(
        f"{HEAD}space: {{schedule: {{custom: {{function: {functions}}}}}, "
        "momentum_schedule: {custom: {function: 'math:sin'}}}"
    )
    assert custom_functions(config) == ["json:loads", "math:sin", "rules.py:f"]
    assert custom_functions(parse_config(SCHEDULED)) == []
