"""The pages of a sweep: whole in themselves, small, escaped; and the commands that write them."""

import json
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from benchmarks.pages import made_up
from search_spaces import load_config, preset_path
from sweep.comparison import compare_html, comparison, comparison_rows, warning
from sweep.directory import create_ledger
from sweep.figures import FIGURES, draw
from sweep.records import SweepRecord, TrialRecord
from sweep.report import atlas_png, figure_html, report_html

SWEEP = str(Path(sys.executable).with_name("sweep"))
HOSTILE = "</script><script>document.title = 'taken'</script><b>&amp;"
LOADING = {"src", "href", "action", "data", "poster", "srcset"}

Sweep = tuple[SweepRecord, list[TrialRecord]]


class Page(HTMLParser):
    """The elements of a page, with the text inside each script."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.script: str | None = None  # the id of the one that is open
        self.scripts: dict[str, str] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.script = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        self.script = None if tag == "script" else self.script

    def handle_data(self, data: str) -> None:
        if self.script is not None:
            self.scripts[self.script] = self.scripts.get(self.script, "") + data
        else:
            self.text += data


def small(name: str = "small", number: int = 12, seed: int = 0, *changes: str) -> Sweep:
    preset = preset_path("quickstart")
    assert preset is not None
    settings = [f"name={name}", "training.num_epochs=4", "search.num_trials=12", *changes]
    config = load_config(preset, settings)
    return made_up(number, config=config, seed=seed)


def results_of(trials: list[TrialRecord]) -> list[float]:
    """The values of complete trials."""
    return [t.value for t in trials if t.state == "complete" and t.value is not None]


def loads_nothing(text: str) -> Page:
    page = Page(text)
    for tag, attributes in page.elements:
        for key in LOADING & attributes.keys():
            assert (attributes[key] or "").startswith(("data:", "#")), (tag, attributes)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    return page


def test_a_report_is_whole_in_itself_and_holds_all_figures_once() -> None:
    page = loads_nothing(report_html(*small()))
    names = [
        attributes["id"] for _, attributes in page.elements if attributes.get("class") == "figure"
    ]
    assert names == list(FIGURES)
    for name in FIGURES:
        figure = json.loads(page.scripts[f"data-{name}"])
        assert set(figure) == {"data", "layout"}
    libraries = [one for one in page.elements if one[1].get("id") == "library"]
    assert len(libraries) == 1
    assert len(page.scripts["library"]) > 1_000_000


def test_a_report_says_what_won_and_what_to_do_next() -> None:
    sweep, trials = small()
    text = Page(report_html(sweep, trials)).text
    best = max((t for t in trials if t.state == "complete"), key=lambda t: t.value or 0)
    assert f"{best.number:04d}-{best.parameters['schedule']}" in text
    assert repr(best.value) in text
    for state in ("complete", "pruned"):
        assert f"{sum(t.state == state for t in trials)} {state}" in text
    assert "sweep export small -o best.yaml" in text
    assert "sweep train best.yaml" in text
    assert "sweep resume" not in text
    assert "log_uniform: [0.001, 1.0]" in text


def test_an_interrupted_sweep_is_told_how_to_go_on() -> None:
    sweep, trials = small()
    text = Page(report_html(sweep._replace(state="interrupted"), trials)).text
    assert "sweep resume small" in text
    assert "best so far" in text


def test_the_leaderboard_is_in_order() -> None:
    sweep, trials = small(number=40)
    text = report_html(sweep, trials)
    (table,) = re.findall(r"<h2>Leaderboard</h2>.*?</table>", text, re.DOTALL)
    rows = re.findall(r'<tr><td class="number">(\d+)', table)
    assert len(rows) == 20
    complete = [trial for trial in trials if trial.state == "complete"]
    expected = sorted(complete, key=lambda t: (-(t.value or 0), t.number))[:20]
    assert rows[: len(expected)] == [str(trial.number) for trial in expected]


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("state", ["complete", "diverged", "running"])
def test_a_report_of_few_trials(number: int, state: str) -> None:
    config = small()[0].config
    loads_nothing(report_html(*made_up(number, config=config, states=(state,))))


def test_five_hundred_trials_fit_into_a_small_page() -> None:
    assert len(report_html(*made_up(500)).encode()) < 10e6


def test_the_texts_of_a_person_are_shown_not_run() -> None:
    sweep, trials = small()
    sweep = sweep._replace(
        config=sweep.config.model_copy(update={"description": HOSTILE}), state="finished"
    )
    named = [
        trial._replace(parameters=trial.parameters | {"function": HOSTILE}) for trial in trials
    ]
    for text in (report_html(sweep, named), compare_html((sweep, named), (sweep, named))):
        page = Page(text)
        assert not [one for one in page.elements if one[0] == "b"]
        assert HOSTILE not in text
        scripts = [one for one in page.elements if one[0] == "script"]
        assert all(attributes.get("id") for _, attributes in scripts[:-1])
    assert escape(HOSTILE) in report_html(sweep, named)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_page_of_its_own(name: str) -> None:
    sweep, trials = small()
    page = loads_nothing(figure_html(name, sweep, draw(name, sweep, trials)))
    assert list(page.scripts) == [f"data-{name}", "library", ""]


def test_the_still_atlas_is_a_picture_even_of_nothing() -> None:
    for sweep in (small(), small(number=0), small("loss", 12, 0, "search.metric=val_loss")):
        assert atlas_png(*sweep).startswith(b"\x89PNG")
    assert len(atlas_png(*small(number=30))) > 2 * len(atlas_png(*small(number=0)))


def test_a_comparison_names_results_and_differences() -> None:
    a, b = small("one"), small("two", 8, 3, "pruning.algorithm=none")
    facts = comparison(a, b)
    assert [one["name"] for one in facts["sweeps"]] == ["one", "two"]
    assert facts["comparable"]
    assert facts["differing_keys"] == {"pruning.algorithm": ["asha", "none"]}
    for found, (_, trials) in zip(facts["families"], (a, b), strict=True):
        assert sum(family["trials"] for family in found.values()) == len(trials)
        values = [family["best"] for family in found.values() if family["complete"]]
        assert max(values) == max(results_of(trials))
    rows = {label: (one, other) for label, one, other in comparison_rows(a, b)}
    assert rows["pruning.algorithm"] == ("asha", "none")
    assert rows["trials"][1].startswith("8: ")
    assert set(rows["curve"][0]) & set("▁▂▃▄▅▆▇█")


def test_a_comparison_warns_of_results_of_different_things() -> None:
    a, b = small("one"), small("two", 12, 0, "search.metric=val_loss")
    assert warning(a, a) == ""
    assert "val_accuracy on digits" in warning(a, b)
    assert "against val_loss on digits" in warning(a, b)
    assert not comparison(a, b)["comparable"]


def test_a_compared_page_draws_both_on_shared_axes() -> None:
    a, b = small("one"), small("two", 8, seed=3)
    page = loads_nothing(compare_html(a, b))
    atlases = json.loads(page.scripts["data-atlases"])
    drawn = [trace for trace in atlases["data"] if trace.get("mode") == "lines"]
    left = [trace for trace in drawn if trace.get("xaxis", "x") == "x"]
    assert (len(left), len(drawn)) == (12, 20)
    assert atlases["layout"]["yaxis2"]["matches"] == "y"
    assert atlases["layout"]["xaxis"]["range"] == atlases["layout"]["xaxis2"]["range"]
    results = json.loads(page.scripts["data-results"])
    assert {box["name"] for box in results["data"]} == {"one", "two"}
    for sweep, trials in (a, b):
        shown = [x for box in results["data"] if box["name"] == sweep.name for x in box["x"]]
        assert sorted(shown) == sorted(results_of(trials))


@pytest.mark.slow
def test_a_browser_draws_every_figure_and_asks_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_html(*small(number=30)))
    requests, faults = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("#atlas .main-svg", state="attached", timeout=60_000)
        assert page.locator("#history .main-svg").count() == 0  # not before it is scrolled near
        for name in FIGURES:
            page.locator(f"#{name}").scroll_into_view_if_needed()
            page.wait_for_selector(f"#{name} .main-svg", state="attached", timeout=60_000)
        curves = page.locator("#atlas .scatterlayer .trace path.js-line").count()
        page.locator("#atlas .updatemenu-button").nth(1).click()
        page.wait_for_function(
            "document.querySelector('#atlas').layout.xaxis.title.text == 'fraction of training'"
        )
        browser.close()
    assert curves == 30
    assert requests == [path.as_uri()]
    assert faults == []


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SWEEP, *arguments], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two recorded sweeps."""
    home = tmp_path_factory.mktemp("home")
    for seed, name in enumerate(("one", "two")):
        sweep, trials = small(name, 4, seed=seed)
        ledger = create_ledger(
            home / "sweeps" / name,
            sweep.config,
            storage=None,
            tracking_uri="sqlite:///mlflow.db",
            steps_per_epoch=sweep.steps_per_epoch,
            facts=sweep.facts,
        )
        for trial in trials:
            number = ledger.ask()
            for report in trial.reports:
                ledger.record(number, {k: v for k, v in report.items() if k != "timestamp_ms"})
            ledger.end(number, trial.state, "")
        ledger.set_state("finished")
    return home


