"""YAML text to plain values that know where they stand, and back.

Read from the parser's events, so no tag is ever acted on: scalars follow the YAML 1.2 core schema,
and anchors, aliases, tags and duplicate keys are refused.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, StringMark
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from search_spaces.faults import MAX_FAULTS, ConfigError, Fault, Path, dotted, quoted

# What reading a hostile text can cost lies in these. A config that is written out has somewhat more
# values and characters than the file that it was read from, which `loading` therefore bounds lower.
MAX_CHARACTERS = 2**20
MAX_VALUES = 20_000
MAX_ENTRIES = 2_000
MAX_KEYS = 100
MAX_DEPTH = 20
_WIDTH = 100
_CONSTANTS = {"": None, "~": None} | {
    spelled: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelled in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_ORDINARY = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,;:/()-]*")  # ruamel misquotes some other texts


class Mark(NamedTuple):
    """A place in a file; `line` and `column` count from 1."""

    file: str
    line: int
    column: int


class Place(NamedTuple):
    """Where a key and its value start; they are one where there is no key."""

    key: Mark
    value: Mark


class Document(NamedTuple):
    """Plain values (dict, list, str, int, float, bool, None) and the place of each by its path."""

    value: Any
    places: dict[Path, Place]


class _Reading(NamedTuple):
    """What a reading has found so far; `start` is where its text begins in the file."""

    start: Mark
    events: Iterator[Event]
    places: dict[Path, Place]
    faults: list[Fault]


def read_document(text: str, start: Mark) -> Document:
    """The one document in a YAML text that begins at `start`; a ConfigError names its faults."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_CHARACTERS:
        message = f"a file must hold at most {MAX_CHARACTERS} characters, but got {len(text)}"
        raise ConfigError([Fault(*start, "", message)])
    faults: list[Fault] = []
    reading = _Reading(start, _events(text, start, faults), {}, faults)
    value = _read_stream(reading)
    if faults:
        raise ConfigError(faults)
    return Document(value, reading.places)


def write_document(value: Any) -> str:
    """The YAML text of plain values: floats exact, short mappings and lists on one line."""
    yaml = YAML()
    yaml.width = _WIDTH
    stream = io.StringIO()
    yaml.dump(_laid_out(value), stream)
    return stream.getvalue()


def resolved(text: str) -> Any:
    """What an unquoted word stands for in the YAML 1.2 core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text) and len(text) <= 30:
        return int(text)
    if _BASED.fullmatch(text) and len(text) <= 30:
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _events(text: str, start: Mark, faults: list[Fault]) -> Iterator[Event]:
    """The parser's events; where it cannot go on, a ConfigError after the faults found so far."""
    at, problem = None, "the text must be YAML"
    try:
        for event in YAML(typ="safe", pure=True).parse(io.StringIO(text)):
            at = event.start_mark
            if isinstance(event, ScalarEvent):
                event.value.encode()  # fails on "\uD800", which is half a character
            yield event
        return
    except MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        problem += f", but {(error.problem or error.context or '').strip()}"
    except ReaderError as error:
        before = text[: error.position].splitlines() or [""]
        at = StringMark("", 0, len(before) - 1, len(before[-1]), None, None)
        problem = f"the text must be printable, but it has the character U+{error.character:04X}"
    except Exception:  # the scanner trips over "\UFFFFFFFF", the parser over %YAML 1.9
        problem += ", but from here on an escape or a directive is none"
    mark = _moved(start, at.line, at.column) if at else start
    raise ConfigError([*faults, Fault(*mark, "", problem)])


def _read_stream(reading: _Reading) -> Any:
    next(reading.events)
    first = next(reading.events)
    if isinstance(first, StreamEndEvent):
        reading.places[()] = Place(reading.start, reading.start)
        return None
    if isinstance(first, DocumentStartEvent) and first.version not in (None, (1, 2)):
        _refuse(reading, _mark(reading, first), (), "the text must be YAML 1.2, but says otherwise")
    value = _read_node(reading, next(reading.events), ())
    next(reading.events)
    after = next(reading.events)
    if not isinstance(after, StreamEndEvent):
        _refuse(reading, _mark(reading, after), (), "a file must hold one document, but has more")
    return value


