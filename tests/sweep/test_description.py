"""The description of a sweep's run in MLflow."""

import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from search_spaces import SweepConfig, is_concrete, parse_config
from sweep.description import MAX_DESCRIPTION_LENGTH, description, escaped, hours
from sweep.progress import conclusion
from sweep.records import SweepRecord, TrialRecord
from tests.tracked import CONFIG, EPOCHS, all_outcomes, sweep_record, trial_record

RENDER = MarkdownIt("commonmark", {"html": True}).enable("table")


def finished(folder: Path, **changes: Any) -> SweepRecord:
    return sweep_record(folder, "", **({"state": "finished"} | changes))


def with_overrides(*overrides: str) -> SweepConfig:
    return parse_config(CONFIG, overrides=list(overrides))


def rows(text: str) -> list[list[str]]:
    """The cells of the table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def block(text: str) -> str:
    """The config in the description, as a reader of markdown finds it."""
    (found,) = [token.content for token in RENDER.parse(text) if token.info == "yaml"]
    return found


def test_it_tells_what_won_and_how_to_have_it_again(tmp_path: Path) -> None:
    trials = [
        trial_record(0, "complete", value=0.5),
        trial_record(1, "complete", peak_lr=0.1, value=0.75),
        trial_record(2, "pruned", 2, value=0.99),
        trial_record(3, "diverged", 1, value=None),
    ]
    text = description(finished(tmp_path), trials)
    assert "**Winner: trial 1, `cosine_decay`, val_accuracy 0.75**" in text
    assert "trains `cnn` best on `digits`, with `sgd`, 4 epochs and batches of 64" in text
    assert "**finished** with **4 of 4 trials**: 2 complete, 1 pruned, 1 diverged" in text
    best = parse_config(block(text))
    assert is_concrete(best)
    assert best.expected is not None
    assert (best.expected["trial"], best.expected["value"]) == (1, 0.75)
    for command in (
        "sweep resume tracked-1 --num-trials 8",
        "sweep report tracked-1 -o report.html",
        "sweep export tracked-1 -o best.yaml",
        "sweep train best.yaml",
    ):
        assert command in text.splitlines()


GRID = ("search={algorithm: grid, num_trials: 2}", "space.momentum={choice: [0, 0.9]}")
FIXED = [f"space.schedule.{family}.peak_lr=0.1" for family in ("constant", "cosine_decay")]


@pytest.mark.parametrize(
    ("overrides", "state", "resume"),
    [
        (["search={algorithm: tpe, hours: 1.5}"], "finished", " --hours 3"),
        (["search.hours=1.5", "search.num_trials=9"], "finished", " --hours 3"),
        (["search.hours=1.5", "search.num_trials=2"], "finished", " --num-trials 4"),
        (["search.num_trials=9"], "stopped", " --num-trials 9"),
        (["search.num_trials=9", "search.target=0.5"], "finished", None),
        (["search.num_trials=9", "search.target=0.6"], "stopped", " --num-trials 9"),
        ([*GRID, *FIXED], "finished", None),
        ([*GRID, *FIXED], "cancelled", None),
        ([*GRID, *FIXED], "interrupted", ""),
        ([*GRID, *FIXED, "search.num_trials=3"], "stopped", " --num-trials 3"),
    ],
)
def test_a_resume_is_named_that_goes_on(
    overrides: list[str], state: str, resume: str | None, tmp_path: Path
) -> None:
    sweep = finished(tmp_path, state=state, config=with_overrides(*overrides))
    trials = [trial_record(number, "complete", value=0.5) for number in (0, 1)]
    lines = description(sweep, trials).splitlines()
    named = [line for line in lines if line.startswith("sweep resume")]
    assert named == ([] if resume is None else [f"sweep resume tracked-1{resume}"])
    if state in ("stopped", "cancelled"):
        said = "\n".join(conclusion(sweep, trials, delivered=True))
        assert ("nothing left to search" in said) == (resume is None)
        assert resume is None or f"sweep resume {tmp_path.name}{resume}" in said


@pytest.mark.parametrize(
    ("state", "expected", "command"),
    [
        ("running", "is trained yet to its last epoch", "sweep status tracked-1"),
        ("interrupted", "is trained yet to its last epoch", "sweep resume tracked-1"),
        ("paused", "is trained yet to its last epoch", "sweep resume tracked-1"),
        ("failed", "was trained to its last epoch", "sweep resume tracked-1 --num-trials 4"),
    ],
)
def test_a_sweep_without_a_winner(state: str, expected: str, command: str, tmp_path: Path) -> None:
    text = description(finished(tmp_path, state=state), [trial_record(0, "running", 2)])
    assert expected in text
    assert command in text.splitlines()
    assert "sweep export" not in text
    word = "running" if state == "running" else "interrupted"
    assert f"**{state}** with **1 of 4 trials**: 1 {word}" in text
    assert "0 of 4 trials**: none yet" in description(finished(tmp_path, state=state), [])


def test_counts_and_hours_by_family_and_state(tmp_path: Path) -> None:
    """Each epoch takes half an hour of two cores."""
    worker = {"platform": "cpu", "num_cpus": 2}
    trials = []
    for number, trial in enumerate([*all_outcomes(), trial_record(5, "complete", value=0.1)]):
        reports = tuple(r | {"seconds": 1800.0, "worker": worker} for r in trial.reports)
        family = "constant" if number == 5 else "cosine_decay"
        parameters = trial.parameters | {"schedule": family}
        trials.append(trial._replace(reports=reports, parameters=parameters))
    heads, _, *table = rows(description(finished(tmp_path, state="running"), trials))
    states = ["complete", "pruned", "diverged", "failed", "running"]
    assert heads == ["family", "trials", *states, "best", "CPU hours"]
    assert table == [
        ["`constant`", "1", "1", "", "", "", "", "0.1", "4"],
        ["`cosine_decay`", "5", "1", "1", "1", "1", "1", "0.5714", "12"],
        ["**all**", "6", "2", "1", "1", "1", "1", "", "16"],
        ["**CPU hours**", "", "8", "2", "3", "1", "2", "", "16"],
    ]


@pytest.mark.parametrize(("share", "expected"), [("auto", 2.0), ("0.25", 0.5), ("2", 4.0)])
def test_hours_of_gpus(share: str, expected: float, tmp_path: Path) -> None:
    config = with_overrides(f"resources.gpus_per_trial={share}")
    sweep = finished(tmp_path, config=config)
    trial = trial_record(0, "complete")
    facts = {"seconds": 1800.0, "worker": {"platform": "gpu", "num_cpus": 8}}
    trial = trial._replace(reports=tuple(report | facts for report in trial.reports))
    assert len(trial.reports) == EPOCHS
    assert hours(sweep, trial) == expected
    assert "| GPU hours |" in description(sweep, [trial])
    assert "| device hours |" in description(sweep, [trial, trial_record(1, "complete")])


WORDS = [
    "# Which rate?",
    "- one\n- two",
    "1. one",
    "one\n---\ntwo\n===",
    "| a | b |\n| --- | --- |\n| c | d |",
    "<script>alert(1)</script> <img src=x onerror=alert(1)>",
    "[a link](http://example.com) ![an image](http://example.com/x.png)",
    "`code`, *stress*, __more__, ~~less~~, a\\*b",
    "```\nfence",
    "    indented",
    "> quoted &lt; &amp; <",
    "+ plus\n: colon",
    "by @ada, a@b.c @ noon: see https://example.com :smile:",
]


@pytest.mark.parametrize("words", WORDS)
def test_the_words_of_a_user_stay_words(words: str) -> None:
    html = RENDER.render(escaped(words)).strip()
    shown = re.fullmatch(r"<p>([^<>]*)</p>", html)
    assert shown, html
    plain = shown[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert plain.replace("&amp;", "&") == "\n".join(map(str.strip, words.splitlines()))


def test_names_and_addresses_become_no_links() -> None:
    """MLflow's pages make links of them."""
    assert escaped("by @ada a@b.c @ http://x.y") == r"by \@ada a@b.c @ http\://x.y"


