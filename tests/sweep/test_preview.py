"""`sweep preview`: what would be run, how long it may take, and some of its curves."""

import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import SweepConfig, load_config, parse_config, preset_path, presets
from search_spaces.distributions import contains
from search_spaces.space import family_parameters
from sweep.directory import create_ledger
from sweep.preview import draw_samples
from tests.commands import CONCRETE, CONFIG, SWEEP, environment, modules_of, printed, refused, run
from tests.sweep.ledgers import report
from tests.terminal import colours, plain, shown

MIRRORED = """\
version: 1
name: mirrored
description: A momentum <script>alert("x")</script> & more.
data: {dataset: digits, validation_examples: 100}
training: {optimizer: adam, num_epochs: 10, batch_size: 64}
space:
  schedule: {one_cycle: default, reduce_on_plateau: default}
  momentum_schedule: {mirror: {low: 0.85, high: {uniform: [0.9, 0.98]}}}
enqueue:
  - schedule: {reduce_on_plateau: {peak_lr: 0.5, patience_fraction: 0.1, factor: 0.5}}
    momentum_schedule: {mirror: {high: 0.95}}
search: {num_trials: 4}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rates.yaml").write_text(CONFIG)
    (tmp_path / "mirrored.yaml").write_text(MIRRORED)
    return tmp_path


def preset(name: str) -> SweepConfig:
    path = preset_path(name)
    assert path is not None
    return load_config(path)


def data(folder: Path, *arguments: object) -> dict[str, Any]:
    return json.loads(printed(folder, "preview", *arguments, "--json"))


@pytest.mark.parametrize(
    ("arguments", "drawing"),
    [([], False), (["--json"], False), (["--png", "a.png"], True), (["--html", "a.html"], True)],
)
def test_it_imports_nothing_heavy(folder: Path, arguments: list[str], drawing: bool) -> None:
    found = modules_of(folder, "preview", "mirrored.yaml", *arguments)
    assert "sweep.preview" in found
    assert not {"jax", "ray", "mlflow", "optuna"} & found
    assert ("matplotlib" in found) is drawing


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([], "data digits, validated on 100 of its training examples, trained on 128"),
        (
            ["data={dataset: digits, validation_split: test}"],
            "data digits, validated on its test split",
        ),
        ([], "training cnn with sgd; 2 epochs of 2 steps, batch size 64"),
        ([], "trials 8, proposed by random to maximize val_accuracy"),
        (["search.hours=1.5"], "; none started after 1.5 hours"),
        (["search.target=0.9"], "; none started once one has reached 0.9"),
        (
            ["search.algorithm=grid", "space.schedule.constant.peak_lr={choice: [0.1, 0.2, 0.3]}"],
            "trials 3, proposed by grid",
        ),
        ([], "pruning none: every trial trains to its end"),
        (
            ["pruning.algorithm=asha"],
            "pruning asha stops all but 1 in 3 at each rung of its own family, none before 1 epoch",
        ),
        (["resources.max_concurrent=1"], ": 1 trial at a time, 1 core each"),
        (["search.num_trials=1"], ": 1 trial at a time, 1 core each"),
        (["resources.cpus_per_trial=4096"], "must fit on one node, but got 4096"),
        ([], "time not known: no earlier sweep here trained like this one"),
        ([], "schedule 1 free parameter"),
        ([], "constant peak_lr 0.001..1 log"),
        (["space.warmup_epochs={int_uniform: [0, 1]}"], "every family warmup_epochs 0..1 whole"),
        (["space.momentum={choice: [0, 0.9]}"], "every family momentum 0|0.9"),
    ],
)
def test_it_says_what_would_be_run(folder: Path, overrides: list[str], line: str) -> None:
    arguments = [word for override in overrides for word in ("--set", override)]
    text = printed(folder, "preview", "rates.yaml", *arguments)
    assert any(line in " ".join(found.split()) for found in text.splitlines()), text


def test_the_machine_is_what_the_process_may_use(folder: Path) -> None:
    script = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    script += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", script, SWEEP, "preview", "rates.yaml", "--json"]
    env = environment(CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["machine"] == {"cpus": 1, "gpus": 0}
    assert found["slots"] == {"cpus_per_trial": 1, "gpus_per_trial": 0, "concurrent": 1}


@pytest.mark.parametrize("number", [3, 17, 25, 34])
def test_the_families_take_turns(number: int) -> None:
    config = preset("all_families")
    counts = Counter(sample.family for sample in draw_samples(config, number))
    assert counts.total() == number
    assert max(counts.values()) == -(-number // len(config.space.schedule))
    assert len(counts) == min(number, len(config.space.schedule))


@pytest.mark.parametrize("name", presets())
def test_samples_are_points_of_the_space(name: str) -> None:
    config = preset(name)
    samples = list(draw_samples(config, 40))
    assert {sample.family for sample in samples} == set(config.space.schedule)
    for sample in samples:
        for key, spread in family_parameters(config.space, sample.family).items():
            flat = key.removeprefix(f"schedule.{sample.family}.")
            assert contains(spread, sample.parameters[flat]), key
        assert np.isfinite(sample.learning_rates).all()
        assert len(sample.learning_rates) % config.training.num_epochs == 0


def test_enqueued_points_come_first_and_count(folder: Path) -> None:
    samples = data(folder, "tutorial", "-n", "11")["samples"]
    assert [sample["enqueued"] for sample in samples] == [True] * 8 + [False] * (len(samples) - 8)
    assert samples[1]["parameters"]["decay_rate"] == 0.9
    assert samples[1]["last_learning_rate"] == pytest.approx(1e-4 * 0.9)
    few = data(folder, "tutorial", "-n", "2")["samples"]
    assert [sample["enqueued"] for sample in few] == [True, True]
    mirrored = data(folder, "mirrored.yaml", "-n", "3")["samples"]
    families = [sample["schedule"] for sample in mirrored]
    assert families == ["reduce_on_plateau", "one_cycle", "one_cycle"]
    assert "\n* enqueued: tried first\n" in printed(folder, "preview", "tutorial")


def test_a_point_is_shown_once(folder: Path) -> None:
    (folder / "best.yaml").write_text(CONCRETE)
    (sample,) = data(folder, "best.yaml")["samples"]
    assert (sample["peak_learning_rate"], sample["parameters"]) == (
        pytest.approx(0.1),
        {"peak_lr": 0.1, "momentum": 0.9},
    )
    two = ["--set", "space.schedule.constant.peak_lr={choice: [0.1, 0.2]}"]
    peaks = [round(s["peak_learning_rate"], 6) for s in data(folder, "rates.yaml", *two)["samples"]]
    assert sorted(peaks) == [0.1, 0.2]


def test_it_shows_the_same_each_time(folder: Path) -> None:
    assert printed(folder, "preview", "quickstart") == printed(folder, "preview", "quickstart")


def test_rows_tell_of_feedback_and_momentum(folder: Path) -> None:
    lines = printed(folder, "preview", "mirrored.yaml", "-n", "2").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("sample "))
    plateau, its_b1, cycle, b1 = lines[start + 1 : start + 5]
    assert plateau.startswith("reduce_on_plateau *  ██")
    assert plateau.endswith("factor=0.5 momentum_schedule.mirror.high=0.95 (before any plateau)")
    assert "plateau" not in cycle
    assert its_b1.split()[0] == b1.split()[0] == "b1"
    assert re.search(r"█.*▁.*█", b1)  # against the learning rate
    assert re.search(r"▁.*█.*▁", cycle)


@pytest.mark.parametrize("file", [*presets(), "mirrored.yaml"])
@pytest.mark.parametrize("width", [80, 200])
def test_it_fits_the_terminal(folder: Path, file: str, width: int) -> None:
    text = shown(folder, "preview", file, width=width)
    assert colours(text)
    lines = plain(text).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "█" in line]
    assert len(rows) >= 8
    for row in rows:  # each curve whole, with its two numbers behind it
        assert re.search(r"[▁-█]{20,40}(  log)? +\d[\d.e-]*  +\d[\d.e-]*(  \w+=|$)", row), row
    assert ("peak_lr=" in rows[0]) is (width == 200)


def test_a_narrow_terminal_gets_it_wrapped(folder: Path) -> None:
    assert "peak_lr" in shown(folder, "preview", "all_families", width=20)


def test_colour_is_for_terminals_that_want_it(folder: Path) -> None:
    assert not colours(shown(folder, "preview", "quickstart", width=80, NO_COLOR=1))
    assert "\x1b" not in printed(folder, "preview", "quickstart")


def test_the_picture_is_a_png(folder: Path) -> None:
    printed(folder, "preview", "mirrored.yaml", "--png", "a.png")
    content = (folder / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    assert width >= 600
    assert height >= 400


class Page(HTMLParser):
    """The elements of a page, and the texts of its headings of rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.heads: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "th":
            self.heads.append(data.strip())


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    printed(folder, "preview", "all_families", "--html", "a.html")
    text = (folder / "a.html").read_text()
    page = Page(text)
    assert "http" not in text
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    references = [value for name, value in page.attributes if name in ("xlink:href", "href", "src")]
    assert all(value.startswith("#") for value in references)
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", text))


