"""The feedback of `reduce_on_plateau`: the scale that follows from the losses so far."""

import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.curves import TORCH
from tests.trainers.points import points
from trainers.plateau import Plateau
from trainers.schedules import SCHEDULES, plateau_rule

LOSSES = st.lists(st.floats(-10, 10) | st.sampled_from([0.5, 1.0, 2.0]), max_size=30)
RULES = st.builds(
    Plateau,
    factor=st.floats(1e-3, 1),
    patience=st.floats(0, 4),
    threshold=st.floats(0, 1) | st.just(1e-4),
    cooldown=st.floats(0, 4),
    min_fraction=st.floats(0, 1) | st.just(0.0),
)
HALVING = Plateau(factor=0.5, patience=1, threshold=0.1, cooldown=0, min_fraction=0)


@pytest.mark.parametrize("case", TORCH["plateaus"])
def test_the_scale_is_that_of_reducelronplateau(case: str) -> None:
    recorded = TORCH["plateaus"][case]
    rule = {name: value for name, value in recorded["rule"].items() if name != "min_lr"}
    ours = Plateau(**rule, min_fraction=recorded["rule"]["min_lr"]).scales(recorded["losses"])
    assert ours == [1, *recorded["scales"]]


@pytest.mark.parametrize(("patience", "cooldown"), [(1, 0), (2, 0), (2, 3), (5, 1)])
def test_optax_reduces_at_one_bad_epoch_fewer(patience: int, cooldown: int) -> None:
    losses = TORCH["plateaus"]["noisy, rule 1"]["losses"]
    ours = Plateau(
        factor=0.5, patience=patience - 1, threshold=0.02, cooldown=cooldown, min_fraction=0.1
    )
    with jax.enable_x64(True):
        twin = optax.contrib.reduce_on_plateau(
            factor=0.5, patience=patience, rtol=0.02, cooldown=cooldown, min_scale=0.1
        )
        one = jnp.ones(())

        def follow(state: Any, loss: jax.Array) -> tuple[Any, Any]:
            scaled, state = twin.update(one, state, value=loss)
            return state, scaled

        _, theirs = jax.lax.scan(follow, twin.init(one), jnp.array(losses))
    assert len(set(theirs.tolist())) > 1
    np.testing.assert_allclose(ours.scales(losses)[1:], theirs, rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(rule=RULES, losses=LOSSES, tail=LOSSES)
def test_the_scale_falls_to_its_floor_and_knows_nothing_of_what_comes_later(
    rule: Plateau, losses: list[float], tail: list[float]
) -> None:
    before = list(losses)
    followed = rule.scales(losses)
    assert followed[:2] == [1] * len(followed[:2])
    assert all(after <= now for now, after in pairwise(followed))
    assert min(followed) >= rule.min_fraction
    assert rule.scales(losses + tail)[: len(followed)] == followed
    assert losses == before
    falls = len(set(followed)) - 1
    assert followed[-1] == pytest.approx(max(rule.factor**falls, rule.min_fraction))


@pytest.mark.parametrize(
    ("rule", "losses", "expected"),
    [
        (HALVING, [1, 1, 1, 1, 1], [1, 1, 1, 0.5, 0.5, 0.25]),
        (HALVING, [1, 0.91, 0.9, 0.89], [1, 1, 1, 0.5, 0.5]),
        (HALVING, [1, 0.91, 0.89, 0.89, 0.89], [1, 1, 1, 1, 1, 0.5]),
        (HALVING._replace(threshold=0), [1, 0.999, 0.998], [1, 1, 1, 1]),
        (HALVING._replace(threshold=0), [1, 1, 1], [1, 1, 1, 0.5]),
        (HALVING._replace(patience=0), [1, 1, 1], [1, 1, 0.5, 0.25]),
        (HALVING._replace(patience=0, threshold=1), [1, 0.1, 0.1], [1, 1, 0.5, 0.25]),
        (HALVING._replace(patience=1.5), [1, 1, 1, 1], [1, 1, 1, 0.5, 0.5]),
        (HALVING._replace(min_fraction=0.4), [1] * 5, [1, 1, 1, 0.5, 0.5, 0.4]),
        (HALVING._replace(cooldown=2), [1] * 7, [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]),
        (HALVING._replace(cooldown=1, patience=0), [1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5, 0.25]),
    ],
)
def test_scales_worked_out_by_hand(
    rule: Plateau, losses: list[float], expected: list[float]
) -> None:
    assert rule.scales(losses) == expected


def test_losses_that_are_not_finite_change_nothing() -> None:
    """A trial that diverged is still shown with the curve it had."""
    assert HALVING.scales([1, None, 1, math.nan, 1, math.inf]) == [1, 1, 1, 1, 1, 0.5, 0.5]


# From a point to its rule


def rule_of(given: dict[str, Any], **warmup: Any) -> Plateau:
    space = {"schedule": {"reduce_on_plateau": {"peak_lr": 1.0, **given}}, **warmup}
    rule = plateau_rule(space, num_epochs=10, steps_per_epoch=20)
    assert rule is not None
    return rule


@pytest.mark.parametrize(
    ("warmup", "patiences"),
    [
        ({}, {"patience_steps": 60, "patience_epochs": 3, "patience_fraction": 0.3}),
        (
            {"warmup_steps": 50},
            {"patience_steps": 75, "patience_epochs": 3.75, "patience_fraction": 0.5},
        ),
    ],
)
@pytest.mark.parametrize("clock", [{}, {"interval": "epoch", "first_tick": 1}])
def test_the_three_spellings_of_a_patience_are_epochs_of_the_rule(
    warmup: dict[str, Any], patiences: dict[str, float], clock: dict[str, Any]
) -> None:
    rules = {rule_of({key: value, **clock}, **warmup) for key, value in patiences.items()}
    assert rules == {Plateau(0.1, patiences["patience_epochs"], 1e-4, 0.0, 0.0)}


def test_every_parameter_of_a_rule_arrives() -> None:
    given = {"factor": 0.5, "threshold": 0.25, "min_fraction": 0.125}
    assert rule_of({"patience_steps": 40, "cooldown_fraction": 0.1, **given}) == Plateau(
        factor=0.5, patience=2, threshold=0.25, cooldown=1, min_fraction=0.125
    )


@pytest.mark.parametrize("family", sorted(SCHEDULES.keys() - {"reduce_on_plateau"}))
def test_no_other_family_has_a_rule(family: str) -> None:
    @settings(max_examples=5, deadline=None)
    @given(points(family))
    def has_none(point: Any) -> None:
        num_epochs, steps_per_epoch, _ = point.run
        assert (
            plateau_rule(point.space, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
            is None
        )

    has_none()
