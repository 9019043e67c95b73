"""The project as a whole: directions of imports, documentation that is true, what is shipped."""

import ast
import fnmatch
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces import check_samples, parse_config, presets
from sweep.catalogue import markdown_table
from sweep.cli import app
from trainers.schedules import SCHEDULES, schedule_keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# What a package may import, besides the standard library and itself.
ALLOWED = {
    "trainers": {
        *("jax", "numpy", "optax", "safetensors"),
        *("requests", "sklearn", "tensorflow_datasets"),
    },
    "search_spaces": {"numpy", "pydantic", "pydantic_core", "ruamel", "trainers"},
    "sweep": {
        *("grpc", "matplotlib", "mlflow", "numpy", "optuna", "packaging", "pandas", "plotly"),
        *("jax", "pyarrow", "ray", "rich", "search_spaces", "sqlalchemy", "trainers", "typer"),
    },
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            assert node.module is not None
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_never_turn_back(package: str) -> None:
    modules = sorted((ROOT / package).glob("*.py"))
    assert modules
    for path in modules:
        foreign = set(imported(path)) - set(sys.stdlib_module_names) - {package}
        assert foreign <= ALLOWED[package], path


def test_three_modules_know_mlflow_and_schedules_need_numpy_alone() -> None:
    modules = (ROOT / "sweep").glob("*.py")
    knowing = {path.name for path in modules if "mlflow" in set(imported(path))}
    assert knowing == {"artifacts.py", "registry.py", "tracking.py"}
    script = "import sys, trainers.schedules; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ALLOWED["trainers"] & set(done.stdout.split()) == {"numpy"}


@pytest.mark.parametrize("family", SCHEDULES)
def test_every_schedule_is_documented_with_its_parameters(family: str) -> None:
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{family}` |"))
    names = set(re.findall(r"\w+", row.rsplit("|", 2)[1]))
    for key in set(schedule_keys(family)) - {"interval", "first_tick"}:
        assert names & {key, re.sub(r"_(steps|epochs|fraction)$", "", key)}, key


def test_the_readme_holds_the_table_that_the_functions_give() -> None:
    (table,) = re.findall(r"## Schedules\n\n((?:\|.*\n)+)", README)
    assert table == markdown_table(), "take over what `sweep schedules --markdown` prints"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_every_command_is_documented_and_there_is_no_other() -> None:
    commands = {
        command.name or (command.callback.__name__ if command.callback else "")
        for command in app.registered_commands
    }
    (block,) = re.findall(r"## Commands\n\n```\n(.*?)```", README, re.DOTALL)
    assert set(re.findall(r"^sweep (\w+)", block, re.MULTILINE)) == commands


def test_the_sweep_file_in_the_readme_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    check_samples(parse_config(text))


def test_every_module_and_preset_stands_in_the_readme() -> None:
    (tree,) = re.findall(r"## What is where\n\n```text\n(.*?)```", README, re.DOTALL)
    named = set(re.findall(r"\S+\.py", tree))
    for path in (path for package in ALLOWED for path in (ROOT / package).glob("*.py")):
        found = any(fnmatch.fnmatch(path.name, pattern) for pattern in named)
        assert path.name == "__init__.py" or found, path
    for preset in presets():
        assert f"`{preset}`" in README


def test_the_changelog_has_the_version_that_is_built() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_is_hashed_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    packages = re.findall(r"^[a-z0-9][^\s=]*==", lock, re.MULTILINE)
    assert len(packages) > 100
    assert len(re.findall(r"^ +--hash=sha256:", lock, re.MULTILINE)) >= len(packages)


def test_the_wheel_holds_the_three_packages_and_the_presets(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert top == set(ALLOWED)
    assert {f"search_spaces/{preset}.yaml" for preset in presets()} <= set(names)
