"""The `sweep` command, run as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
