"""Every figure, by its numbers: what is drawn, in which colours, on which axes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.pages import made_up
from search_spaces import SweepConfig, parse_config
from sweep.atlas import Curve, atlas_curves, in_view
from sweep.errors import CommandError
from sweep.figure_parts import COLOURS, on_scale
from sweep.figures import FIGURES, draw
from sweep.importances import importances
from sweep.projection import applied_curve
from sweep.records import SweepRecord, TrialRecord
from sweep.results import leaderboard, trial_name

CONFIG = """
version: 1
name: drawn
data: {dataset: digits, validation_examples: 100}
training: {model: cnn, optimizer: sgd, num_epochs: 6, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
    cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}, final_fraction: {choice: [0, 0.1]}}
    cyclic: {peak_lr: {log_uniform: [1e-3, 1]}, cycle_epochs: {int_uniform: [1, 3]}}
  momentum: {uniform: [0, 0.9]}
search: {num_trials: 30}
"""
ONE_FAMILY = CONFIG.replace(
    "    constant: {peak_lr: {log_uniform: [1e-3, 1]}}\n    cosine_decay:", "    cosine_decay:"
).replace(
    "    cyclic: {peak_lr: {log_uniform: [1e-3, 1]}, cycle_epochs: {int_uniform: [1, 3]}}\n", ""
)
NARROW = CONFIG.replace("[1e-3, 1]", "[0.2, 1]").replace("choice: [0, 0.1]", "choice: [0.5, 1]")
UNLIKE = CONFIG.replace(
    "cosine_decay: {peak_lr: {log_uniform: [1e-3, 1]}", "cosine_decay: {peak_lr: {choice: [0.1, 2]}"
)
MIXED = ("complete", "complete", "pruned", "diverged", "running", "failed")
CASES = {
    "none": (CONFIG, 0, ()),
    "one": (CONFIG, 1, ("complete",)),
    "three": (CONFIG, 3, ("complete", "pruned", "running")),
    "many": (CONFIG, 40, ()),
    "mixed": (CONFIG, 30, MIXED),
    "diverged": (CONFIG, 5, ("diverged",)),
    "failed": (CONFIG, 2, ("failed",)),
    "one family": (ONE_FAMILY, 12, ("complete", "pruned")),
    "narrow": (NARROW, 12, ("complete",)),
    "unlike": (UNLIKE, 40, ("complete",)),
    "loss": (CONFIG.replace("num_trials: 30", "num_trials: 30, metric: val_loss"), 20, MIXED),
}

Sweep = tuple[SweepRecord, list[TrialRecord]]


def config_of(text: str, **changes: Any) -> SweepConfig:
    return parse_config(text, overrides=[f"{key}={value}" for key, value in changes.items()])


def case(name: str) -> Sweep:
    text, number, states = CASES[name]
    return made_up(number, config=config_of(text), states=states)


def plain(name: str, sweep: Sweep) -> dict[str, Any]:
    """A figure as the JSON that a page gets."""
    return draw(name, *sweep).to_plotly_json()


def results_of(trials: list[TrialRecord]) -> list[float]:
    """The values of complete trials."""
    return [t.value for t in trials if t.state == "complete" and t.value is not None]


def lines(drawn: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in drawn["data"] if trace.get("mode") == "lines"]


def axes(drawn: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shown = {key: value for key, value in drawn["layout"].items() if key[1:5] == "axis"}
    yield from (axis for axis in shown.values() if axis.get("visible", True))


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("sweep", CASES)
def test_every_figure_can_be_drawn_of_every_sweep(name: str, sweep: str) -> None:
    drawn = plain(name, case(sweep))
    assert drawn["layout"]["title"]["text"]
    assert drawn["data"] or drawn["layout"]["annotations"][0]["text"]
    assert "NaN" not in draw(name, *case(sweep)).to_json()  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_has_a_title_and_numbers_have_a_unit(name: str) -> None:
    drawn = plain(name, case("mixed"))
    countable = ("epoch", "optimizer step", "parameter", "")
    titles = [axis["title"]["text"] for axis in axes(drawn)]
    titles += [axis["label"] for axis in drawn["data"][0].get("dimensions", ())]
    assert titles
    for axis in axes(drawn):
        empty = not axis["title"]["text"]  # only where another axis beside or below has it
        assert not empty or axis["showticklabels"] is False
    ignored = (*countable, "schedule family", "final_fraction")
    assert all("(" in title for title in titles if title not in ignored), titles


def test_the_atlas_has_a_line_for_each_trial() -> None:
    sweep = case("mixed")
    drawn = plain("atlas", sweep)
    assert sorted(one["name"] for one in lines(drawn)) == sorted(map(trial_name, sweep[1]))
    for button in drawn["layout"]["updatemenus"][0]["buttons"]:
        coordinates = button["args"][0]
        assert len(coordinates["x"]) == len(coordinates["y"]) == len(drawn["data"])


def test_the_atlas_is_coloured_by_outcome() -> None:
    record, trials = case("many")
    drawn = plain("atlas", (record, trials))
    colours = {one["name"]: one["line"]["color"] for one in lines(drawn)}
    for trial in trials:
        if trial.state != "complete":
            assert colours[trial_name(trial)] == COLOURS[trial.state]
    complete = [t for t in leaderboard(record.config, trials) if t.state == "complete"]
    assert colours[trial_name(complete[0])] == on_scale(1)
    assert colours[trial_name(complete[-1])] == on_scale(0)
    marks = {
        trace["name"].split()[0]: trace for trace in drawn["data"] if trace.get("meta") == "ends"
    }
    assert marks["diverged"]["marker"]["symbol"] == "x"
    for state, mark in marks.items():
        ended = [trial for trial in trials if trial.state == state]
        assert len(mark["x"]) == len(ended)
        assert mark["name"] == f"{state} ({len(ended)})"
        ends = sorted(len(trial.reports) * record.steps_per_epoch - 1 for trial in ended)
        assert sorted(mark["x"]) == ends


@pytest.mark.parametrize(
    ("metric", "goal"), [("val_accuracy", "maximize"), ("val_loss", "minimize")]
)
def test_the_best_has_the_best_colour_whatever_the_goal(metric: str, goal: str) -> None:
    config = config_of(CONFIG, **{"search.metric": metric})
    record, trials = made_up(20, config=config, states=("complete",))
    assert record.config.search.goal == goal
    drawn = plain("atlas", (record, trials))
    colours = {one["name"]: one["line"]["color"] for one in lines(drawn)}
    ranked = leaderboard(record.config, trials)
    assert colours[trial_name(ranked[0])] == on_scale(1)
    assert colours[trial_name(ranked[-1])] == on_scale(0)
    (bar,) = (trace for trace in drawn["data"] if trace.get("meta") == "scale")
    end = {"maximize": -1, "minimize": 0}[goal]
    assert bar["marker"]["colorscale"][end][1] == on_scale(1)


def test_the_colour_of_a_share() -> None:
    assert on_scale(0) == "#b9a98b"
    assert on_scale(0.75) == "#3c82c8"


def test_a_curve_in_the_atlas_is_the_applied_one_thinned() -> None:
    record, trials = case("mixed")
    for curve in atlas_curves(record, trials):
        whole = applied_curve(record, curve.trial)
        assert whole.values is not None
        run = whole.values[: len(curve.trial.reports) * record.steps_per_epoch]
        assert (curve.steps[0], curve.steps[-1]) == (0, len(run) - 1)
        assert len(curve.steps) <= 120
        np.testing.assert_array_equal(curve.values, run[curve.steps])
        filled = np.interp(np.arange(len(run)), curve.steps, curve.values)
        np.testing.assert_allclose(filled, run, atol=0.05 * curve.peak)


def test_what_the_hashes_do_not_confirm_is_not_drawn() -> None:
    record, trials = made_up(1, config=config_of(CONFIG), states=("complete",))
    reports = [*trials[0].reports]
    reports[3] = reports[3] | {"learning_rate_sha256": "0" * 64}
    (curve,) = atlas_curves(record, [trials[0]._replace(reports=tuple(reports))])
    assert curve.steps[-1] == 3 * record.steps_per_epoch - 1


def test_a_trial_without_an_epoch_shows_its_plan_dotted() -> None:
    record, trials = made_up(1, config=config_of(CONFIG), states=("running",))
    waiting = trials[0]._replace(reports=(), value=None)
    (line,) = lines(plain("atlas", (record, [waiting])))
    assert line["line"]["dash"] == "dot"
    assert line["x"][-1] == 6 * record.steps_per_epoch - 1


def test_the_normalised_atlas_lies_between_0_and_1() -> None:
    record, trials = case("many")
    drawn = plain("atlas", (record, trials))
    raw, normal = drawn["layout"]["updatemenus"][0]["buttons"]
    assert raw["args"][0]["y"] == [one["y"] for one in drawn["data"]]
    coordinates, layout = normal["args"]
    assert layout["xaxis"]["title"]["text"] == "fraction of training"
    for index, curve in enumerate(atlas_curves(record, trials)):
        x, y = coordinates["x"][index], coordinates["y"][index]
        assert x[0] == 0
        assert (x[-1] == 1) == (curve.state == "complete")
        assert 0 <= min(y) <= max(y) <= 1
        if curve.state == "complete":
            assert max(y) == 1


@pytest.mark.parametrize(("sweep", "kind"), [("many", "log"), ("narrow", "linear")])
def test_the_atlas_is_logarithmic_where_rates_span_decades(sweep: str, kind: str) -> None:
    layout = plain("atlas", case(sweep))["layout"]
    assert layout["yaxis"]["type"] == kind
    raw, _ = layout["updatemenus"][0]["buttons"]
    assert raw["args"][1]["yaxis"]["type"] == kind


def test_what_diverged_far_above_the_others_is_out_of_view() -> None:
    def curve(state: str, peak: float) -> Curve:
        trial = case("mixed")[1][0]
        return Curve(trial, state, np.array([0]), np.array([peak]), peak, False)

    near, far = curve("diverged", 2.0), curve("diverged", 1e20)
    complete = curve("complete", 0.1)
    assert in_view([complete, near, far]) == [complete, near]
    assert in_view([near, far]) == [near, far]  # nothing else to look at


def test_most_of_every_curve_lies_on_the_logarithmic_axis() -> None:
    record, trials = case("many")
    low, high = plain("atlas", (record, trials))["layout"]["yaxis"]["range"]
    for curve in atlas_curves(record, trials):
        seen = (curve.values >= 10**low) & (curve.values <= 10**high)
        assert seen.mean() > 0.5


def test_the_best_five_have_three_panels_over_one_axis() -> None:
    record, trials = case("many")
    drawn = plain("best_trials", (record, trials))
    complete = [t for t in trials if t.state == "complete"]
    best = leaderboard(record.config, complete)[:5]
    assert len(drawn["data"]) == 15
    assert {trace["name"] for trace in drawn["data"]} == set(map(trial_name, best))
    assert all(trace.get("xaxis", "x") == "x" for trace in drawn["data"])
    accuracy, loss, rates = drawn["data"][:3]
    assert accuracy["y"] == [report["val_accuracy"] for report in best[0].reports]
    assert loss["y"] == [report["train_loss"] for report in best[0].reports]
    assert accuracy["x"] == [1, 2, 3, 4, 5, 6]
    assert rates["x"][-1] == 6 - 1 / record.steps_per_epoch


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        ("exponential_decay: {peak_lr: {uniform: [0.1, 1]}, decay_rate: 1e-4}", "log"),
        ("constant: {peak_lr: {uniform: [0.1, 1]}}", None),
    ],
)
def test_the_rates_of_the_best_are_logarithmic_where_they_span_decades(
    schedule: str, kind: str | None
) -> None:
    text = (
        f"{CONFIG.partition('  schedule:')[0]}  schedule: {{{schedule}}}\nsearch: {{num_trials: 3}}"
    )
    record, trials = made_up(3, config=config_of(text), states=("complete",))
    layout = plain("best_trials", (record, trials))["layout"]
    assert layout["yaxis3"].get("type") == kind


def test_families_are_counted_and_hold_their_own_results() -> None:
    record, trials = case("many")
    drawn = plain("families", (record, trials))
    boxes = [trace for trace in drawn["data"] if trace["type"] == "box"]
    assert len(boxes) == 3
    for box in boxes:
        family, _, count = box["name"].partition(" ")
        own = [trial for trial in trials if trial.parameters["schedule"] == family]
        assert count == f"({len(own)})"
        assert sorted(box["x"]) == sorted(results_of(own))
    best = leaderboard(record.config, trials)[0].parameters["schedule"]
    assert drawn["layout"]["yaxis"]["categoryarray"][-1].startswith(best)


@pytest.mark.parametrize("name", ["families", "slices", "history"])
def test_pruned_and_diverged_trials_are_marked(name: str) -> None:
    record, trials = case("mixed")
    drawn = plain(name, (record, trials))
    across, upright = ("y", "x") if name == "families" else ("x", "y")
    numbers = {trace.get("name"): trace for trace in drawn["data"] if trace.get("showlegend", 1)}
    for state in ("pruned", "diverged"):
        found = [trial for trial in trials if trial.state == state]
        mark = numbers[f"{state} ({len(found)})"]
        assert mark["marker"]["color"] == COLOURS[state]
        assert len(mark[across]) == len(found)
    assert numbers["diverged (5)"]["marker"]["symbol"] == "x"
    (bottom,) = set(numbers["diverged (5)"][upright])
    assert bottom < min(trial.value for trial in trials if trial.value is not None)


def test_slices_have_a_panel_for_each_free_parameter() -> None:
    record, trials = case("mixed")
    drawn = plain("slices", (record, trials))
    layout = drawn["layout"]
    names = ["peak_lr", "momentum", "final_fraction", "cycle_epochs"]
    keys = [trace["xaxis"] for trace in drawn["data"]]
    panels = {
        trace["meta"]["parameter"]: layout[f"xaxis{key[1:]}"]
        for trace, key in zip(drawn["data"], keys, strict=True)
    }
    assert list(panels) == names
    kinds = [panels[name].get("type", "linear") for name in names]
    assert kinds == ["log", "linear", "category", "linear"]
    assert panels["cycle_epochs"]["title"]["text"] == "cycle_epochs (epochs)"
    for trace in drawn["data"]:
        if trace["meta"] == {"state": "complete", "parameter": "momentum"}:
            complete = [trial for trial in trials if trial.state == "complete"]
            assert trace["x"] == [trial.parameters["momentum"] for trial in complete]


def test_importances_are_those_of_full_length_trials() -> None:
    record, trials = made_up(60, config=config_of(CONFIG), states=("complete",))
    decided = [t._replace(value=1 - abs(t.parameters["momentum"] - 0.4)) for t in trials]
    misleading = [
        t._replace(state="pruned", number=100 + t.number, value=float(t.parameters["peak_lr"]))
        for t in trials
    ]
    drawn = importances(record, decided).to_plotly_json()
    assert importances(record, [*decided, *misleading]).to_plotly_json() == drawn
    assert "(full-length trials: 60)" in drawn["layout"]["title"]["text"]
    everything = drawn["data"][0]
    assert everything["y"][-1] == "momentum"
    assert set(everything["y"]) == {"momentum", "peak_lr", "schedule family"}
    assert everything["x"][-1] > 0.6
    assert sum(everything["x"]) == pytest.approx(1, abs=0.01)
    assert {"cycle_epochs", "peak_lr", "momentum"} in [set(bars["y"]) for bars in drawn["data"]]


@pytest.mark.parametrize(
    ("change", "number", "said"),
    [
        ({}, 9, "needs more trials: 10 full-length ones, got 9"),
        ({"value": 0.5}, 12, "needs more trials: all full-length ones came to the same value"),
        ({"state": "pruned"}, 40, "needs more trials: 10 full-length ones, got 0"),
    ],
)
def test_importances_say_what_they_lack(change: dict[str, Any], number: int, said: str) -> None:
    record, trials = made_up(number, config=config_of(CONFIG), states=("complete",))
    drawn = importances(record, [trial._replace(**change) for trial in trials]).to_plotly_json()
    assert not drawn["data"]
    assert drawn["layout"]["annotations"][0]["text"] == said


def test_parallel_coordinates_follow_complete_trials() -> None:
    record, trials = case("many")
    (trace,) = plain("parallel", (record, trials))["data"]
    complete = [trial for trial in trials if trial.state == "complete"]
    *dimensions, result = trace["dimensions"]
    assert result["values"] == [trial.value for trial in complete]
    assert {len(dimension["values"]) for dimension in dimensions} == {len(complete)}
    labels = [dimension["label"].partition(" (")[0] for dimension in dimensions]
    names = {"schedule family", "peak_lr", "momentum", "final_fraction", "cycle_epochs"}
    assert set(labels) == names
    peaks = dimensions[labels.index("peak_lr")]["values"]
    assert peaks == pytest.approx([np.log10(t.parameters["peak_lr"]) for t in complete], abs=1e-4)
    fractions = dimensions[labels.index("final_fraction")]
    without = [t.parameters["schedule"] != "cosine_decay" for t in complete]
    assert [value == fractions["range"][0] for value in fractions["values"]] == without
    assert fractions["ticktext"] == ["0", "0.1", "none"]


def test_a_range_in_one_family_and_numbers_to_choose_from_in_another_are_one_axis() -> None:
    record, trials = case("unlike")
    (trace,) = plain("parallel", (record, trials))["data"]
    (peaks,) = [one for one in trace["dimensions"] if one["label"].startswith("peak_lr (")]
    expected = [np.log10(trial.parameters["peak_lr"]) for trial in trials]
    assert peaks["values"] == pytest.approx(expected, abs=1e-4)
    panels = plain("slices", (record, trials))
    (x,) = [t["x"] for t in panels["data"] if t["meta"]["parameter"] == "peak_lr"]
    assert x == [trial.parameters["peak_lr"] for trial in trials]
    assert panels["layout"]["xaxis"]["type"] == "log"
    assert "peak_lr" in plain("importances", (record, trials))["data"][0]["y"]


@pytest.mark.parametrize(("sweep", "best"), [("many", np.maximum), ("loss", np.minimum)])
def test_history_follows_the_order_of_ends(sweep: str, best: np.ufunc) -> None:
    record, trials = case(sweep)
    by_end = sorted((t for t in trials if t.ended_ms), key=lambda t: (t.ended_ms, t.number))
    ended = [trial for trial in by_end if trial.state in ("complete", "pruned", "diverged")]
    drawn = plain("history", (record, trials))
    (line,) = lines(drawn)
    values = results_of(ended)
    places = [place for place, t in enumerate(ended, start=1) if t.state == "complete"]
    reached = dict(zip(line["x"], line["y"], strict=True))
    assert [reached[place] for place in places] == best.accumulate(values).tolist()
    marks = [trace for trace in drawn["data"] if trace["mode"] == "markers"]
    assert sorted(x for mark in marks for x in mark["x"]) == list(range(1, len(ended) + 1))


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(CommandError, match=r"one of atlas, best_trials, .*, but got atlsa"):
        draw("atlsa", *case("one"))
