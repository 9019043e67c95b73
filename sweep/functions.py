"""The user's own schedule functions: taken along to the workers, and kept with the sweep."""

import inspect
from pathlib import Path

from search_spaces import SweepConfig, custom_functions
from sweep.errors import CommandError
from sweep.files import write_text
from trainers.functions import Function, load_function

FOLDER = "functions"


def portable_functions(config: SweepConfig) -> dict[str, Function]:
    """The functions by name; Ray carries each with all it uses of its own file or module."""
    from ray import cloudpickle

    functions = {name: load_function(name) for name in custom_functions(config)}
    for function in functions.values():
        module = inspect.getmodule(function)
        if module is not None:  # else it came from a file, and is carried by value anyway
            cloudpickle.register_pickle_by_value(module)
    return functions


def keep_sources(config: SweepConfig, directory: Path) -> None:
    """Copy the files that the functions stand in, to tell later whether they were changed."""
    for name, text in _sources(config).items():
        (directory / FOLDER).mkdir(exist_ok=True)
        write_text(directory / FOLDER / name, text)


def check_sources(config: SweepConfig, directory: Path) -> None:
    """Raise CommandError if a function is not the one that the sweep was launched with."""
    for name, text in _sources(config).items():
        kept = directory / FOLDER / name
        if not kept.exists() or kept.read_text() != text:
            raise CommandError(
                f"{name.partition('-')[2]} must be as at the launch of {directory.name}, but it "
                f"is not; restore it from {kept}, or launch under a new name"
            )


def _sources(config: SweepConfig) -> dict[str, str]:
    """The text of each function's file, under a name of its own; none for compiled ones."""
    texts: dict[str, str] = {}
    for index, name in enumerate(custom_functions(config)):
        try:
            path = inspect.getsourcefile(load_function(name))
        except TypeError:
            continue
        if path:
            texts[f"{index}-{Path(path).name}"] = Path(path).read_text()
    return texts
