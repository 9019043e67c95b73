"""Early stopping: who is judged, when, against whom, and that nothing else decides."""

from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SweepConfig, parse_config
from sweep.pruning import Standing, reason_to_stop

CONFIG = """
version: 1
name: pruned
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 30, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}}
search: {num_trials: 8}
"""


@cache
def config(
    algorithm: str = "asha",
    *,
    metric: str = "val_accuracy",
    grace: int = 3,
    factor: int = 3,
    compare: str = "family",
) -> SweepConfig:
    rule = f"algorithm: {algorithm}, grace_epochs: {grace}"
    rule += f", reduction_factor: {factor}, compare: {compare}"
    return parse_config(CONFIG, overrides=[f"search.metric={metric}", f"pruning={{{rule}}}"])


def progress(values: Mapping[int, float], family: str = "constant", warmup: float = 0) -> Standing:
    return Standing(family, warmup, values)


def flat(value: float, family: str = "constant", warmup: float = 0) -> Standing:
    """A trial that reports the same value at every epoch."""
    return progress(dict.fromkeys(range(1, 31), value), family, warmup)


def judged_epochs(rules: SweepConfig, own: Standing, others: list[Standing]) -> list[int]:
    """The epochs at which `own` would be stopped."""
    return [epoch for epoch in range(1, 31) if reason_to_stop(rules, own, epoch, others)]


@pytest.mark.parametrize(
    ("grace", "factor", "rungs"),
    [
        (1, 2, [1, 2, 4, 8, 16]),
        (1, 3, [1, 3, 9, 27]),
        (2, 3, [2, 6, 18]),
        (3, 3, [3, 9, 27]),
        (4, 4, [4, 16]),
        (10, 3, [10, 30]),
        (29, 2, [29]),
        (15, 2, [15, 30]),
        (1, 40, []),  # no rung ever sees 40 values
    ],
)
def test_asha_judges_at_its_rungs_alone(grace: int, factor: int, rungs: list[int]):
    others = [flat(0.9)] * 9
    assert judged_epochs(config(grace=grace, factor=factor), flat(0.1), others) == rungs


@pytest.mark.parametrize(
    ("factor", "own", "peers", "verdict"),
    [
        (3, 0.1, [], None),
        (3, 0.1, [0.9], None),
        (3, 0.1, [0.9, 0.8], "rank 3 of 3, the best 1 go on"),
        (3, 0.85, [0.9, 0.8], "rank 2 of 3, the best 1 go on"),
        (3, 0.95, [0.9, 0.8], None),
        (3, 0.85, [0.9, 0.8, 0.7, 0.6], "rank 2 of 5, the best 1 go on"),
        (3, 0.85, [0.9, 0.8, 0.7, 0.6, 0.5], None),
        (3, 0.75, [0.9, 0.8, 0.7, 0.6, 0.5], "rank 3 of 6, the best 2 go on"),
        (3, 0.75, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], None),
        (2, 0.1, [], None),
        (2, 0.1, [0.9], "rank 2 of 2, the best 1 go on"),
        (4, 0.1, [0.9, 0.8], None),
        (4, 0.1, [0.9, 0.8, 0.7], "rank 4 of 4, the best 1 go on"),
    ],
)
def test_asha_keeps_the_best_of_what_a_rung_has_seen(
    factor: int, own: float, peers: list[float], verdict: str | None
):
    reason = reason_to_stop(config(factor=factor), flat(own), 3, [flat(peer) for peer in peers])
    assert reason == (verdict and f"stopped at epoch 3: {verdict}")


@pytest.mark.parametrize(
    ("own", "peers", "goes_on"),
    [
        (0.9, [0.9, 0.8], True),
        (0.5, [0.5, 0.5], True),
        (0.5, [0.5] * 8, True),
        (0.8, [0.9, 0.8], False),
        (0.8, [0.9, 0.8, 0.8, 0.8, 0.8], True),
        (0.8, [0.9, 0.9, 0.8, 0.8, 0.8], False),
    ],
)
def test_equal_values_share_the_better_rank(own: float, peers: list[float], goes_on: bool):
    reason = reason_to_stop(config(), flat(own), 3, [flat(peer) for peer in peers])
    assert (reason is None) == goes_on