def test_the_page_holds_every_sample(folder: Path) -> None:
    printed(folder, "preview", "all_families", "-n", "20", "--html", "a.html")
    page = Page((folder / "a.html").read_text())
    for family in preset("all_families").space.schedule:
        assert family in page.heads
    assert page.tags["polyline"] == 20
    assert page.tags["svg"] == 21
    assert {"data", "machine", "time"} <= set(page.heads)


def test_the_page_shows_texts_as_they_are(folder: Path) -> None:
    printed(folder, "preview", "mirrored.yaml", "--html", "a.html")
    text = (folder / "a.html").read_text()
    assert "<script" not in text
    assert "A momentum &lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; more." in text


@pytest.mark.parametrize("option", ["--png", "--html"])
def test_a_place_where_nothing_can_be_written_is_named(folder: Path, option: str) -> None:
    file = f"no/such/file.{option[2:]}"
    text = refused(folder, "preview", "rates.yaml", option, file, code=2)
    assert text.startswith(f"{file} cannot be written: ")


@pytest.mark.parametrize("option", ["--png", "--html"])
def test_no_file_of_another_kind_is_overwritten(folder: Path, option: str) -> None:
    before = (folder / "rates.yaml").read_text()
    text = refused(folder, "preview", "rates.yaml", option, "rates.yaml", code=2)
    assert text.startswith(f"the name must end in .{option[2:]}, but got rates.yaml")
    assert (folder / "rates.yaml").read_text() == before


