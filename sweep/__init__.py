"""Finds the learning-rate schedule that trains a model best; from Python: `load` and `launch`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # both are imported by the command too, which must start at once
    from search_spaces import SweepConfig
    from sweep.notebook import Sweep

__all__ = ["launch", "load"]


def load(name: str, *, sweeps_dir: str | Path = "sweeps") -> "Sweep":
    """The sweep `name`, as it stands at each look at it."""
    from sweep.notebook import load_sweep

    return load_sweep(name, Path(sweeps_dir))


def launch(
    config: "SweepConfig | Mapping[str, Any] | str | Path",
    *,
    name: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    storage: str | None = None,
    manual_dir: str | Path | None = None,
    sweeps_dir: str | Path = "sweeps",
) -> "Sweep":
    """Run a new sweep to its end, in a process of its own; prints what `sweep launch` prints.

    `config`: a sweep file's path, a preset's name, or what such a file would hold. `overrides`:
    such as "search.num_trials=8". The rest are the options of `sweep launch`. Interrupting it once
    lets the running epochs finish; `sweep resume` goes on. Raises ConfigError and CommandError.
    """
    from sweep.notebook import launch_sweep

    options = {"address": address, "storage": storage, "manual-dir": manual_dir}
    return launch_sweep(config, name, overrides, options, Path(sweeps_dir))