def test_a_smaller_loss_is_the_better_one():
    rules = config(metric="val_loss")
    peers = [flat(0.5), flat(0.6)]
    assert reason_to_stop(rules, flat(0.1), 3, peers) is None
    reason = reason_to_stop(rules, flat(0.9), 3, peers)
    assert reason == "stopped at epoch 3: rank 3 of 3, the best 1 go on"


@pytest.mark.parametrize("algorithm", ["asha", "median"])
@pytest.mark.parametrize(("compare", "stopped"), [("family", False), ("all", True)])
def test_only_the_own_family_counts_unless_all_are_compared(
    algorithm: str, compare: str, stopped: bool
):
    others = [flat(0.9, "cosine_decay")] * 5 + [flat(0.9)]
    reason = reason_to_stop(config(algorithm, compare=compare), flat(0.1), 3, others)
    assert bool(reason) == stopped


@pytest.mark.parametrize(
    ("warmup", "epochs"),
    [(0, [3, 9, 27]), (2.9, [3, 9, 27]), (3, [9, 27]), (8.99, [9, 27]), (9.01, [27]), (29, [])],
)
def test_nobody_is_judged_before_the_end_of_the_own_warmup(warmup: float, epochs: list[int]):
    assert judged_epochs(config(), flat(0.1, warmup=warmup), [flat(0.9)] * 4) == epochs


@pytest.mark.parametrize(
    ("warmup", "verdict"),
    [(2.9, "rank 3 of 3, the best 1 go on"), (3, None), (3.1, None)],
)
def test_a_trial_in_its_warmup_is_no_peer(warmup: float, verdict: str | None):
    others = [flat(0.9), flat(0.9, warmup=warmup)]
    reason = reason_to_stop(config(), flat(0.1), 3, others)
    assert reason == (verdict and f"stopped at epoch 3: {verdict}")


@pytest.mark.parametrize("algorithm", ["asha", "median"])
def test_a_trial_without_a_value_at_the_epoch_is_no_peer(algorithm: str):
    early, late = progress({1: 0.9, 2: 0.9}), progress({4: 0.9, 5: 0.9})
    assert reason_to_stop(config(algorithm), flat(0.1), 3, [early, late] * 5) is None


@pytest.mark.parametrize(
    ("own", "peers", "verdict"),
    [
        ([0.1, 0.1, 0.1], [0.5, 0.5, 0.5], None),  # three peers say too little
        ([0.1, 0.1, 0.1], [0.5] * 4, "best 0.1, median of 4 peers 0.5"),
        ([0.1, 0.1, 0.1], [0.2, 0.4, 0.6, 0.8], "best 0.1, median of 4 peers 0.5"),
        ([0.1, 0.1, 0.1], [0.2, 0.3, 0.4, 0.6, 0.8], "best 0.1, median of 5 peers 0.4"),
        ([0.5, 0.5, 0.5], [0.5] * 4, None),
        ([0.5, 0.5, 0.5], [0.4, 0.6, 0.6, 0.4], None),
        ([0.1, 0.7, 0.1], [0.5] * 4, None),  # was better before
        ([0.1, 0.4, 0.1], [0.5] * 4, "best 0.4, median of 4 peers 0.5"),
        ([0.1, 0.1, 0.1, 0.9], [0.5] * 4, "best 0.1, median of 4 peers 0.5"),  # is better later
    ],
)
def test_median_holds_the_best_so_far_against_the_peers(
    own: list[float], peers: list[float], verdict: str | None
):
    values = progress(dict(enumerate(own, start=1)))
    reason = reason_to_stop(config("median"), values, 3, [flat(peer) for peer in peers])
    assert reason == (verdict and f"stopped at epoch 3: {verdict}")


def test_median_knows_that_a_smaller_loss_is_better():
    rules = config("median", metric="val_loss")
    peers = [flat(0.5)] * 4
    assert reason_to_stop(rules, flat(0.4), 3, peers) is None
    assert reason_to_stop(rules, progress({1: 0.4, 2: 0.9, 3: 0.9}), 3, peers) is None
    reason = reason_to_stop(rules, flat(0.75), 3, peers)
    assert reason == "stopped at epoch 3: best 0.75, median of 4 peers 0.5"


