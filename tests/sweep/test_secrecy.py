"""Where secrets may be, and what could run code that lies in a store."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.errors import CommandError
from sweep.secrecy import check_tracking, read_secret
from tests.commands import CONFIG, refused

ROOT = Path(__file__).parents[2]
CODE_IN_DATA = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
WRITES = {"dump", "dumps", "register_pickle_by_value", "unregister_pickle_by_value"}
# The functions that Ray hands to a trial; what reads CMA-ES's optimizer, and knows few classes.
READERS = {("sweep/trial.py", "pickle.loads"), ("sweep/samplers.py", "pickle.Unpickler")}


def readers(text: str) -> Iterator[str]:
    """What a module uses that may run code which it finds in data."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            reads = node.value.id in CODE_IN_DATA and node.attr not in WRITES
            if reads or node.attr in ("read_pickle", "load_pickle"):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in CODE_IN_DATA:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle"


def test_no_pickle_is_read_from_a_store():
    packages = (ROOT / package for package in ("sweep", "search_spaces", "trainers"))
    paths = [path for package in packages for path in package.glob("*.py")]
    found = {
        (str(path.relative_to(ROOT)), reader)
        for path in paths
        for reader in readers(path.read_text())
    }
    assert found == READERS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle\npickle.load(file)", "pickle.load"),
        ("from pickle import loads", "pickle.loads"),
        ("numpy.load(file, allow_pickle=True)", "allow_pickle"),
        ("pandas.read_pickle(path)", "pandas.read_pickle"),
    ],
)
def test_the_search_finds_what_reads_pickles(text: str, found: str):
    assert list(readers(text)) == [found]


def test_a_tracking_uri_with_a_password_is_refused_and_not_printed(tmp_path: Path):
    (tmp_path / "rates.yaml").write_text(CONFIG)
    uri = "http://ada:canary@127.0.0.1:1"
    said = refused(tmp_path, "launch", "rates.yaml", code=2, MLFLOW_TRACKING_URI=uri)
    assert said.endswith(
        "\nMLFLOW_TRACKING_URI must hold no user and password, for it is kept with the sweep, but "
        "it holds one; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for a "
        "database PGPASSWORD"
    )
    assert "canary" not in said
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_a_folder_of_records_is_refused_before_anything_is_made(tmp_path: Path, uri: str):
    (tmp_path / "rates.yaml").write_text(CONFIG)
    said = refused(tmp_path, "launch", "rates.yaml", code=2, MLFLOW_TRACKING_URI=uri)
    assert said.endswith(
        f"\nMLFLOW_TRACKING_URI must be of a server or a database, but {uri} is a folder; set it "
        "to sqlite:////FOLDER/mlflow.db, or unset it"
    )
    assert not (tmp_path / "sweeps").exists()


def test_mlflows_file_of_passwords_is_the_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / ".mlflow" / "credentials"
    path.parent.mkdir()
    path.write_text("[mlflow]\n")
    path.chmod(0o640)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    check_tracking("sqlite:////folder/mlflow.db")  # which takes no password
    with pytest.raises(CommandError, match=f"got 0640; chmod 600 {path}$") as caught:
        check_tracking("https://host")
    assert caught.value.exit_code == 2
    path.chmod(0o600)
    check_tracking("https://host")
    path.chmod(0o644)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "one")
    check_tracking("https://host")  # the file is not read


def test_a_secret_that_is_no_text(tmp_path: Path):
    path = tmp_path / "token"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(CommandError, match=f"^{path} must be readable, but: it holds no text$"):
        read_secret(path)
