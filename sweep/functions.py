"""The user's own schedule functions: taken along to the workers, and kept with the sweep."""

import functools
from pathlib import Path

from search_spaces import SweepConfig, custom_functions
from sweep.errors import CommandError
from sweep.files import write_text
from trainers.functions import Function, load_file, load_function, module_of

FOLDER = "functions"
_OWN = "trainers."  # what every worker has


def pickled_functions(config: SweepConfig) -> bytes:
    """The functions by name, each with all it uses of its own file or module.

    To be read by `pickle.loads`, which needs neither. Raises CommandError where that cannot be.
    """
    from ray import cloudpickle

    functions = {name: _uncached(load_function(name)) for name in custom_functions(config)}
    modules = {module_of(name) for name in functions if not name.startswith(_OWN)}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(functions)  # pyright: ignore[reportPrivateImportUsage]
    except Exception as error:
        raise CommandError(
            "a custom function must be one that can be sent to workers, but "
            f"{', '.join(functions)} gave {type(error).__name__}: {error}"
        ) from error
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _uncached(function: Function) -> Function:
    """What a cache stands before; the cache itself can be carried by name only."""
    is_cache = isinstance(function, functools._lru_cache_wrapper)
    return function.__wrapped__ if is_cache else function


def keep_sources(config: SweepConfig, directory: Path) -> None:
    """Copy the files that the functions stand in, to tell later whether they were changed."""
    for name, text in _sources(config).items():
        (directory / FOLDER).mkdir(exist_ok=True)
        write_text(directory / FOLDER / name, text)


def check_sources(config: SweepConfig, directory: Path) -> None:
    """Raise CommandError if a function is not the one that the sweep was launched with."""
    load_file.cache_clear()
    try:
        sources = _sources(config)
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"the functions of {directory.name} must be importable, but {type(error).__name__}: "
            f"{error}; restore them from {directory / FOLDER}, and what they import"
        ) from error
    for name, text in sources.items():
        kept = directory / FOLDER / name
        if not kept.exists() or kept.read_text() != text:
            raise CommandError(
                f"{name.partition('-')[2]} must be as at the launch of {directory.name}, but it "
                f"is not; restore it from {kept}, or launch under a new name"
            )


def _sources(config: SweepConfig) -> dict[str, str]:
    """The text of each function's file, under a name of its own; none for compiled modules."""
    texts: dict[str, str] = {}
    for index, name in enumerate(custom_functions(config)):
        path = Path(getattr(module_of(name), "__file__", None) or "")
        if path.suffix == ".py" and not name.startswith(_OWN):
            texts[f"{index}-{path.name}"] = path.read_text()
    return texts
