"""What a sweep runs with: its data, and by whom, where, with which code, which versions."""

import contextlib
import getpass
import os
import platform
import subprocess
import uuid
from importlib.metadata import version
from pathlib import Path

from search_spaces import SweepConfig, config_sha256
from trainers.data import Dataset, load_dataset

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "ray", "optuna", "mlflow")
_GIB = 1024**3


def load_data(config: SweepConfig, manual_dir: Path | None) -> Dataset:
    """The data set that a config names."""
    return load_dataset(
        config.data.dataset,
        validation_examples=config.data.validation_examples,
        validation_split=config.data.validation_split,
        train_examples=config.data.train_examples,
        manual_dir=manual_dir,
    )


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
        **_hardware(),
        "sweep_version": version("sweep"),
    }
    if commit:
        facts |= {"git_commit": commit, "git_dirty": str(bool(_git("status", "--porcelain")))}
    return facts | {f"{package}_version": version(package) for package in _PACKAGES}


def _hardware() -> dict[str, str]:
    """The machine that a sweep is launched on; its workers tell of their own devices."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    return {
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": str(os.cpu_count()),
        "memory_gib": f"{memory:.1f}",
    }


def _cpu_model() -> str:
    """What the processor calls itself, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


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
