"""A user's own function, by its name: `module:function` or `path/to/file.py:function`."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

Function = Callable[..., float]


def load_function(name: str) -> Function:
    """The function of that name; a ValueError where there is none or its code fails.

    A file is run once in a process, like a module.
    """
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"function must read module:function or file.py:function, but got {name}")
    try:
        return getattr(module_of(name), name.rpartition(":")[2])
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"function must be importable, but {name} raised {type(error).__name__}: {error}"
        ) from error


def module_of(name: str) -> ModuleType:
    """The module or file that the function of that name stands in, imported."""
    place = name.rpartition(":")[0]
    return load_file(place) if place.endswith(".py") else importlib.import_module(place)


@functools.cache
def load_file(path: str) -> ModuleType:
    """The file as a module, under a name that no other module has."""
    alias = f"{Path(path).stem}_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # which dataclasses, among others, look their own module up in
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for data
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return module
