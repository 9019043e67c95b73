"""A user's own function, by its name: `module:function` or `path/to/file.py:function`."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

Function = Callable[..., float]


def load_function(name: str) -> Function:
    """The function of that name; a ValueError where there is none or its code fails."""
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"function must read module:function or file.py:function, but got {name}")
    place, _, attribute = name.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, attribute)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"function must be importable, but {name} raised {type(error).__name__}: {error}"
        ) from error
