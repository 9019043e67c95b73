"""The commands about sweeps that there are: what they print, where, and how they exit."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from search_spaces import is_concrete, parse_config
from sweep.delivery import Status, write_status
from sweep.directory import create_ledger, read_sweep
from sweep.errors import CommandError
from sweep.jobs import Job, what_next
from sweep.registry import log_model
from sweep.tracking import connect
from tests.commands import CONFIG, SWEEP, environment, printed, refused, run
from tests.sweep.ledgers import report


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
                ledger.record(
                    number, report(epoch, val_accuracy=value, diverged=state == "diverged")
                )
            if state != "running":
                ledger.end(number, state, "")
        ledger.set_state("interrupted" if name == "cut-off" else "finished")
    return home


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


def test_commands_to_type_next_name_the_folder_of_the_sweeps(tmp_path: Path, home: Path):
    (tmp_path / "rates.yaml").write_text(CONFIG)
    shutil.copytree(home / "sweeps", tmp_path / "my sweeps")
    arguments = {
        ("watch", "rates"): ["status", "sync", "ui", "export"],
        ("watch", "cut-off"): ["status", "sync", "resume", "ui"],
        ("launch", "rates.yaml"): ["resume", "launch"],
        ("best", "cut-off"): ["status"],
        ("pause", "cut-off"): ["resume"],
        ("status", "unlike-any"): ["ls"],
    }
    for words, verbs in arguments.items():
        done = run(tmp_path, *words, "--sweeps-dir", "my sweeps")
        found = NEXT.findall(done.stdout + done.stderr)
        assert [command.split()[1] for command in found] == verbs
        assert all(command.endswith(" --sweeps-dir 'my sweeps'") for command in found)
        for command in found:
            if command.split()[1] in ("status", "export", "ls"):
                shell = f'sweep() {{ "{SWEEP}" "$@"; }}; {command}'
                subprocess.run(shell, shell=True, cwd=tmp_path, env=environment(), check=True)
        plain = run(tmp_path, *words, SWEEP_DIR=tmp_path / "my sweeps")
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
        ledger.record(number, report(epoch, val_accuracy=0.5))
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
