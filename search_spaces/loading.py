"""A sweep file to a SweepConfig and back, with every fault named where it stands."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from search_spaces.checks import planned_steps, sample_flaws
from search_spaces.config import SweepConfig
from search_spaces.defaults import DEFAULT_SPACES
from search_spaces.documents import Document, Mark, Place, read_document, write_document
from search_spaces.faults import ConfigError, Fault, Flaw, Path, dotted, shown
from search_spaces.keys import DEFAULT
from search_spaces.messages import flaws_of

_MAX_BYTES = 2**18
_MAX_VALUES = 15_000  # in the file; 1,000 points of six parameters are about 10,000
_MAX_SPACE = 500  # of them in the space; every family in its default space is about 220
_MAX_STEPS = 2_000_000  # of which a curve takes up to 100 bytes each while it is built
_UNHASHED = {"name", "description", "expected", "tracking"}


def load_config(
    path: FilePath | str, overrides: Sequence[str] = (), *, samples: int = 0
) -> SweepConfig:
    """The config in a YAML file, with `key.path=value` overrides; ConfigError for every fault.

    With `samples`, also for every parameter that gives one of so many samples an invalid curve.
    """
    file = FilePath(path)
    return parse_config(
        _read_text(file),
        filename=str(file),
        overrides=overrides,
        folder=file.absolute().parent,
        samples=samples,
    )


def parse_config(
    text: str,
    *,
    filename: str = "<string>",
    overrides: Sequence[str] = (),
    folder: FilePath | None = None,
    samples: int = 0,
) -> SweepConfig:
    """The config in a YAML text, with `key.path=value` overrides; ConfigError for every fault.

    A custom schedule's `file.py:function` is looked for in `folder`; `samples` as in `load_config`.
    """
    start = Mark(filename, 1, 1)
    document = read_document(text, start)
    if not isinstance(document.value, dict):
        got = "an empty file" if document.value is None else shown(document.value)
        message = f"a sweep file must be a mapping of sections, but got {got}"
        raise ConfigError([Fault(*start, "", message)])
    for number, override in enumerate(overrides, start=1):
        _spell_out_default(document.value, override)
        document = _overridden(document, override, number)
    if folder is not None:
        _place_functions(document.value, folder)
    config, flaws = _checked(document, samples)
    if config is None or flaws:
        raise ConfigError(sorted({_located(flaw, document.places, start) for flaw in flaws}))
    return config


def config_to_yaml(config: SweepConfig) -> str:
    """The config as a YAML text that reads back as the same config."""
    data = config.model_dump(mode="json", exclude_none=True)
    return write_document({k: v for k, v in data.items() if v not in ("", [])})


def config_sha256(config: SweepConfig) -> str:
    """The hash of all that decides what a sweep does, in hex; not of what only describes it.

    Nor of the code of custom functions, which stand in it by name.
    """
    data = config.model_dump(mode="json", exclude=_UNHASHED)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def preset_path(name: str) -> FilePath | None:
    """The file of a preset, or None where there is none of that name."""
    return FilePath(__file__).with_name(f"{name}.yaml") if name in presets() else None


def presets() -> list[str]:
    """The names of the sweep files that come with the package."""
    return sorted(file.stem for file in FilePath(__file__).parent.glob("*.yaml"))


def _checked(document: Document, samples: int) -> tuple[SweepConfig | None, list[Flaw]]:
    """The config, where it can be made, and what is wrong with it; cheap rules come first."""
    if samples and (flaws := _size_flaws(document.places)):
        return None, flaws
    try:
        config = SweepConfig.model_validate(document.value)
    except ValidationError as error:
        return None, flaws_of(error, SweepConfig)
    if not samples:
        return config, []
    return config, _length_flaws(config) or sample_flaws(config, samples)


def _size_flaws(places: Iterable[Path]) -> list[Flaw]:
    """Whether every point can be held against every option of the space in no time."""
    sections = Counter(path[0] for path in places if path)
    if sections.total() > _MAX_VALUES:
        message = f"a file must hold at most {_MAX_VALUES} values, but has {sections.total()}"
        return [Flaw((), f"{message}; enqueue fewer points")]
    if sections["space"] > _MAX_SPACE:
        message = f"space must hold at most {_MAX_SPACE} values, but has {sections['space']}"
        return [Flaw(("space",), f"{message}; shorten its lists and choices", at_key=True)]
    return []


def _length_flaws(config: SweepConfig) -> list[Flaw]:
    """Whether the curves of the space fit into memory."""
    steps = config.training.num_epochs * planned_steps(config)
    if steps <= _MAX_STEPS:
        return []
    message = f"the steps of a trial <= {_MAX_STEPS} must hold, but got {steps}"
    path = ("training", "num_epochs")
    return [Flaw(path, f"{message}; train for fewer epochs, or in larger batches")]


def _place_functions(document: dict[str, Any], folder: FilePath) -> None:
    """Make the paths of custom functions absolute, so that they lead there from anywhere."""
    points = document.get("enqueue")
    for owner in (document.get("space"), *(points if isinstance(points, list) else ())):
        for table in ("schedule", "momentum_schedule"):
            body = owner
            for key in (table, "custom"):
                body = body.get(key) if isinstance(body, dict) else None
            if isinstance(body, dict) and "function" in body:
                body["function"] = _placed(body["function"], folder)


def _placed(function: Any, folder: FilePath) -> Any:
    if isinstance(function, str) and ".py:" in function:
        return str(folder / function)
    if isinstance(function, dict) and isinstance(function.get("choice"), list):
        return {**function, "choice": [_placed(option, folder) for option in function["choice"]]}
    return function


def _read_text(file: FilePath) -> str:
    def refused(message: str, line: int = 0, column: int = 0) -> ConfigError:
        return ConfigError([Fault(str(file), line, column, "", message)])

    try:
        if file.is_dir():
            raise refused("a sweep must be a file, but this is a directory")
        if file.exists() and not file.is_file():
            raise refused("a sweep must be a regular file, but this is not")
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise refused("the file must exist, but there is none of that name") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise refused(f"the file must be readable, but: {reason}") from None
    if len(content) > _MAX_BYTES:
        raise refused(f"a file must hold at most {_MAX_BYTES} bytes, but this has more; shorten it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].split(b"\n")
        byte = f"the byte 0x{content[error.start]:02x}"
        message = f"the text must be UTF-8, but it has {byte}"
        raise refused(
            message, len(before), len(before[-1].decode("utf-8", "replace")) + 1
        ) from None


def _spell_out_default(document: dict[str, Any], override: str) -> None:
    """Where an override changes a key of a family's default space, put that space in its place."""
    path = override.partition("=")[0].strip().split(".")
    space = document.get("space")
    schedule = space.get("schedule") if isinstance(space, dict) else None
    if len(path) > 3 and path[:2] == ["space", "schedule"] and isinstance(schedule, dict):
        family = path[2]
        if schedule.get(family) == DEFAULT and family in DEFAULT_SPACES:
            schedule[family] = dict(DEFAULT_SPACES[family])


