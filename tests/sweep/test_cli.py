"""The `sweep` command as a person meets it: what it prints, where, and how it exits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from search_spaces import is_concrete, load_config, parse_config, presets
from sweep.delivery import Status, write_status
from sweep.directory import create_ledger, read_sweep
from sweep.errors import CommandError
from sweep.jobs import Job, what_next
from sweep.registry import log_model
from sweep.tracking import connect

SWEEP = str(Path(sys.executable).with_name("sweep"))
CONFIG = """\
version: 1
name: rates
data: {dataset: digits, validation_examples: 100, train_examples: 128}
training: {model: cnn, optimizer: sgd, num_epochs: 2, batch_size: 64}
space:
  schedule:
    constant: {peak_lr: {log_uniform: [1e-3, 1]}}
  momentum: 0.9
search: {num_trials: 8, algorithm: random}
"""
CONCRETE = CONFIG.replace("{log_uniform: [1e-3, 1]}", "0.1")
UNCHANGEABLE = ("SWEEP_", "MLFLOW_", "RAY_", "JAX_", "COLUMNS", "FORCE_COLOR", "TERM")


def environment(**changes: object) -> dict[str, str]:
    """This process's environment without what a command reads from it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(UNCHANGEABLE)}
    return kept | {"COLUMNS": "200"} | {name: str(value) for name, value in changes.items()}