@pytest.mark.parametrize("words", ["x" * 5000, "&" * 5000, "word " * 5000, "*\n" * 5000])
def test_long_words_are_cut(words: str, tmp_path: Path) -> None:
    config = with_overrides().model_copy(update={"description": words})
    text = description(finished(tmp_path, config=config), all_outcomes())
    assert len(text) <= MAX_DESCRIPTION_LENGTH
    assert "sweep train best.yaml" in text


def test_a_config_that_is_too_long_is_left_to_its_file(tmp_path: Path) -> None:
    config = with_overrides().model_copy(
        update={"tracking": with_overrides().tracking.model_copy(update={"experiment": "x" * 9000})}
    )
    text = description(finished(tmp_path, config=config), all_outcomes())
    assert len(text) <= MAX_DESCRIPTION_LENGTH
    assert "is the artifact `best.yaml`" in text


def test_nothing_in_a_config_ends_its_block(tmp_path: Path) -> None:
    tracking = with_overrides().tracking.model_copy(update={"experiment": "a\n```\n# b\n````\n"})
    config = with_overrides().model_copy(update={"tracking": tracking})
    text = description(finished(tmp_path, config=config), all_outcomes())
    assert parse_config(block(text)).tracking == tracking


def test_as_many_families_as_there_may_be(tmp_path: Path) -> None:
    trials: list[TrialRecord] = []
    for number in range(40):
        trial = trial_record(number, ("complete", "pruned", "diverged", "failed")[number % 4])
        parameters = trial.parameters | {"schedule": f"a_family_with_a_long_name_{number % 20}"}
        trials.append(trial._replace(parameters=parameters))
    text = description(finished(tmp_path), trials)
    assert len(text) <= MAX_DESCRIPTION_LENGTH
    assert len(rows(text)) == 20 + 4
