"""What a person sees in a browser: MLflow's pages of a sweep with every kind of end, and our own.

SWEEP_SCREENSHOTS=folder pytest tests/browser    keeps a picture of each page
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from sweep.delivery import Status, read_status
from sweep.directory import read_sweep
from sweep.figures import FIGURES
from sweep.records import SweepRecord, TrialRecord
from sweep.results import best_trial, trial_name
from tests.missing import missing
from tests.sweep.test_launch import WITH_DIVERGING, overrides, run
from tests.sweep.test_ui import Running, serving

pytestmark = pytest.mark.slow

PATIENCE_MS = 120_000.0  # for a busy machine; a page takes a second or two
# What MLflow's pages ask of a server without its users; the answer is a 404, which they expect.
MLFLOW_ERRORS = ("/ajax-api/2.0/mlflow/users/current",)


class Home(NamedTuple):
    """A finished sweep, its copy under another name aside."""

    folder: Path
    sweep: SweepRecord
    trials: list[TrialRecord]
    status: Status


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    settings = [*WITH_DIVERGING, "training.num_epochs=8", "search.num_trials=16"]
    done = run(folder, "launch", "quickstart", "--name", "rates", *overrides(*settings))
    assert done.returncode == 0, done.stderr
    directory = folder / "sweeps" / "rates"
    record, trials = read_sweep(directory)
    assert {"complete", "pruned", "diverged"} <= {trial.state for trial in trials}
    return Home(folder, record, trials, read_status(directory))


@pytest.fixture(scope="module")
def ui(home: Home) -> Iterator[Running]:
    with serving(home.folder, "rates", "--no-open") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium must be on the path for tests of pages")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that reaches this machine alone; it must not try more, nor meet an error."""
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    outside: list[str] = []
    errors: list[str] = []

    def look(url: str) -> bool:
        parts = urlsplit(url)
        inside = parts.scheme in ("file", "data", "blob") or parts.hostname == "127.0.0.1"
        if not inside:
            outside.append(url)
        return inside

    def hear(said: ConsoleMessage) -> None:
        if said.type == "error":
            errors.append(f"{said.text} {said.location.get('url', '')}")

    context.route(
        "**/*", lambda route: route.continue_() if look(route.request.url) else route.abort()
    )
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", hear)
    yield opened
    context.close()
    assert not outside
    assert not [error for error in errors if not error.endswith(MLFLOW_ERRORS)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SWEEP_SCREENSHOTS") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_page(ui: Running, home: Home, tab: str = "") -> str:
    """The address of a tab of the sweep's own run."""
    path = f"experiments/{home.status.experiment_id}/runs/{home.status.parent_run_id}"
    return f"{ui.address}/#/{path}{tab}?workflowType=machine_learning"


def without_assistant(page: Page) -> None:
    """Closes the panel that MLflow opens at a first visit."""
    page.get_by_role("button", name="Close", exact=True).first.click()


def test_the_experiment_lists_the_sweep_and_its_trials_beneath(
    page: Page, ui: Running, home: Home, pictures: Path
):
    (address,) = re.findall(r"MLflow UI: (\S+)", ui.lines[0])
    page.goto(address)
    parent = page.get_by_role("link", name="rates", exact=True)
    expect(parent).to_be_visible()
    without_assistant(page)
    best = best_trial(home.sweep.config, home.trials)
    assert best is not None
    row = page.get_by_role("link", name=trial_name(best), exact=True)
    expect(row).to_have_count(0)
    page.locator(".ag-row").filter(has=parent).get_by_role("button").first.click()
    expect(row).to_be_visible()
    for trial in home.trials:
        expect(page.get_by_role("link", name=trial_name(trial), exact=True)).to_have_count(1)
    for column in ("state", "family", "val_accuracy", "best_val_accuracy", "epoch", "momentum"):
        header = page.locator(".ag-header-cell").get_by_text(column, exact=True)
        expect(header.first).to_be_visible()
    for state in ("complete", "pruned", "diverged"):
        expect(page.locator(".ag-cell").get_by_text(state, exact=True).first).to_be_visible()
    page.screenshot(path=pictures / "runs.png")


def test_the_description_names_the_winner(page: Page, ui: Running, home: Home, pictures: Path):
    page.goto(run_page(ui, home))
    best = best_trial(home.sweep.config, home.trials)
    assert best is not None
    expect(page.get_by_text(trial_name(best)).first).to_be_visible()
    without_assistant(page)
    page.screenshot(path=pictures / "sweep.png", full_page=True)


def test_learning_rates_of_several_runs_lie_over_each_other(
    page: Page, ui: Running, home: Home, pictures: Path
):
    chosen = [trial for trial in home.trials if trial.state != "diverged"][:5]
    runs = [home.status.trials[trial.number].run_id for trial in chosen]
    page.goto(metric_page(ui, home, "learning_rate", runs))
    plot = page.locator(".js-plotly-plot").first
    expect(plot.locator(".scatterlayer .trace").nth(len(runs) - 1)).to_be_visible()
    without_assistant(page)
    names = plot.evaluate(
        "drawn => drawn.data.filter(line => line.x.length > 1).map(line => line.name)"
    )
    for trial in chosen:
        assert any(str(name).startswith(trial_name(trial)) for name in names), names
    page.screenshot(path=pictures / "learning_rate.png")


def metric_page(ui: Running, home: Home, metric: str, runs: Sequence[str]) -> str:
    """The address of MLflow's page of one metric of several runs."""
    query = {"runs": runs, "metric": metric, "experiments": [home.status.experiment_id]}
    query |= {"plot_metric_keys": [metric], "plot_layout": {"autosize": True}}
    fields = "&".join(f"{key}={quote(json.dumps(value))}" for key, value in query.items())
    return f"{ui.address}/#/metric?{fields}&x_axis=step&workflowType=machine_learning"


def test_the_atlas_and_the_report_are_drawn_among_the_artifacts(
    page: Page, ui: Running, home: Home, pictures: Path
):
    page.goto(run_page(ui, home, "/artifacts/atlas.html"))
    frame = page.frame_locator("iframe")
    plot = frame.locator(".js-plotly-plot").first
    expect(plot.locator(".scatterlayer .trace").nth(len(home.trials) - 1)).to_be_attached()
    without_assistant(page)
    page.wait_for_timeout(1000)  # the frame gets wider, and the figure with it
    page.screenshot(path=pictures / "atlas.png")
    page.get_by_text("report.html", exact=True).first.click()
    expect(frame.get_by_text("val_accuracy").first).to_be_visible()
    expect(frame.locator(".js-plotly-plot").first).to_be_visible()
    page.screenshot(path=pictures / "report-artifact.png")


def test_the_report_needs_no_server(page: Page, home: Home, pictures: Path):
    printed_report(home, "report", "rates", "-o", "report.html")
    page.goto((home.folder / "report.html").as_uri())
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.screenshot(path=pictures / "report.png")
    for name in FIGURES:
        place = page.locator(f"#{name}")
        place.scroll_into_view_if_needed()
        expect(place.locator(".main-svg").first).to_be_visible()
        place.screenshot(path=pictures / f"figure-{name}.png")


def printed_report(home: Home, *arguments: str) -> None:
    done = run(home.folder, *arguments)
    assert done.returncode == 0, done.stderr


def test_two_sweeps_are_compared_without_a_server(page: Page, home: Home, pictures: Path):
    settings = overrides("training.num_epochs=8", "search.num_trials=4", "search.algorithm=random")
    printed_report(home, "launch", "quickstart", "--name", "few", *settings)
    printed_report(home, "compare", "rates", "few", "-o", "compare.html")
    page.goto((home.folder / "compare.html").as_uri())
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    expect(page.get_by_text("few").first).to_be_visible()
    page.screenshot(path=pictures / "compare.png")
    for name in ("atlases", "results"):
        place = page.locator(f"#{name}")
        place.scroll_into_view_if_needed()
        expect(place.locator(".main-svg").first).to_be_visible()
        place.screenshot(path=pictures / f"compare-{name}.png")
