"""The `sweep` command. Nothing heavy is imported before a command needs it."""

import difflib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweep.errors import CommandError

if TYPE_CHECKING:
    from rich.console import Console

    from search_spaces import SweepConfig
    from sweep.launch import Outcome, Show
    from sweep.study import SweepRecord, TrialRecord

app = typer.Typer(
    help="Find the learning-rate schedule that trains a model best.",
    epilog="Start with: sweep launch quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[str, typer.Argument(metavar="FILE", help="A sweep file, or a preset's name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A sweep's name.")]
SweepsDir = Annotated[
    Path, typer.Option(envvar="SWEEP_DIR", help="The folder that holds the sweeps.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: search.num_trials=8."),
]
ManualDir = Annotated[
    Path | None, typer.Option(help="Take the data set's files from here (SWEEP_MANUAL_DIR).")
]
Address = Annotated[
    str | None, typer.Option(help="The Ray cluster to run on (default: RAY_ADDRESS, or here).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SWEEPS_DIR = Path("sweeps")


def main() -> None:
    """Run the command line; a person's mistake ends in a message, never in a traceback."""
    try:
        app()
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except ValueError as error:
        from search_spaces import ConfigError
        from trainers.data import DatasetError

        if not isinstance(error, ConfigError | DatasetError):
            raise
        _fail(str(error), 2)


@app.command()
def launch(
    file: File,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Call the sweep this instead.")] = None,
    address: Address = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL of the study (default: a file).")
    ] = None,
    manual_dir: ManualDir = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Run a new sweep and follow it to its end."""
    config = _load(file, [*(set_ or []), *([] if name is None else [f"name={json.dumps(name)}"])])
    directory = sweeps_dir / config.name
    if directory.exists():
        raise CommandError(
            f"the name {config.name} is taken by {directory}\n"
            f"  go on with that sweep:  sweep resume {config.name}\n"
            f"  launch a new one:       sweep launch {file} --name {_free_name(directory)}",
            exit_code=4,
        )
    from sweep.launch import launch as run

    with _progress(config.name) as show:
        outcome = run(
            config,
            directory,
            address=address,
            storage=storage,
            manual_dir=manual_dir,
            show=show,
        )
    _conclude(outcome)


@app.command()
def resume(
    name: Name,
    address: Address = None,
    manual_dir: ManualDir = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Go on with an interrupted sweep, its unfinished trials first."""
    directory = _directory(name, sweeps_dir)
    from sweep.launch import resume as run

    with _progress(name) as show:
        outcome = run(directory, address=address, manual_dir=manual_dir, show=show)
    _conclude(outcome)


@app.command()
def check(file: File, set_: Set = None) -> None:
    """Check a sweep file without running it."""
    from search_spaces import free_parameters

    config = _load(file, set_)
    trials = config.search.num_trials
    print(
        f"{config.name} is valid: {trials or 'any number of'} trials of up to "
        f"{config.training.num_epochs} epochs, {len(config.space.schedule)} schedule families, "
        f"{len(free_parameters(config))} free parameters, searched by {config.search.algorithm}"
    )


@app.command()
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
    config = _load(file, set_)
    from sweep.preview import preview_data, preview_of

    found = preview_of(config, number, sweeps_dir)
    if png or html:
        from sweep.preview_page import save

        save(found, png=png, html=html)
    if as_json:
        return _print_json(preview_data(found))
    from sweep.preview_text import preview_text

    console = _console()
    return console.print(preview_text(found, console.width))


@app.command()
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
        _print_json([entry_data(entry) for entry in find_entries(family)])
    else:
        from sweep.catalogue_text import catalogue_text

        console = _console()
        console.print(catalogue_text(family, console.width))


@app.command(name="ls")
def list_sweeps(sweeps_dir: SweepsDir = SWEEPS_DIR, as_json: Json = False) -> None:
    """List the sweeps."""
    from sweep.progress import sweep_table
    from sweep.results import summary

    rows = []
    for path in sorted(sweeps_dir.glob("*/sweep.json")):
        try:
            rows.append(summary(*_read(path.parent)))
        except (CommandError, ValueError) as error:
            print(error, file=sys.stderr)
    if as_json:
        _print_json(rows)
    elif rows:
        _console().print(sweep_table(rows))
    else:
        print(f"no sweeps in {sweeps_dir}; start one with: sweep launch quickstart")


@app.command()
def status(name: Name, sweeps_dir: SweepsDir = SWEEPS_DIR, as_json: Json = False) -> None:
    """Show where a sweep stands, and what the tracking server does not hold yet."""
    from sweep.delivery import read_status, undelivered
    from sweep.progress import headline
    from sweep.results import summary

    sweep, trials = _read(_directory(name, sweeps_dir))
    held = read_status(sweep.directory)
    late_trials, late_epochs = undelivered(held, trials)
    if as_json:
        delivery = {"trials": late_trials, "epochs": late_epochs, "error": held.error}
        return _print_json(summary(sweep, trials) | {"undelivered": delivery})
    _console().print(headline(sweep, trials), soft_wrap=True)
    print(f"{sweep.state}; MLflow: {_delivery_text(late_trials, late_epochs, held.error)}")
    return None


@app.command()
def best(
    name: Name,
    number: Annotated[int, typer.Option("-n", help="How many trials.", min=1)] = 5,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
    as_json: Json = False,
) -> None:
    """Show a sweep's best trials."""
    from sweep.progress import trial_table
    from sweep.results import leaderboard, trial_summary

    sweep, trials = _read(_directory(name, sweeps_dir))
    top = [t for t in leaderboard(sweep.config, trials) if t.state == "complete"][:number]
    if as_json:
        _print_json([trial_summary(trial) for trial in top])
    elif top:
        _console().print(trial_table(sweep, top))
    else:
        raise CommandError(f"no trial of {name} is complete; see: sweep status {name}")


@app.command()
def export(
    name: Name,
    trial: Annotated[int | None, typer.Option(help="A trial other than the best.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file.")
    ] = None,
    format_: Annotated[Literal["yaml", "json"], typer.Option("--format")] = "yaml",
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Print the config that trains the best trial again."""
    from sweep.results import best_config, best_config_yaml, exportable_trial

    sweep, trials = _read(_directory(name, sweeps_dir))
    chosen = exportable_trial(sweep, trials, trial)
    if format_ == "yaml":
        text = best_config_yaml(sweep, chosen)
    else:
        config = best_config(sweep, chosen)
        text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    if output:
        try:
            output.write_text(text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}") from error
        print(f"wrote {output}; train it with: sweep train {output}", file=sys.stderr)
    else:
        sys.stdout.write(text)


@app.command()
def train(
    file: Annotated[Path, typer.Argument(help="A config without free parameters: best.yaml.")],
    manual_dir: ManualDir = None,
    as_json: Json = False,
) -> None:
    """Train one config without Ray, compare it with the sweep it came from, and test it."""
    config = _load(str(file), None)
    from sweep.retrain import retrain

    def show(report: Any) -> None:
        print(
            f"epoch {report.epoch:3}  train_loss {report.train_loss:.4f}  "
            f"val_loss {report.val_loss:.4f}  val_accuracy {report.val_accuracy:.4f}",
            file=sys.stderr,
        )

    result = retrain(config, manual_dir=manual_dir, on_epoch=show)
    if as_json:
        return _print_json(result._asdict())
    print(f"{result.metric} {result.value}")
    if result.expected is not None:
        equal = "equal" if result.value == result.expected else "not equal"
        print(f"expected {result.expected} ({equal})")
    for difference in result.differences:
        print(f"{difference} is not the one of the sweep", file=sys.stderr)
    print(f"test_accuracy {result.test_accuracy}")
    return None


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Open on a sweep.")] = None,
    port: Annotated[int, typer.Option(help="0: any free port.")] = 5000,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Start the MLflow UI on this machine's loopback address."""
    from sweep.ui import serve

    serve(sweeps_dir, None if name is None else _directory(name, sweeps_dir), port)


def _load(file: str, overrides: list[str] | None) -> "SweepConfig":
    """A checked config, from a file or a preset."""
    from search_spaces import load_config, preset_path, presets

    path = Path(file)
    preset = None if path.exists() else preset_path(file)
    if not preset and not path.exists() and not path.suffix:
        near = difflib.get_close_matches(file, presets(), 1)
        hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(presets())}"
        raise CommandError(f"there is no file and no preset {file}; {hint}", exit_code=2)
    return load_config(preset or path, overrides or (), samples=20)


def _directory(name: str, sweeps_dir: Path) -> Path:
    """The directory of an existing sweep."""
    directory = sweeps_dir / name
    if not (directory / "sweep.json").exists():
        names = [path.parent.name for path in sweeps_dir.glob("*/sweep.json")]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "list them with: sweep ls"
        raise CommandError(f"no sweep {name} in {sweeps_dir}; {hint}", exit_code=2)
    return directory


def _free_name(directory: Path) -> str:
    numbers = range(2, 1_000_000)
    names = (f"{directory.name}-{number}" for number in numbers)
    return next(name for name in names if not (directory.parent / name).exists())


def _read(directory: Path) -> "tuple[SweepRecord, list[TrialRecord]]":
    from sweep.directory import read_sweep

    return read_sweep(directory)


@contextmanager
def _progress(name: str) -> "Iterator[Show]":
    from sweep.progress import Progress

    print(f"{name}: starting Ray; the first results take some seconds", file=sys.stderr)
    try:
        with Progress(_console(stderr=True)) as progress:
            yield progress.show
    except KeyboardInterrupt:
        message = f"stopped at once; go on with: sweep resume {name}"
        raise CommandError(message, exit_code=130) from None


def _conclude(outcome: "Outcome") -> None:
    """The last lines of a launch, and its exit code."""
    from sweep.progress import conclusion, headline, trial_table
    from sweep.results import leaderboard

    console, top = _console(stderr=True), leaderboard(outcome.sweep.config, outcome.trials)[:5]
    console.print(headline(outcome.sweep, outcome.trials), soft_wrap=True)
    if top:
        console.print(trial_table(outcome.sweep, top))
    for line in conclusion(outcome):
        print(line)
    raise typer.Exit(outcome.exit_code)


def _delivery_text(trials: int, epochs: int, error: str | None) -> str:
    if not trials:
        return "everything delivered"
    return f"{trials} trials ({epochs} epochs) not yet delivered" + (f": {error}" if error else "")


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(stderr=stderr, highlight=False, width=width)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _fail(message: str, exit_code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(exit_code)
