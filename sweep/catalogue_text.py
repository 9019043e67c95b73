"""The catalogue of schedules as text for a terminal."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from search_spaces.documents import write_document
from sweep.catalogue import EPOCHS, LETTERS, Entry, example_curve, find_entries
from sweep.drawing import LEAST_WIDTH, area, short, sparkline

_BLOCKS = 19
_ROOMY = 160  # columns that hold formula and parameters beside each other


def catalogue_text(name: str | None, width: int) -> RenderableType:
    """Every family in a few lines, or all about one."""
    width = max(width, LEAST_WIDTH)
    first, *others = entries = find_entries(name)
    if name is not None:
        return Group(*_details(first, width), *(line for e in others for line in _also(e, width)))
    momenta = [entry for entry in entries if entry.table == "momentum_schedule"]
    return Group(
        *_listed([entry for entry in entries if entry.table == "schedule"], width),
        *(Text(f"{letter}  {text}", "dim") for letter, text in LETTERS.items()),
        "",
        Text("What the momentum may follow, as momentum_schedule:", "bold"),
        "",
        *_listed(momenta, width),
        Text("All about one of them: sweep schedules FAMILY", "dim"),
    )


def _listed(entries: Sequence[Entry], width: int) -> Iterator[Text]:
    formulas = [f"{e.formula},  {e.where}" if e.where else e.formula for e in entries]
    longest = max(map(len, formulas)) + 2
    for entry, formula in zip(entries, formulas, strict=True):
        curve, names = example_curve(entry), " ".join(entry.names)
        drawn = "" if curve is None else sparkline(curve, _BLOCKS, foot=_foot(entry, curve))
        left = [Text(f"{entry.name:21}", "cyan"), Text(f"{drawn:21}", "green")]
        if width >= _ROOMY:
            yield Text.assemble(*left, f"{formula:{longest}}", (names, "dim"))
            continue
        right = [Text(line) for line in textwrap.wrap(formula, width - 21)]
        right += [Text(line, "dim") for line in textwrap.wrap(names, width - 21)]
        for one, other in zip_longest(left, right, fillvalue=Text(" " * 21)):
            yield one + other
        yield Text("")
    if width >= _ROOMY:
        yield Text("")


def _details(entry: Entry, width: int) -> Iterator[RenderableType]:
    yield Text.assemble((entry.name, "bold cyan"), "  ", entry.summary.replace("`", ""))
    yield ""
    yield Padding(Text(entry.formula, "bold"), (0, 0, 0, 4))
    letters = Table.grid(padding=(0, 2, 0, 0))
    for letter, text in entry.letters.items():
        letters.add_row(f"    {letter}", Text(text, "dim"))
    yield letters
    if entry.notes:
        yield ""
        yield Text(entry.notes.replace("`", ""))
    yield ""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("parameter", no_wrap=True, style="cyan")
    table.add_column("value")
    table.add_column("default", no_wrap=True)
    for parameter in entry.parameters:
        table.add_row(parameter.key, parameter.meaning, parameter.default)
    yield table
    yield ""
    yield Text("An example", "bold")
    yield from _example(entry, width)
    if entry.default_space is not None:
        yield ""
        yield Text(f"Its default space, which may be written  {entry.name}: default", "bold")
        yield _yaml({"space": {entry.table: {entry.name: entry.default_space}}})


def _also(entry: Entry, width: int) -> Iterator[RenderableType]:
    yield ""
    yield Text("The momentum may follow it as well", "bold")
    yield from _example(entry, width)


def _example(entry: Entry, width: int) -> Iterator[RenderableType]:
    """The lines of a sweep file, and a large drawing of what they say."""
    yield _yaml({"space": {entry.table: {entry.name: entry.example}}})
    curve = example_curve(entry)
    if curve is None:
        return
    foot = _foot(entry, curve)
    lines = area(curve, min(60, width - 10), 6, foot=foot)
    ends = {0: short(float(curve.max())), len(lines) - 1: short(foot)}
    yield ""
    for index, line in enumerate(lines):
        yield Text.assemble((f"{ends.get(index, ''):>8} ", "dim"), (line, "green"))
    of = {"reduce_on_plateau": ", the loss never falling", "mirror": " of one_cycle"}
    yield Text(f"{'':9}{EPOCHS} epochs{of.get(entry.name, '')}", "dim")


def _foot(entry: Entry, curve: np.ndarray) -> float:
    """Where a drawing starts: at 0, but for a momentum, which changes by little."""
    return 0.0 if entry.table == "schedule" else float(curve.min())


def _yaml(value: object) -> Text:
    return Text(write_document(value).rstrip("\n"), "green")
