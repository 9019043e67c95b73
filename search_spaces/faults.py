"""What is wrong with a config file, where it stands, and how to say it."""

import difflib
import math
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Path = tuple[str | int, ...]

MAX_FAULTS = 100  # shown at once: nobody reads more, and a hostile file has many thousands
_MORE = f"only the first {MAX_FAULTS} faults are shown, and there are more; mend these first"
_LONGEST = 60  # characters of a value
_LONGEST_MESSAGE = 2_000


class Flaw(NamedTuple):
    """A fault that does not know its file yet. `at_key`: the key is wrong rather than its value."""

    path: Path
    message: str
    at_key: bool = False


class Fault(NamedTuple):
    """One thing wrong in one place; `line` and `column` count from 1, line 0 is no place."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(ValueError):
    """Every fault of one config at once, MAX_FAULTS at most; `str()` has one line for each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        first = islice(faults, MAX_FAULTS + 1)
        found = [fault._replace(message=_on_a_line(fault.message)) for fault in first]
        if len(found) > MAX_FAULTS:
            found[MAX_FAULTS:] = [Fault(found[0].file, 0, 0, "", _MORE)]
        self.faults = tuple(found)
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


def validation_error(flaws: Iterable[Flaw]) -> ValidationError:
    """The flaws in pydantic's own form; raised in a validator, their paths continue its path.

    Only the first of them, where they are more than can be shown: one more tells so.
    """
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "config", "{message}", {"message": flaw.message, "at_key": flaw.at_key}
            ),
            loc=flaw.path,
            input=None,
        )
        for flaw in islice(flaws, MAX_FAULTS + 1)
    ]
    return ValidationError.from_exception_data("config", details)


def dotted(path: Path) -> str:
    """A path as it is written: `enqueue[3].schedule.constant`."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            bare = re.fullmatch(r"[\w<-]+", part)
            parts.append("." + (_shortened(part) if bare else quoted(part)))
    return "".join(parts).removeprefix(".")


def named(path: Path) -> str:
    """What to call the value at a path: its last key, with the places in lists that follow."""
    keys = [index for index, part in enumerate(path) if isinstance(part, str)]
    return dotted(path[keys[-1] :]) if keys else "the value"


def shown(value: Any) -> str:
    """A value as the user wrote it, short and on one line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {quoted(value)}"
        case dict():
            return f"a mapping of {len(value)} keys" if len(value) != 1 else "a mapping of 1 key"
        case list() | tuple():
            return f"[{_shortened(', '.join(map(plain, value[:_LONGEST])))}]"
        case _:
            return _shortened(repr(value))


def quoted(text: str) -> str:
    """A text in quotes, short and on one line."""
    return _shortened(repr(text))


def plain(value: Any) -> str:
    """Like `shown`, but texts stand bare, as among the options of a rule."""
    return _shortened(value if isinstance(value, str) and value.isprintable() else shown(value))


def hint(word: Any, known: Iterable[Any], kind: str = "known") -> str:
    """The way out of a misspelt word: the one that was meant, or all that there are."""
    names = [plain(name) for name in known]
    close = difflib.get_close_matches(str(word), names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; {kind}: {', '.join(names)}" if names else ""


def unquote_hint(value: Any) -> str:
    """The way out where a number was written as a text."""
    try:
        return "; write it without quotes" if math.isfinite(float(value)) else ""
    except (TypeError, ValueError):
        return ""


def _shortened(text: str, limit: int = _LONGEST) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _on_a_line(message: str) -> str:
    """The message without what a terminal would act on, and of a length that can be read."""
    if not message.isprintable():
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    return _shortened(message, _LONGEST_MESSAGE)
