"""Every file of an interrupted sweep, cut off, zeroed, deleted, or with a bit flipped.

Opened again, the sweep says which file is damaged and what to do, or it has lost nothing.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sweep.delivery import read_status, shipper_command, undelivered
from sweep.directory import create_ledger, latest_driver, open_ledger, read_sweep
from sweep.errors import CommandError
from sweep.lease import driving, seconds_driven
from sweep.records import SweepRecord, TrialRecord
from sweep.results import best_config_yaml, leaderboard, summary, write_best
from sweep.study import Ledger
from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
EPOCHS = 3
# State, trained epochs, recorded epochs: a driver may die between the two.
TRIALS = (
    *(("complete", 3, 3), ("running", 2, 1), ("pruned", 2, 2), ("running", 2, 2)),
    *(("running", 3, 3), ("running", 0, 0), ("running", 2, 2)),
)
ENDED, RUNNING = "trials/0002/metrics.jsonl", "trials/0003/metrics.jsonl"
CHECKPOINT = "trials/0003/checkpoint"
STATUS, DRIVER = "tracking/status.json", "drivers/0001.json"
JOURNAL = "study.journal"
FILES = (JOURNAL, "sweep.json", "config.yaml", RUNNING, ENDED, DRIVER, STATUS, "best.yaml")


def build(directory: Path, tracking_uri: str) -> None:
    """What a child does: an interrupted sweep whose trials were trained as a worker trains them."""
    from trainers.devices import claim, describe

    claim(num_cpus=1, gpu_share=0)
    from search_spaces import load_config, planned_steps
    from sweep.facts import load_data, sweep_facts

    config = load_config(directory.parent.parent / "faults.yaml")
    data = load_data(config, None)
    create_ledger(
        directory,
        config,
        storage=None,
        tracking_uri=tracking_uri,
        steps_per_epoch=planned_steps(config),
        facts=sweep_facts(config, data),
    )
    with driving(directory) as lease:
        ledger = open_ledger(directory, lease=lease)
        ledger.set_state("running")
        worker = describe() | {"node": "127.0.0.1", "pid": os.getpid(), "num_cpus": 1}
        for state, trained, recorded in TRIALS:
            number = ledger.ask()
            for report in trained_epochs(ledger, number, data, trained)[:recorded]:
                line = report._asdict() | {"diverged": report.diverged, "worker": worker}
                ledger.record(number, line)
            if state != "running":
                ledger.end(number, state, f"so it is {state}")
        write_best(ledger.sweep(), ledger.trials())


def trained_epochs(ledger: Ledger, number: int, data: Any, epochs: int) -> list[Any]:
    from sweep.study import checkpoint_path
    from trainers.runs import fit_point
    from trainers.training import Settings

    settings = Settings(**ledger.config.training.model_dump())
    path = checkpoint_path(ledger.trials_directory, number)
    reports = fit_point(data, ledger.space(number), settings, checkpoint_path=path)
    return [report for _, report in zip(range(epochs), reports, strict=False)]


class Sound(NamedTuple):
    """A site with an interrupted sweep, what its ledger holds, and a copy of its sweeps folder."""

    here: Site
    sweep: SweepRecord
    trials: list[TrialRecord]
    copy: Path

    def restore(self) -> Path:
        """Put everything back as it was."""
        shutil.rmtree(self.here.directory.parent)
        shutil.copytree(self.copy, self.here.directory.parent)
        return self.here.directory


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sound]:
    folder = tmp_path_factory.mktemp("sound") / "site"
    with (
        site(folder, images=256, epochs=EPOCHS, trials=8) as here,
        pytest.MonkeyPatch.context() as its,
    ):
        # A connection that stays open would read a database that restore() has replaced.
        its.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        script = f"import sys, pathlib; from {__name__} import build\n"
        script += "build(pathlib.Path(sys.argv[1]), sys.argv[2])"
        for command in (
            [sys.executable, "-c", script, str(here.directory), here.tracking_uri],
            [*shipper_command(here.directory), "--once"],
        ):
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | here.environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        shutil.copytree(here.directory.parent, folder / "copy")
        yield Sound(here, *here.read(), folder / "copy")


# Damage: what becomes of a file's content, None if it is deleted

Damage = Callable[[bytes, random.Random], bytes | None]


def cut_off(content: bytes, dice: random.Random) -> bytes:
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    at_a_line = bool(ends) and dice.random() < 0.5
    return content[: dice.choice([0, *ends[:-1]]) if at_a_line else dice.randrange(len(content))]


def flipped(content: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def zeroed(content: bytes, dice: random.Random) -> bytes:
    return bytes(len(content))


def deleted(content: bytes, dice: random.Random) -> None:
    return None


def put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_off, flipped, zeroed, deleted])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_or_costs_nothing(
    file: str, damage: Damage, sound: Sound, tmp_path: Path
) -> None:
    dice = random.Random(f"{file} {damage.__name__}")
    content = (sound.copy / "faults" / file).read_bytes()
    cases = count(20, 200) if damage in (cut_off, flipped) else 1
    for case in range(cases):
        directory = tmp_path / f"{case:03}" / "faults"
        left_out = shutil.ignore_patterns("checkpoint*")  # nobody looks at them here
        shutil.copytree(sound.copy / "faults", directory, ignore=left_out)
        damaged = damage(content, dice)
        put(directory / file, damaged)
        try:
            assert_read(directory, sound)
            assert_opened(directory, sound)
        except CommandError as error:
            assert_told(error, file)
        except Exception as error:
            raise AssertionError(f"{file} became {damaged!r}") from error
        shutil.rmtree(directory)


def assert_told(error: CommandError, file: str) -> None:
    """The message names the file and a way out."""
    assert file in str(error)
    assert file in (JOURNAL, "sweep.json", "config.yaml")
    assert (
        "restore it from a backup" in str(error)
        or "from a backup" in str(error)
        or (file == "config.yaml" and "delete the file to get it back" in str(error))
    )


def assert_read(directory: Path, sound: Sound) -> None:
    """What other commands show is what was recorded, and where something is lost they say so."""
    sweep, trials = read_sweep(directory)
    assert_kept(trials, sound)
    summary(sweep, trials)
    for trial in leaderboard(sweep.config, trials):
        best_config_yaml(sweep, trial)
    undelivered(read_status(directory), trials)
    assert seconds_driven(directory) <= seconds_driven(sound.copy / "faults") + 1


def assert_opened(directory: Path, sound: Sound) -> None:
    """Opened for a resume, the ledger holds all trials, and hands out the ones that run."""
    with driving(directory, above=latest_driver(directory)) as lease:
        assert lease.number > 1 or not (directory / DRIVER).exists()
        ledger = open_ledger(directory, lease=lease)
        for number in ledger.interrupted():
            recorded = ledger.reopen(number)
            known = sound.trials[number].reports
            assert tuple(recorded) == known[: len(recorded)]
            values = ledger.study.get_trials(deepcopy=False)[number].intermediate_values
            metric = ledger.config.search.metric
            wanted = {report["epoch"]: report[metric] for report in known}
            assert values.items() <= wanted.items()
            assert len(values) >= len(recorded)
        assert_kept(ledger.trials(), sound)
        number = ledger.ask()
        assert number == len(sound.trials)


def assert_kept(trials: list[TrialRecord], sound: Sound) -> None:
    assert [trial.number for trial in trials] == [trial.number for trial in sound.trials]
    for trial, was in zip(trials, sound.trials, strict=True):
        assert (trial.parameters, trial.space) == (was.parameters, was.space)
        assert trial.curve_sha256 == was.curve_sha256
        assert trial.reports == was.reports[: len(trial.reports)]
        assert trial.state in (was.state, "running")
        if trial.state == was.state != "running":
            # Its figures are in the file alone, so what it lacks is said.
            assert (trial.damage != "") == (trial.reports != was.reports)
            assert trial.value == was.value or trial.state != "complete"
        if trial.state != was.state:  # its end was lost, its figures were not
            assert trial.reports == was.reports


# The real command


@pytest.mark.parametrize(
    ("file", "damage"),
    [(JOURNAL, flipped), (JOURNAL, deleted), ("sweep.json", cut_off), ("sweep.json", deleted)],
)
def test_the_command_names_the_file_and_a_way_out(file: str, damage: Damage, sound: Sound) -> None:
    directory = sound.restore()
    put(directory / file, damage((directory / file).read_bytes(), random.Random(1)))
    text = sound.here.run("resume", "faults", code=1)
    assert f"faults/{file}" in text or f"faults is not a sweep: it holds no {file}" in text
    assert "from a backup" in text
    assert "Traceback" not in text


def first_line_flipped(content: bytes, dice: random.Random) -> bytes:
    line, rest = content.split(b"\n", 1)
    return flipped(line, dice) + b"\n" + rest


def end_cut_off(content: bytes, dice: random.Random) -> bytes:
    return content[: -dice.randint(1, 9)]


RECOVERED: list[tuple[str, Damage]] = [
    ("config.yaml", zeroed),
    (RUNNING, first_line_flipped),
    ("trials/0001/metrics.jsonl", zeroed),
    (CHECKPOINT, flipped),
    ("trials/0004/metrics.jsonl", deleted),
    ("trials/0006/metrics.jsonl", cut_off),
    ("trials/0006/checkpoint", zeroed),
    ("trials/0006/checkpoint.previous", deleted),
    (DRIVER, zeroed),
    (STATUS, end_cut_off),
    ("best.yaml", zeroed),
    (JOURNAL, end_cut_off),
]


@pytest.mark.parametrize("number", [None, *range(count(0, len(RECOVERED)))])
def test_a_resume_brings_back_what_was_lost(number: int | None, sound: Sound) -> None:
    """From the checkpoints, or by training again; all at once, and in full also one by one."""
    directory = sound.restore()
    dice = random.Random(0)
    for file, damage in RECOVERED if number is None else [RECOVERED[number]]:
        put(directory / file, damage((directory / file).read_bytes(), dice))
    accepted = {trial.number: trial.parameters for trial in sound.trials}
    text = sound.here.run()
    assert "Traceback" not in text
    assert_nothing_lost(sound.here, accepted)
    trials = sound.here.read()[1]
    for trial, was in zip(trials, sound.trials, strict=False):
        figures = [_figures(report) for report in trial.reports[: len(was.reports)]]
        assert figures == [_figures(report) for report in was.reports]
    assert json.loads((directory / DRIVER.replace("1", "2")).read_text())["driver"] == 2


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in ("epoch", "train_loss", "val_loss", "val_accuracy")}