def _overridden(document: Document, override: str, number: int) -> Document:
    """The document with one `key.path=value` applied; its places name the override's number."""
    key, equals, text = override.partition("=")
    start = Mark("--set", number, 1)
    path: Path = tuple(key.strip().split("."))
    if not equals or not all(path):
        message = f"an override must read key.path=value, but got {shown(override)}"
        raise ConfigError([Fault(*start, "", message)])
    added = read_document(text, start._replace(column=len(key) + 2))
    value, path = _replaced(document.value, path, added.value, (), start)
    places = {at: place for at, place in document.places.items() if at[: len(path)] != path}
    new = {
        (*path, *at): Place(start if not at else p.key, p.value) for at, p in added.places.items()
    }
    above = {path[:depth]: Place(start, start) for depth in range(1, len(path))}
    return Document(value, above | places | new)


def _replaced(node: Any, path: Path, value: Any, done: Path, start: Mark) -> tuple[Any, Path]:
    """`node` with `value` at `path`, and the path with the indices of lists as numbers."""
    if not path:
        return value, done
    key, rest = path[0], path[1:]
    if isinstance(node, list):
        if not re.fullmatch("[0-9]{1,6}", str(key)) or int(key) >= len(node):
            message = f"a place in a list must lie below {len(node)}, but got {shown(key)}"
            raise ConfigError([Fault(*start, dotted(done), message)])
        index = int(key)
        inner, full = _replaced(node[index], rest, value, (*done, index), start)
        return [*node[:index], inner, *node[index + 1 :]], full
    if node is not None and not isinstance(node, dict):
        message = f"a mapping must stand here to set {str(key)!r} in it, but got {shown(node)}"
        raise ConfigError([Fault(*start, dotted(done), message)])
    inner, full = _replaced((node or {}).get(key), rest, value, (*done, key), start)
    return {**(node or {}), key: inner}, full


def _located(flaw: Flaw, places: dict[Path, Place], start: Mark) -> Fault:
    """The flaw at its key or value, or at the key of what it is missing from."""
    path = flaw.path
    while path and path not in places:
        path = path[:-1]
    place = places.get(path, Place(start, start))
    mark = place.value if path == flaw.path and not flaw.at_key else place.key
    return Fault(*mark, dotted(flaw.path), flaw.message)


def changed_keys(one: SweepConfig, other: SweepConfig) -> list[str]:
    """The dotted keys whose values differ between two configs, in the order of the first."""
    return list(_changed(one.model_dump(mode="json"), other.model_dump(mode="json"), ()))


def _changed(one: Any, other: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _changed(one.get(key), other.get(key), (*path, key))
    elif one != other:
        yield ".".join(path)