def run(
    folder: Path, *arguments: object, **variables: object
) -> "subprocess.CompletedProcess[str]":
    """`sweep ARGUMENTS` in `folder`; it may end in any way but a traceback."""
    done = subprocess.run(
        [SWEEP, *map(str, arguments)],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(folder: Path, *arguments: object, code: int, **variables: object) -> str:
    """What a command that must fail with `code` says on stderr; it says nothing on stdout."""
    done = run(folder, *arguments, **variables)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr.rstrip("\n")


def printed(folder: Path, *arguments: object, **variables: object) -> str:
    """What a command that must succeed in silence prints on stdout."""
    done = run(folder, *arguments, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def modules_of(folder: Path, *arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    script = "import atexit, json, sys\n"
    script += "atexit.register(lambda: print('\\n' + json.dumps(list(sys.modules))))\n"
    script += "from sweep.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Variables that make one `sweep train` use the programs that another compiled."""
    return {
        "JAX_COMPILATION_CACHE_DIR": tmp_path_factory.mktemp("programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rates.yaml").write_text(CONFIG)
    (tmp_path / "best.yaml").write_text(CONCRETE)
    return tmp_path


def report(epoch: int, value: float, *, diverged: bool = False) -> dict[str, Any]:
    loss = float("nan") if diverged else 1.5
    values = {"train_loss": loss, "val_loss": loss, "val_accuracy": value, "diverged": diverged}
    return {"epoch": epoch, "learning_rate_sha256": "a" * 64, "seconds": 0.1} | values


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep, and one that was cut off before any trial was complete."""
    home = tmp_path_factory.mktemp("home")
    ends: dict[str, list[tuple[str, list[float]]]] = {
        "rates": [
            ("complete", [0.1, 0.25]),
            ("pruned", [0.9]),
            ("complete", [0.1, 0.1 + 0.2]),
            ("diverged", [0.8]),
            ("failed", []),
            ("complete", [0.1, 0.125]),
        ],
        "cut-off": [("pruned", [0.5]), ("running", [0.5])],
    }
    for name, trials in ends.items():
        ledger = create_ledger(
            home / "sweeps" / name,
            parse_config(CONFIG),
            storage=None,
            tracking_uri="http://ada:secret@localhost:5000",
            steps_per_epoch=2,
            facts={"config_sha256": "c" * 64, "dataset_digest": "d" * 64},
        )
        for state, values in trials:
            number = ledger.ask()
            for epoch, value in enumerate(values, start=1):
                ledger.record(number, report(epoch, value, diverged=state == "diverged"))
            if state != "running":
                ledger.end(number, state, "")
        ledger.set_state("interrupted" if name == "cut-off" else "finished")
    return home


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


@pytest.mark.parametrize(
    ("command", "name", "hint"),
    [
        ("resume", "ratse", "did you mean rates?"),
        ("status", "cutoff", "did you mean cut-off?"),
        ("best", "unlike-any", "list them with: sweep ls"),
        ("export", "rate", "did you mean rates?"),
        ("ui", "ratse", "did you mean rates?"),
    ],
)
def test_a_sweep_that_is_not_there_is_refused(home: Path, command: str, name: str, hint: str):
    assert refused(home, command, name, code=2) == f"no sweep {name} in sweeps; {hint}"


def test_ls_lists_the_sweeps(home: Path):
    header, *rows = [line.split() for line in printed(home, "ls").splitlines()]
    assert header == ["name", "state", "trials", "metric", "best", "created"]
    assert [row[:4] for row in rows] == [
        ["cut-off", "interrupted", "2/8", "val_accuracy"],
        ["rates", "finished", "6/8", "val_accuracy"],
    ]
    assert rows[1][4] == "0.3000"


def test_ls_prints_json(home: Path):
    rows = json.loads(printed(home, "ls", "--json"))
    assert [row["name"] for row in rows] == ["cut-off", "rates"]
    assert [row["trials"] for row in rows] == [
        {"interrupted": 1, "pruned": 1},
        {"complete": 3, "diverged": 1, "failed": 1, "pruned": 1},
    ]
    assert rows[0]["best"] is None
    assert (rows[1]["best"]["trial"], rows[1]["best"]["value"]) == (2, 0.1 + 0.2)
    assert rows[1]["tracking_uri"] == "http://localhost:5000"


def test_ls_where_there_are_no_sweeps(tmp_path: Path, home: Path):
    way_out = "start one with: sweep launch quickstart\n"
    assert printed(tmp_path, "ls") == f"no sweeps in sweeps; {way_out}"
    assert json.loads(printed(tmp_path, "ls", "--json", "--sweeps-dir", "none")) == []
    assert "rates" in printed(tmp_path, "ls", SWEEP_DIR=home / "sweeps")


def test_one_sweep_that_was_changed_does_not_hide_the_others(home: Path, tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text('{"format": 1, "config_sha256": ""}')
    (tmp_path / "rates").symlink_to(home / "sweeps" / "rates")
    assert "rates" in run(tmp_path, "ls", "--sweeps-dir", tmp_path).stdout


def test_status_says_where_a_sweep_stands(home: Path):
    name, bar, counts, best, blank, header, *rows, _, delivery = printed(
        home, "status", "rates"
    ).splitlines()
    assert (name, blank) == ("rates  finished", "")
    assert bar.endswith("·  6 of 8 trials")
    assert counts.split("  ") == ["3 complete", "1 pruned", "1 diverged", "1 failed"]
    assert best.split()[:5] == ["best", "0.3000", "trial", "2", "constant"]
    assert header.split()[:2] == ["trial", "val_accuracy"]
    assert [row.split()[:4] for row in rows] == [
        ["2", "0.3000", "2/2", "complete"],
        ["0", "0.2500", "2/2", "complete"],
        ["5", "0.1250", "2/2", "complete"],
        ["1", "0.9000", "1/2", "pruned"],
    ]
    assert delivery == "MLflow   6 trials (8 epochs) not yet delivered"
    assert "1 interrupted" in printed(home, "status", "cut-off")


def test_status_prints_json(home: Path):
    found = json.loads(printed(home, "status", "rates", "--json"))
    assert (found["name"], found["state"], found["best"]["trial"]) == ("rates", "finished", 2)
    assert found["undelivered"] == {"trials": 6, "epochs": 8, "error": None, "pictures": None}


NEXT = re.compile(r"(?::|  ) *(sweep (?!train)\w+.*)")


def test_commands_to_type_next_name_the_folder_of_the_sweeps(folder: Path, home: Path):
    shutil.copytree(home / "sweeps", folder / "my sweeps")
    arguments = {
        ("watch", "rates"): ["status", "sync", "ui", "export"],
        ("watch", "cut-off"): ["status", "sync", "resume", "ui"],
        ("launch", "rates.yaml"): ["resume", "launch"],
        ("best", "cut-off"): ["status"],
        ("pause", "cut-off"): ["resume"],
        ("status", "unlike-any"): ["ls"],
    }
    for words, verbs in arguments.items():
        done = run(folder, *words, "--sweeps-dir", "my sweeps")
        found = NEXT.findall(done.stdout + done.stderr)
        assert [command.split()[1] for command in found] == verbs
        assert all(command.endswith(" --sweeps-dir 'my sweeps'") for command in found)
        for command in found:
            if command.split()[1] in ("status", "export", "ls"):
                shell = f'sweep() {{ "{SWEEP}" "$@"; }}; {command}'
                subprocess.run(shell, shell=True, cwd=folder, env=environment(), check=True)
        plain = run(folder, *words, SWEEP_DIR=folder / "my sweeps")
        assert "--sweeps-dir" not in plain.stdout + plain.stderr
    given = what_next(Path("other/rates"), Job("job", "http://host:8265"))
    assert NEXT.findall(given) == [
        f"sweep {words} --sweeps-dir other"
        for words in ("watch rates", "stop rates", "resume rates --detach")
    ]


def test_best_shows_complete_trials_from_the_best(home: Path):
    header, *rows = [line.split() for line in printed(home, "best", "rates").splitlines()]
    assert header[:2] == ["trial", "val_accuracy"]
    assert [row[:2] for row in rows] == [["2", "0.3000"], ["0", "0.2500"], ["5", "0.1250"]]
    found = json.loads(printed(home, "best", "rates", "-n", "2", "--json"))
    assert [(row["trial"], row["value"]) for row in found] == [(2, 0.1 + 0.2), (0, 0.25)]


def test_best_of_a_sweep_without_a_complete_trial(home: Path):
    text = refused(home, "best", "cut-off", code=1)
    assert text == "no trial of cut-off is complete; see: sweep status cut-off"
    assert json.loads(printed(home, "best", "cut-off", "--json")) == []


def test_export_prints_a_config_that_can_be_trained(home: Path, tmp_path: Path):
    text = printed(home, "export", "rates")
    config = parse_config(text)
    assert is_concrete(config)
    assert config.expected is not None
    assert (config.expected["trial"], config.expected["value"]) == (2, 0.1 + 0.2)
    other = parse_config(printed(home, "export", "rates", "--trial", "5"))
    assert other.expected is not None
    assert (other.name, other.expected["value"]) == ("rates-best0005", 0.125)
    plain = printed(home, "export", "rates", "--format", "json")
    assert type(config).model_validate(json.loads(plain)) == config
    done = run(home, "export", "rates", "-o", tmp_path / "best.yaml")
    assert (done.returncode, done.stdout) == (0, "")
    path = tmp_path / "best.yaml"
    assert done.stderr == f"wrote {path}; train it with: sweep train {path}\n"
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cut-off"], "no trial of cut-off is complete, so none can be exported"),
        (["cut-off", "--trial", "1"], "only a complete trial can be exported, but trial 1 is"),
        (["rates", "--trial", "1"], "only a complete trial can be exported, but trial 1 is pruned"),
        (["rates", "--trial", "9"], "only a complete trial can be exported, but trial 9 is unk"),
    ],
)
def test_export_of_what_is_not_complete(home: Path, arguments: list[str], message: str):
    assert refused(home, "export", *arguments, code=1).startswith(message)


@pytest.mark.parametrize("output", ["no/such/folder/best.yaml", "sweeps"])
def test_export_to_where_nothing_can_be_written(home: Path, output: str):
    assert output in refused(home, "export", "rates", "-o", output, code=1)


def test_ui_of_a_sweep_on_a_server_names_its_page(home: Path, tmp_path: Path):
    shutil.copytree(home / "sweeps" / "rates", tmp_path / "sweeps" / "rates")
    held = Status(experiment_id="3", parent_run_id="ab")
    write_status(tmp_path / "sweeps" / "rates", held)
    said = "this store has a server of its own: http://"
    page = printed(tmp_path, "ui", "rates")
    assert page.startswith(f"{said}localhost:5000/#/experiments/3/runs/ab")
    assert "secret" not in page
    assert printed(tmp_path, "ui", MLFLOW_TRACKING_URI="http://me:pw@h").startswith(f"{said}h\n")


def test_moved_sweeps_are_read_and_their_old_place_is_left_alone(tmp_path: Path):
    ledger = create_ledger(
        tmp_path / "sweeps" / "rates",
        parse_config(CONFIG),
        storage=None,
        tracking_uri=f"sqlite:///{tmp_path}/sweeps/mlflow.db",
        steps_per_epoch=2,
        facts={"config_sha256": "c" * 64, "dataset_digest": "d" * 64, "sweep_id": "s"},
    )
    number = ledger.ask()
    for epoch in (1, 2):
        ledger.record(number, report(epoch, 0.5))
    ledger.end(number, "complete", "")
    ledger.set_state("finished")
    write_status(ledger.directory, Status(experiment_id="1", parent_run_id="ab"))
    moved = (tmp_path / "sweeps").rename(tmp_path / "moved")
    files = {path: path.stat().st_mtime_ns for path in moved.rglob("*")}
    there = {"SWEEP_DIR": "moved"}
    for command in (("best", "rates"), ("ls",), ("report", "rates"), ("export", "rates")):
        assert printed(tmp_path, *command, **there)
    lost = f"{tmp_path}/sweeps/mlflow.db, which held MLflow's records of rates, is gone; "
    assert f"\nMLflow   {lost}put it back, " in printed(tmp_path, "status", "rates", **there)
    found = json.loads(printed(tmp_path, "status", "rates", "--json", **there))
    assert found["undelivered"]["error"].startswith(lost)
    assert refused(tmp_path, "ui", "rates", code=5, **there).startswith(lost)
    done = run(tmp_path, "sync", "rates", **there)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith(lost)
    sweep, trials = read_sweep(moved / "rates")
    with pytest.raises(CommandError, match=f"^model holds the model, but {lost}") as refusal:
        log_model(sweep, trials[0], Path("model"), {}, None)
    assert refusal.value.exit_code == 5
    with pytest.raises(CommandError, match=f"^{lost}"):
        connect(sweep)
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*")} == files
    assert not (tmp_path / "sweeps").exists()


def test_train_takes_no_free_parameters(folder: Path):
    text = refused(folder, "train", "rates.yaml", code=2)
    assert text.startswith("train takes a config without free parameters, but rates has some; ")
    assert "sweep export" in text


def test_a_folder_without_the_data_is_refused_before_anything_is_made(folder: Path):
    path = folder / "fashion.yaml"
    path.write_text(CONCRETE.replace("digits", "fashion_mnist"))
    arguments = ["launch", path, "--manual-dir", "here"]
    text = refused(folder, *arguments, code=2, SWEEP_CACHE_DIR=folder / "cache")
    assert "here must hold the original files of fashion_mnist, but lacks train-" in text
    assert not (folder / "sweeps").exists()


def test_train_prints_its_metric_beside_the_expected_one(folder: Path, cache: dict[str, object]):
    path = folder / "best.yaml"
    path.write_text(CONCRETE + "expected: {value: 2.0}\n")
    done = run(folder, "train", path, **cache)
    assert done.returncode == 0
    metric, expected, test = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert (metric[0], test[0]) == ("val_accuracy", "test_accuracy")
    assert expected == ["expected", "2.0 (not equal)"]
    assert 0 <= float(test[1]) <= 1
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        ["epoch", "1"],
        ["epoch", "2"],
    ]
    path.write_text(CONCRETE + f"expected: {{value: {metric[1]}}}\n")
    assert load_config(path).expected == {"value": float(metric[1])}
    again = json.loads(run(folder, "train", path, "--json", **cache).stdout)
    assert again["value"] == again["expected"] == float(metric[1])
    assert (again["metric"], again["test_accuracy"]) == ("val_accuracy", float(test[1]))


def test_train_that_diverges_says_so(folder: Path, cache: dict[str, object]):
    (folder / "best.yaml").write_text(CONCRETE.replace("peak_lr: 0.1", "peak_lr: 1e30"))
    done = run(folder, "train", "best.yaml", **cache)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("the loss stopped being finite in epoch 1\n")


# A shell starts its background jobs with Ctrl-C ignored, and their children inherit that.
HEEDING_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_ctrl_c_ends_training_without_a_traceback(folder: Path, cache: dict[str, object]):
    (folder / "best.yaml").write_text(CONCRETE.replace("num_epochs: 2", "num_epochs: 10000"))
    with subprocess.Popen(
        [sys.executable, "-c", HEEDING_CTRL_C, SWEEP, "train", "best.yaml"],
        cwd=folder,
        env=environment(**cache),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("epoch   1 ")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest


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


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["schema", "ls", "ls --json", "schedules", "export rates"])
def test_output_that_a_full_disk_does_not_take_is_a_failure(
    home: Path, command: str, unbuffered: str
):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [SWEEP, *command.split()],
            cwd=home,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "the output cannot be written: No space left on device; make room, or send it elsewhere\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_changes_no_result(
    folder: Path, stream: str, cache: dict[str, object]
):
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [SWEEP, "launch", "rates.yaml", "--set", "search.num_trials=1"],
            cwd=folder,
            env=environment(**cache),
            timeout=120,
            check=False,
            **(streams | {stream: writer}),  # pyright: ignore
        )
    finally:
        os.close(writer)
    assert done.returncode == 0
    assert run(folder, "status", "rates").stdout.count("finished") == 1