def test_report_writes_a_page_beside_the_person(home: Path) -> None:
    done = command(home, "report", "one")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one.html\n", "")
    assert "<title>one</title>" in (home / "one.html").read_text()
    done = command(home, "report", "one", "-o", "kept/one.html")
    assert done.returncode == 2
    assert "kept/one.html cannot be written: No such file or directory" in done.stderr
    done = command(home, "report", "one", "-o", "one.pdf")
    assert done.returncode == 2
    assert "the name must end in .html, but got one.pdf" in done.stderr


def test_compare_prints_both_and_writes_a_page(home: Path) -> None:
    done = command(home, "compare", "one", "two", "-o", "both.html")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["one", "two"]
    assert any(line.startswith("winner") for line in lines)
    assert lines[-1] == "wrote both.html"
    assert "<title>one and two</title>" in (home / "both.html").read_text()


def test_compare_as_json_is_the_same_comparison(home: Path) -> None:
    done = command(home, "compare", "one", "two", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["differing_keys"] == {}
    assert [one["trials"] for one in facts["sweeps"]] == [
        one["trials"] for one in map(json.loads, [status(home, name) for name in ("one", "two")])
    ]


def status(home: Path, name: str) -> str:
    return command(home, "status", name, "--json").stdout


@pytest.mark.slow
def test_the_report_of_a_sweep_that_was_run(tmp_path: Path) -> None:
    settings = ["search.num_trials=4", "training.num_epochs=4", "data.train_examples=128"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    done = command(tmp_path, "launch", "quickstart", "--name", "ran", *overrides)
    assert done.returncode == 0, done.stderr
    assert command(tmp_path, "report", "ran").stdout == "ran.html\n"
    page = loads_nothing((tmp_path / "ran.html").read_text())
    atlas = json.loads(page.scripts["data-atlas"])
    drawn = [trace for trace in atlas["data"] if trace.get("mode") == "lines"]
    assert len(drawn) == 4
    for trace in drawn:
        assert len(trace["x"]) >= 2, trace["name"]
