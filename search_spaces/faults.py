"""What is wrong with a config file, where it stands, and how to say it."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Path = tuple[str | int, ...]


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
    """Every fault of one config at once; `str()` has one line for each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


def validation_error(flaws: Iterable[Flaw]) -> ValidationError:
    """The flaws in pydantic's own form; raised in a validator, their paths continue its path."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "config", "{message}", {"message": flaw.message, "at_key": flaw.at_key}
            ),
            loc=flaw.path,
            input=None,
        )
        for flaw in flaws
    ]
    return ValidationError.from_exception_data("config", details)


def dotted(path: Path) -> str:
    """A path as it is written: `enqueue[3].schedule.constant`."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            parts.append("." + (part if re.fullmatch(r"[\w<-]+", part) else _shortened(repr(part))))
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
            return f"the text {_shortened(repr(value))}"
        case dict():
            return f"a mapping of {len(value)} keys" if len(value) != 1 else "a mapping of 1 key"
        case list() | tuple():
            return f"[{_shortened(', '.join(map(plain, value)))}]"
        case _:
            return _shortened(repr(value))


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


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