def test_what_a_custom_function_prints_is_no_data(folder: Path) -> None:
    (folder / "loud.py").write_text("print('read')\ndef rule(t):\n    print(t)\n    return 1\n")
    custom = "space.schedule={custom: {function: 'loud.py:rule'}}"
    done = run(folder, "preview", "rates.yaml", "--set", custom, "--json")
    assert json.loads(done.stdout)["families"] == ["custom"]
    assert done.stderr.startswith("read\n0\n1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preview", "rates.yaml", "--set", "training.batch_size=0"], "--set:1:21: training.bat"),
        (["preview", "quickstrat"], "there is no file and no preset quickstrat; did you mean"),
        (
            ["preview", "rates.yaml", "--set", "space.warmup_steps=200"],
            "--set:1:20: space.warmup_steps: warmup_steps must be shorter than the training of 4",
        ),
    ],
)
def test_a_fault_is_told_as_by_check(folder: Path, arguments: list[str], message: str) -> None:
    text = refused(folder, *arguments, code=2)
    assert text.startswith(message)
    assert text == refused(folder, "check", *arguments[1:], code=2)


@pytest.fixture
def earlier(folder: Path) -> Path:
    """A folder with a sweep that pruned one of three trials; its epochs took 1 to 5 seconds."""
    config = parse_config(CONFIG, overrides=["pruning.algorithm=asha"])
    ledger = create_ledger(
        folder / "sweeps" / "earlier",
        config,
        storage=None,
        tracking_uri="sqlite:///none.db",
        steps_per_epoch=2,
        facts={},
    )
    for state, seconds in [("complete", [1, 5]), ("pruned", [3]), ("complete", [4, 2])]:
        number = ledger.ask()
        for epoch, one in enumerate(seconds, start=1):
            ledger.record(number, report(epoch, seconds=one))
        ledger.end(number, state, "")
    return folder