def _read_node(reading: _Reading, event: Event, path: Path, key: Mark | None = None) -> Any:
    mark = _mark(reading, event)
    if key and isinstance(event, ScalarEvent) and not event.value and not event.style:
        mark = key  # nothing stands there: the parser's own mark is somewhere behind
    reading.places[path] = Place(key or mark, mark)
    if len(path) > MAX_DEPTH:
        _give_up(reading, mark, f"nesting <= {MAX_DEPTH} must hold, but got more")
    if len(reading.places) > MAX_VALUES:
        _give_up(reading, mark, f"a file must hold at most {MAX_VALUES} values, but has more")
    if isinstance(event, AliasEvent):
        _forbid(reading, mark, path, "aliases", f"*{event.anchor}")
        return None
    if isinstance(event, NodeEvent) and event.anchor is not None:
        _forbid(reading, mark, path, "anchors", f"&{event.anchor}")
    tag = getattr(event, "ctag", None)  # as it is written: decoding a long one takes seconds
    if tag is not None:
        _forbid(reading, mark, path, "tags", f"{tag.handle or ''}{tag.suffix or ''}")
    if isinstance(event, ScalarEvent):
        return event.value if event.style else resolved(event.value)
    if isinstance(event, SequenceStartEvent):
        return _read_sequence(reading, path)
    assert isinstance(event, MappingStartEvent)
    return _read_mapping(reading, path)


def _read_sequence(reading: _Reading, path: Path) -> list[Any]:
    entries: list[Any] = []
    while not isinstance(event := next(reading.events), SequenceEndEvent):
        if len(entries) == MAX_ENTRIES:
            message = f"a list must hold at most {MAX_ENTRIES} entries, but has more; shorten it"
            _give_up(reading, _mark(reading, event), message)
        entries.append(_read_node(reading, event, (*path, len(entries))))
    return entries


def _read_mapping(reading: _Reading, path: Path) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    while not isinstance(event := next(reading.events), MappingEndEvent):
        mark = _mark(reading, event)
        if isinstance(event, ScalarEvent) and event.ctag is None and event.anchor is None:
            key = event.value
        else:
            _refuse(reading, mark, path, "a key must be a plain word, but got something else")
            _read_node(reading, event, (*path, ""))
            key = ""
        if len(entries) == MAX_KEYS:
            _give_up(reading, mark, f"a mapping must hold at most {MAX_KEYS} keys, but has more")
        if key in entries:
            message = f"a key must stand once, but {quoted(key)} comes again"
            _refuse(reading, mark, (*path, key), message)
        value = _read_node(reading, next(reading.events), (*path, key), mark)
        entries.setdefault(key, value)
    return entries


def _refuse(reading: _Reading, mark: Mark, path: Path, message: str) -> None:
    reading.faults.append(Fault(*mark, dotted(path), message))
    if len(reading.faults) > MAX_FAULTS:
        raise ConfigError(reading.faults)


def _forbid(reading: _Reading, mark: Mark, path: Path, things: str, got: str) -> None:
    _refuse(reading, mark, path, f"{things} are not allowed, but got {quoted(got)}")


def _give_up(reading: _Reading, mark: Mark, message: str) -> NoReturn:
    raise ConfigError([*reading.faults, Fault(*mark, "", message)])


def _mark(reading: _Reading, event: Event) -> Mark:
    return _moved(reading.start, event.start_mark.line, event.start_mark.column)


def _moved(start: Mark, lines: int, columns: int) -> Mark:
    """The place so many lines and columns into a text; columns shift on its first line only."""
    column = columns + (start.column if lines == 0 else 1)
    return Mark(start.file, start.line + lines, column)


def _laid_out(value: Any, indent: int = 0) -> Any:
    """ruamel's containers, each on one line where it is short and no mere wrapping."""
    if isinstance(value, dict):
        entries = {_laid_out(key): _laid_out(entry, indent + 2) for key, entry in value.items()}
        node = CommentedMap(entries)
        wraps = len(value) == 1 and any(
            isinstance(entry, dict) and entry for entry in node.values()
        )
    elif isinstance(value, list | tuple):
        node = CommentedSeq(_laid_out(entry, indent + 2) for entry in value)
        wraps = False
    else:
        in_quotes = isinstance(value, str) and not _ORDINARY.fullmatch(value)
        return DoubleQuotedScalarString(value) if in_quotes else value
    if indent and not wraps and indent + len(repr(value)) <= _WIDTH - 30:
        node.fa.set_flow_style()
    else:
        node.fa.set_block_style()
    return node
