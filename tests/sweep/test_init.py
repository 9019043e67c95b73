"""A first sweep file and its schema, and what a shell completes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from search_spaces import load_config, preset_path, presets
from search_spaces.documents import Mark, read_document
from search_spaces.schema import json_schema
from tests.commands import SWEEP, environment, printed, refused, run
from tests.search_spaces.test_loading import ENTRIES, SOUND, faulty

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
# A fault of one key by itself; all others are rules that only `sweep check` knows.
PLAIN = ("unknown ", "has no parameter", "must be one of", "must be a number", "must be a text")
PLAIN += ("must be a list", "must be true or false", "must be a mapping")


def accepts(text: str) -> bool:
    return VALIDATOR.is_valid(read_document(text, Mark("f", 1, 1)).value)


def test_init_writes_a_file_that_is_valid_and_names_its_schema(tmp_path: Path) -> None:
    text = printed(tmp_path, "init")
    assert text.endswith("run      sweep launch sweep.yaml\n")
    first = (tmp_path / "sweep.yaml").read_text()
    assert first.startswith("# yaml-language-server: $schema=sweep.schema.json\n")
    assert json.loads((tmp_path / "sweep.schema.json").read_text()) == json_schema()
    assert accepts(first)
    assert load_config(tmp_path / "sweep.yaml", samples=20).name == "sweep"
    assert max(map(len, first.splitlines())) <= 100
    assert printed(tmp_path, "check", "sweep.yaml").startswith("sweep is valid: 24 trials")
    (tmp_path / "rates").mkdir()
    text = printed(tmp_path, "init", "rates/My rates.yaml")
    assert text.endswith("run      sweep launch 'rates/My rates.yaml'\n")
    assert load_config(tmp_path / "rates" / "My rates.yaml").name == "first-sweep"
    printed(tmp_path, "init", "other.yaml")  # beside a schema of ours


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("mine\n")
    text = refused(tmp_path, "init", code=4)
    assert (
        text == "sweep.yaml must not exist yet, but it does; name another: sweep init sweep-2.yaml"
    )
    (tmp_path / "sweep.schema.json").write_text('{"title": "mine"}')
    assert "it is not; move it away" in refused(tmp_path, "init", "new.yaml", code=4)
    assert (tmp_path / "sweep.yaml").read_text() == "mine\n"
    assert (tmp_path / "sweep.schema.json").read_text() == '{"title": "mine"}'
    assert not (tmp_path / "new.yaml").exists()
    text = refused(tmp_path, "init", ".", code=2)
    assert text == ". must be the name of a file, but it is a folder"
    assert "no/new.yaml cannot be written" in refused(tmp_path, "init", "no/new.yaml", code=1)


@pytest.mark.slow
def test_a_first_file_launches_as_it_is(tmp_path: Path) -> None:
    printed(tmp_path, "init", "rates.yaml")
    done = run(tmp_path, "launch", "rates.yaml", "--set", "search.num_trials=4")
    assert done.returncode == 0, done.stderr
    assert "sweep export rates -o best.yaml" in done.stdout


def test_the_schema_is_one_and_accepts_what_is_sound(tmp_path: Path) -> None:
    assert json.loads(printed(tmp_path, "schema")) == json_schema()
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert accepts(SOUND)
    for preset in presets():
        path = preset_path(preset)
        assert path is not None
        assert accepts(path.read_text()), preset


@pytest.mark.parametrize(
    "entry",
    [entry for entry in ENTRIES if any(words in entry for words in PLAIN) and "YAML" not in entry],
    ids=lambda entry: entry.split("\n")[1][3:40],
)
def test_the_schema_refuses_unknown_keys_and_wrong_types(entry: str) -> None:
    assert not accepts(faulty(entry)[0])


def completed(folder: Path, line: str, **variables: object) -> list[str]:
    """What bash would offer at the end of that line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": len(line.split(" ")) - 1}
    env = environment(_SWEEP_COMPLETE="complete_bash", **words, **variables)
    done = subprocess.run([SWEEP], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_sweeps_files_and_presets(tmp_path: Path) -> None:
    for name in ("rates", "rates-2", "other"):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "sweep.json").write_text("{}")
    (tmp_path / "sweeps" / "nothing").mkdir()
    for name in ("quick.yaml", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).write_text("")
    shutil.copy(tmp_path / "quick.yaml", tmp_path / "sweeps" / "quicker.yml")
    assert completed(tmp_path, "sweep wat") == ["watch"]
    assert completed(tmp_path, "sweep watch ra") == ["rates", "rates-2"]
    assert completed(tmp_path, "sweep resume ") == ["other", "rates", "rates-2"]
    assert completed(tmp_path, "sweep best ", SWEEP_DIR=tmp_path / "none") == []
    assert completed(tmp_path / "sweeps", "sweep best --sweeps-dir . o") == ["other"]
    assert completed(tmp_path, "sweep launch quick") == ["quickstart", "quick.yaml"]
    assert completed(tmp_path, "sweep preview sweeps/q") == ["sweeps/quicker.yml"]
    offered = completed(tmp_path, "sweep check ")
    assert offered == [*presets(), "quick.yaml", "sweeps/"]


def test_completing_imports_nothing_heavy(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-X", "importtime", SWEEP],
        cwd=tmp_path,
        env=environment(_SWEEP_COMPLETE="complete_bash", COMP_WORDS="sweep launch ", COMP_CWORD=2),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "quickstart" in found.stdout
    imported = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "sweep.completion" in imported
    assert not imported & {"numpy", "search_spaces", "optuna", "ray"}
