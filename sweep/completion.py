"""What a shell completes: names of sweeps, sweep files and presets; imports next to nothing."""

import os
from importlib.util import find_spec
from pathlib import Path

import typer


def names_of_sweeps(context: typer.Context, incomplete: str) -> list[str]:
    """The sweeps in the folder that is given by then, or in SWEEP_DIR, or in ./sweeps."""
    given = context.params.get("sweeps_dir") or os.environ.get("SWEEP_DIR") or "sweeps"
    names = (path.parent.name for path in Path(given).glob("*/sweep.json"))
    return sorted(name for name in names if name.startswith(incomplete))


def files_and_presets(incomplete: str) -> list[str]:
    """YAML files and folders that begin so, and presets."""
    spec = find_spec("search_spaces")  # found, but not imported
    folder = Path(spec.origin).parent if spec and spec.origin else Path("/nowhere")
    presets = [path.stem for path in folder.glob("*.yaml") if path.stem.startswith(incomplete)]
    return sorted(presets) + sorted(_files(incomplete))


def _files(incomplete: str) -> list[str]:
    head, _, start = incomplete.rpartition("/")
    prefix = incomplete[: len(incomplete) - len(start)]
    try:
        entries = list(os.scandir(head or ("/" if prefix else ".")))
    except OSError:
        return []
    shown = [e for e in entries if e.name.startswith(start) and (start or e.name[0] != ".")]
    folders = [f"{prefix}{entry.name}/" for entry in shown if entry.is_dir()]
    ends = (".yaml", ".yml")
    return folders + [f"{prefix}{entry.name}" for entry in shown if entry.name.endswith(ends)]
