"""Commands on sweep files: check, preview, schedules, train."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sweep.commands import SWEEPS_DIR
from sweep.options import (
    File,
    Json,
    ManualDir,
    Set,
    SweepsDir,
    console_for,
    fitted,
    load_file,
    print_json,
)


def check(file: File, set_: Set = None) -> None:
    """Check a sweep file without running it."""
    config = load_file(file, set_)
    from sweep.preview_text import check_text

    print(fitted(check_text(config), sys.stdout))


def preview(
    file: File,
    set_: Set = None,
    number: Annotated[
        int | None, typer.Option("-n", help="How many curves (default: 8, or all families).", min=1)
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the curves into this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write all of it as a page.")] = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
    as_json: Json = False,
) -> None:
    """Show what a sweep file would run: trials, time, and some of the curves."""
    config = load_file(file, set_)
    from sweep.preview import preview_data, preview_of

    found = preview_of(config, number, sweeps_dir)
    if png or html:
        from sweep.preview_page import save

        save(found, png=png, html=html)
    if as_json:
        return print_json(preview_data(found))
    from sweep.preview_text import preview_text

    console = console_for()
    return console.print(preview_text(found, console.width))


def schedules(
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="Only this one.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
    as_json: Json = False,
) -> None:
    """Show the schedule families: formulas, parameters, shapes, default spaces."""
    from sweep.catalogue import entry_data, find_entries, markdown_table

    if markdown:
        sys.stdout.write(markdown_table())
    elif as_json:
        print_json([entry_data(entry) for entry in find_entries(family)])
    else:
        from sweep.catalogue_text import catalogue_text

        console = console_for()
        console.print(catalogue_text(family, console.width))


def train(
    file: Annotated[Path, typer.Argument(help="A config without free parameters: best.yaml.")],
    model: Annotated[
        Path | None, typer.Option(help="Write the trained model into this folder.")
    ] = None,
    manual_dir: ManualDir = None,
    as_json: Json = False,
) -> None:
    """Train one config without Ray, compare it with the sweep it came from, and test it."""
    config = load_file(str(file), None)
    from sweep.retrain import retrain

    def show(report: Any) -> None:
        print(
            f"epoch {report.epoch:3}  train_loss {report.train_loss:.4f}  "
            f"val_loss {report.val_loss:.4f}  val_accuracy {report.val_accuracy:.4f}",
            file=sys.stderr,
        )

    result = retrain(config, manual_dir=manual_dir, on_epoch=show, model_folder=model)
    if as_json:
        return print_json(result._asdict())
    print(f"{result.metric} {result.value}")
    if result.expected is not None:
        equal = "equal" if result.value == result.expected else "not equal"
        print(f"expected {result.expected} ({equal})")
    for difference in result.differences:
        print(f"{difference} is not the one of the sweep", file=sys.stderr)
    print(f"test_accuracy {result.test_accuracy}")
    if model is not None:
        print(f"model {model}")
    return None
