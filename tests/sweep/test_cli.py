"""The `sweep` command as a person meets it: what it prints, where, and how it exits."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from search_spaces import parse_config, presets
from sweep.directory import create_ledger
from tests.commands import CONCRETE, CONFIG, SWEEP, environment, modules_of, printed, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rates.yaml").write_text(CONFIG)
    (tmp_path / "best.yaml").write_text(CONCRETE)
    return tmp_path


HEAVY = {"jax", "ray", "mlflow", "optuna", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--help"], HEAVY),
        (["launch", "--help"], HEAVY),
        (["no-such-command"], HEAVY),
        (["check", "rates.yaml"], HEAVY - {"numpy"}),
        (["launch", "rates.yaml"], HEAVY - {"numpy"}),  # its name is taken
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(
    folder: Path, arguments: list[str], unused: set[str]
):
    (folder / "sweeps" / "rates").mkdir(parents=True)
    found = modules_of(folder, *arguments)
    assert "sweep.cli" in found
    assert not unused & found


def test_the_version_is_that_of_the_package(tmp_path: Path):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert printed(tmp_path, "--version") == f"sweep {project['version']}\n"


def test_help_names_every_command(tmp_path: Path):
    text = printed(tmp_path, "--help")
    looking = ("check", "preview", "schedules", "ls", "watch", "status", "best", "init", "ui")
    for name in ("launch", "resume", "export", "train", *looking):
        assert f" {name} " in text
    assert text.rstrip().endswith("sweep launch quickstart")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["check"], "Missing argument 'FILE'"),
        (["best", "rates", "-n", "0"], "Invalid value for '-n'"),
        (["export", "rates", "--format", "toml"], "Invalid value for '--format'"),
        (["launch", "rates.yaml", "--no-such-option"], "No such option"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(
    folder: Path, arguments: list[str], words: str
):
    assert words in refused(folder, *arguments, code=2)


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_valid(tmp_path: Path, preset: str):
    assert " is valid: " in printed(tmp_path, "check", preset)


EPOCHS = "training.num_epochs=1"


def test_check_says_what_would_be_run(folder: Path):
    assert printed(folder, "check", "rates.yaml", "--set", "search.num_trials=5") == (
        "rates is valid: 5 trials of up to 2 epochs, 1 schedule family, 1 free parameter, "
        "searched by random\n"
    )
    grid = ("search={algorithm: grid}", "space.momentum={choice: [0, 0.5, 0.9]}")
    grid += ("space.schedule.constant.peak_lr=0.1",)
    sets = [word for override in grid for word in ("--set", override)]
    assert "rates is valid: 3 trials of" in printed(folder, "check", "rates.yaml", *sets)
    one = ("--set", "search.num_trials=1")
    assert "valid: 1 trial of" in printed(folder, "check", "best.yaml", *one)
    assert "up to 1 epoch," in printed(folder, "check", "rates.yaml", "--set", EPOCHS)


BATCH = (
    "training.batch_size: batch_size must be given, but is missing: Examples per optimizer step."
)


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        (
            *("batch_size", "batchsize"),
            [
                f"bad.yaml:4:1: {BATCH}",
                "bad.yaml:4:55: training.batchsize: unknown key 'batchsize'; did you mean",
            ],
        ),
        (
            *("digits", "digit"),
            ["bad.yaml:3:17: data.dataset: unknown name 'digit'; did you mean 'digits'?"],
        ),
        ("version: 1", "version: [", ["bad.yaml:3:5: the text must be YAML, but expected ','"]),
        (
            *("name: rates", "name: rates\nname: other"),
            ["bad.yaml:3:1: name: a key must stand once, but 'name' comes again"],
        ),
        (
            *("momentum: 0.9", "warmup_steps: 200"),
            ["bad.yaml:8:17: space.warmup_steps: warmup_steps must be shorter than the training"],
        ),
    ],
)
def test_a_broken_file_is_refused_where_it_is_broken(
    folder: Path, old: str, new: str, faults: list[str]
):
    (folder / "bad.yaml").write_text(CONFIG.replace(old, new))
    lines = refused(folder, "launch", "bad.yaml", code=2).splitlines()
    for line, fault in zip(lines, faults, strict=True):
        assert line.startswith(fault)
    assert not (folder / "sweeps").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.yaml", "none.yaml: the file must exist, but there is none of that name"),
        (".", ".: a sweep must be a file, but this is a directory"),
        ("latin1.yaml", "latin1.yaml:1:7: the text must be UTF-8, but it has the byte 0xe9"),
        ("empty.yaml", "empty.yaml:1:1: a sweep file must be a mapping of sections, but got an"),
    ],
)
def test_what_is_no_sweep_file_is_refused(folder: Path, file: str, message: str):
    (folder / "latin1.yaml").write_bytes(b"name: \xe9t\xe9")
    (folder / "empty.yaml").write_text("")
    assert refused(folder, "check", file, code=2).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        (["foo"], ["--set:1:1: an override must read key.path=value, but got the text 'foo'"]),
        (["search.num_trials=x"], ["--set:1:19: search.num_trials: num_trials must be a whole"]),
        (["name=ok", "serach.seed=1"], ["--set:2:1: serach: unknown key 'serach'; did you mean"]),
        (["data.dataset=mnits"], ["--set:1:14: data.dataset: unknown name 'mnits'; did you mean"]),
        (
            ["training.seed=-1", "search.seed=-1"],
            [
                "--set:1:15: training.seed: seed >= 0 must",
                "--set:2:13: search.seed: seed >= 0 must",
            ],
        ),
    ],
)
def test_an_override_that_is_wrong_is_named(folder: Path, overrides: list[str], faults: list[str]):
    arguments = [word for override in overrides for word in ("--set", override)]
    lines = refused(folder, "check", "rates.yaml", *arguments, code=2).splitlines()
    for line, fault in zip(lines, faults, strict=True):
        assert line.startswith(fault)


@pytest.mark.parametrize(
    ("name", "arguments", "free"),
    [
        ("rates", [], "rates-3"),
        ("other", ["--name", "other"], "other-2"),
        ("other", ["--set", "name=other"], "other-2"),
        ("2024", ["--name", "2024"], "2024-2"),
        ("1e3", ["--name", "1e3"], "1e3-2"),
    ],
)
def test_a_name_that_is_taken_is_refused_with_both_ways_out(
    folder: Path, name: str, arguments: list[str], free: str
):
    for taken in {name, "rates-2"}:
        (folder / "sweeps" / taken).mkdir(parents=True)
    text = refused(folder, "launch", "rates.yaml", *arguments, code=4)
    assert text.startswith(f"the name {name} is taken by sweeps/{name}\n")
    assert f"sweep resume {name}\n" in text
    assert text.endswith(f"sweep launch rates.yaml --name {free}")
    assert sorted(path.name for path in (folder / "sweeps").iterdir()) == sorted({name, "rates-2"})


def test_a_grid_can_be_gone_on_with_until_its_points_are_trained(folder: Path):
    ledger = create_ledger(
        folder / "sweeps" / "rates",
        parse_config(CONCRETE, overrides=["search={algorithm: grid}"]),
        storage=None,
        tracking_uri="http://localhost:5000",
        steps_per_epoch=2,
        facts={},
    )
    number = ledger.ask()
    ledger.set_state("interrupted")
    text = refused(folder, "launch", "rates.yaml", code=4)
    assert "which is interrupted\n  go on with that sweep:  sweep resume rates\n" in text
    ledger.end(number, "pruned", "")
    ledger.set_state("finished")
    text = refused(folder, "launch", "rates.yaml", code=4)
    assert "which is finished\n  see what came of it:    sweep best rates\n" in text


def test_a_folder_without_the_data_is_refused_before_anything_is_made(folder: Path):
    path = folder / "fashion.yaml"
    path.write_text(CONCRETE.replace("digits", "fashion_mnist"))
    arguments = ["launch", path, "--manual-dir", "here"]
    text = refused(folder, *arguments, code=2, SWEEP_CACHE_DIR=folder / "cache")
    assert "here must hold the original files of fashion_mnist, but lacks train-" in text
    assert not (folder / "sweeps").exists()


def test_a_folder_that_cannot_be_used_is_named(folder: Path):
    told = refused(folder, "launch", "rates.yaml", "--sweeps-dir", "/proc/none", code=1)
    assert "/proc/none must be usable, but: No such file or directory; " in told
    assert "--sweeps-dir or SWEEP_DIR" in told


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_fault(tmp_path: Path, closed: str):
    command = ["sh", "-c", f'"$0" ls {closed}', SWEEP]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