PRUNED = ["pruning.algorithm=asha"]
ONE_BY_ONE = ["resources.max_concurrent=1"]


@pytest.mark.parametrize(
    ("overrides", "low", "high"),
    [
        (ONE_BY_ONE, 2 * 16, 4 * 16),  # 8 trials of 2 epochs
        ([*ONE_BY_ONE, *PRUNED], 2 * 16 * 5 / 6, 4 * 16),
        ([*ONE_BY_ONE, "training.num_epochs=4", "training.seed=7"], 2 * 32, 4 * 32),
        ([*ONE_BY_ONE, "search.num_trials=1"], 2 * 2, 4 * 2),
        (["resources.cpus_per_trial=0.001", "search.num_trials=1"], 2 * 2, 4 * 2),
        (["resources={max_concurrent: 2, cpus_per_trial: 0.001}"], 2 * 8, 4 * 8),
    ],
)
def test_time_follows_from_an_earlier_sweep(
    earlier: Path, overrides: list[str], low: float, high: float
) -> None:
    arguments = [word for override in overrides for word in ("--set", override)]
    found = data(earlier, "rates.yaml", *arguments)["estimate"]
    assert found["sweeps"] == ["earlier"]
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_the_estimate_is_put_into_words(earlier: Path) -> None:
    def time(*overrides: str, **variables: object) -> str:
        arguments = [word for override in (*ONE_BY_ONE, *overrides) for word in ("--set", override)]
        text = printed(earlier, "preview", "rates.yaml", *arguments, **variables)
        (line,) = [line for line in text.splitlines() if line.startswith("time ")]
        return " ".join(line.split()[1:])

    assert time() == "32 to 64 s of training, 2 to 4 s for an epoch as in earlier"
    assert time("training.num_epochs=60").startswith("16 to 32 min of training, ")
    assert time("search.num_trials=900").startswith("1 to 2 h of training, ")
    assert time(SWEEP_DIR=earlier / "none").startswith("not known: ")


@pytest.mark.parametrize(
    "override",
    [
        "training.batch_size=32",
        "training.optimizer=momentum",
        "data.train_examples=64",
        "data.validation_examples=101",
    ],
)
def test_a_sweep_of_another_training_tells_nothing(earlier: Path, override: str) -> None:
    assert data(earlier, "rates.yaml", "--set", override)["estimate"] is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "not: a sweep"),
        ("config.yaml", None),
        ("trials/0000/metrics.jsonl", "{]\n"),
        ("trials/0000/metrics.jsonl", '{"epoch": 1}\n'),
    ],
)
def test_a_damaged_sweep_tells_nothing(earlier: Path, name: str, content: str | None) -> None:
    path = earlier / "sweeps" / "earlier" / name
    assert path.exists()
    path.unlink() if content is None else path.write_text(content)
    done = run(earlier, "preview", "rates.yaml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["estimate"] is None
