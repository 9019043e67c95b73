"""The command that takes a winner out of a sweep: its config, its model, or both."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.commands import SWEEPS_DIR
from sweep.errors import CommandError
from sweep.options import ManualDir, Name, SweepsDir, read_sweep_of, sweep_directory

if TYPE_CHECKING:
    from sweep.records import SweepRecord, TrialRecord


def export(
    name: Name,
    trial: Annotated[int | None, typer.Option(help="A trial other than the best.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file.")
    ] = None,
    format_: Annotated[Literal["yaml", "json"], typer.Option("--format")] = "yaml",
    model: Annotated[
        Path | None,
        typer.Option(help="Write the trained model into this folder, and log it to MLflow."),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the model in MLflow, as NAME@champion."),
    ] = None,
    manual_dir: ManualDir = None,
    sweeps_dir: SweepsDir = SWEEPS_DIR,
) -> None:
    """Print the config that trains the best trial again, or write its trained model."""
    from sweep.results import exportable_trial

    if register is not None:
        _check_register(register, model)
    sweep, trials = read_sweep_of(sweep_directory(name, sweeps_dir))
    chosen = exportable_trial(sweep, trials, trial)
    if model is None or output is not None:
        _export_config(sweep, chosen, output, format_)
    if model is not None:
        _export_model(sweep, chosen, model, register, manual_dir)


def _check_register(register: str, model: Path | None) -> None:
    if model is None:
        raise CommandError(
            "--register must come with --model, the folder of the model to register: --model model",
            exit_code=2,
        )
    from sweep.registry import check_name

    check_name(register)


def _export_config(
    sweep: "SweepRecord",
    trial: "TrialRecord",
    output: Path | None,
    format_: Literal["yaml", "json"],
) -> None:
    from sweep.files import write_text
    from sweep.results import best_config, best_config_yaml

    if format_ == "yaml":
        text = best_config_yaml(sweep, trial)
    else:
        config = best_config(sweep, trial)
        text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    if output:
        try:
            if output.exists() and not output.is_file():  # /dev/stdout, a pipe
                output.write_text(text)
            else:
                write_text(output.resolve(), text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}") from error
        print(f"wrote {output}; train it with: sweep train {output}", file=sys.stderr)
    else:
        sys.stdout.write(text)


def _export_model(
    sweep: "SweepRecord",
    trial: "TrialRecord",
    folder: Path,
    register: str | None,
    manual_dir: Path | None,
) -> None:
    from sweep.export import check_target, trained_model, write_model
    from sweep.facts import load_data
    from sweep.registry import ALIAS, log_model
    from sweep.results import best_config, best_config_yaml
    from trainers.devices import claim

    check_target(folder)
    dataset = load_data(sweep.config, manual_dir)
    claim(num_cpus=1, gpu_share=0)
    config = best_config(sweep, trial)
    found = trained_model(sweep, trial, config, best_config_yaml(sweep, trial), dataset)
    described = write_model(folder, found)
    print(f"model    {folder}, of trial {trial.number}: {described['metric']} {trial.value}")
    print(f"load     as {folder / 'README.md'} says", flush=True)
    logged = log_model(sweep, trial, folder, described, register)
    print(f"MLflow   models:/{logged.model_id}, of run {logged.run_id}")
    if logged.version is not None:
        print(f"registry models:/{register}@{ALIAS}, version {logged.version}")
