"""What a sweep ran with: who, where, which code, which versions."""

import getpass
import os
import platform
import subprocess
import uuid
from importlib.metadata import version

from search_spaces import SweepConfig, config_sha256
from trainers.data import Dataset

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "ray", "optuna", "mlflow")


def sweep_facts(config: SweepConfig, dataset: Dataset) -> dict[str, str]:
    """The facts of a new sweep; the code is that of the current directory's git repository."""
    commit = _git("rev-parse", "HEAD")
    facts = {
        "sweep_id": uuid.uuid4().hex,
        "config_sha256": config_sha256(config),
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "user": _user(),
        "host": platform.node(),
        "python": platform.python_version(),
        "sweep_version": version("sweep"),
    }
    if commit:
        facts |= {"git_commit": commit, "git_dirty": str(bool(_git("status", "--porcelain")))}
    return facts | {f"{package}_version": version(package) for package in _PACKAGES}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in containers
        return f"uid {os.getuid()}"


def _git(*arguments: str) -> str:
    """What git prints, or nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