@pytest.mark.parametrize(("grace", "first"), [(1, 1), (3, 3), (7, 7)])
def test_median_judges_at_every_epoch_after_the_grace(grace: int, first: int):
    rules = config("median", grace=grace)
    assert judged_epochs(rules, flat(0.1), [flat(0.9)] * 4) == list(range(first, 31))


VALUES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.75, 1.0])
EPOCH = st.sampled_from([1, 2, 3, 4, 6, 9])
TRIALS = st.builds(
    Standing,
    st.sampled_from(["constant", "cosine_decay"]),
    st.sampled_from([0, 0.5, 2, 3.5]),
    st.dictionaries(st.integers(1, 9), VALUES, max_size=9),
)
OTHERS = st.lists(TRIALS, max_size=12)
RULES = st.builds(
    config,
    st.sampled_from(["asha", "median"]),
    metric=st.sampled_from(["val_accuracy", "val_loss"]),
    grace=st.sampled_from([1, 3]),
    factor=st.sampled_from([2, 3, 4]),
    compare=st.sampled_from(["family", "all"]),
)


def at(own: Standing, epoch: int, value: float) -> Standing:
    """`own`, having just reported `value`."""
    past = {at: value for at, value in own.values.items() if at < epoch}
    return own._replace(values=past | {epoch: value})


@given(RULES, TRIALS, EPOCH, VALUES, OTHERS, st.randoms(use_true_random=False))
def test_the_order_of_trials_and_of_their_reports_does_not_matter(
    rules, own, epoch, value, others, random
):
    own = at(own, epoch, value)
    shuffled = [
        other._replace(values=dict(random.sample(list(other.values.items()), len(other.values))))
        for other in random.sample(others, len(others))
    ]
    expected = reason_to_stop(rules, own, epoch, others)
    assert reason_to_stop(rules, own, epoch, shuffled) == expected
    assert reason_to_stop(rules, own, epoch, tuple(others)) == expected, "asked again"


@given(RULES, TRIALS, EPOCH, VALUES, OTHERS)
def test_the_best_at_its_epoch_is_never_stopped(rules, own, epoch, value, others):
    choose = max if rules.search.goal == "maximize" else min
    seen = [other.values[epoch] for other in others if epoch in other.values]
    assert reason_to_stop(rules, at(own, epoch, choose([value, *seen])), epoch, others) is None


@given(TRIALS, EPOCH, VALUES, OTHERS)
def test_none_never_stops(own, epoch, value, others):
    assert reason_to_stop(config("none"), at(own, epoch, value), epoch, others) is None


@given(RULES, TRIALS, EPOCH, VALUES, OTHERS)
def test_maximizing_is_minimizing_the_negative(rules, own, epoch, value, others):
    def negated(trial: Standing) -> Standing:
        return trial._replace(values={at: -value for at, value in trial.values.items()})

    metric = "val_loss" if rules.search.metric == "val_accuracy" else "val_accuracy"
    mirrored = config(
        rules.pruning.algorithm,
        metric=metric,
        grace=rules.pruning.grace_epochs,
        factor=rules.pruning.reduction_factor,
        compare=rules.pruning.compare,
    )
    own = at(own, epoch, value)
    one = reason_to_stop(rules, own, epoch, others)
    other = reason_to_stop(mirrored, negated(own), epoch, [negated(trial) for trial in others])
    assert (one is None) == (other is None)


@given(RULES, TRIALS, EPOCH, VALUES, OTHERS)
def test_what_peers_report_at_other_epochs_does_not_matter(rules, own, epoch, value, others):
    def only_here(trial: Standing) -> Standing:
        return trial._replace(values={at: v for at, v in trial.values.items() if at == epoch})

    own = at(own, epoch, value)
    here = [only_here(trial) for trial in others]
    assert reason_to_stop(rules, own, epoch, here) == reason_to_stop(rules, own, epoch, others)
