"""The files of a trial: a sealed line for every epoch, and where the training state lies."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.lines import DamagedError, Lines, append_lines
from trainers.crashes import reach


def read_reports(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The epochs in order, once each, and what is wrong with the file behind them, or nothing."""
    try:
        lines, damage = Lines(path).new(), ""
    except DamagedError as error:
        lines, damage = error.sound, str(error)
    reports: list[dict[str, Any]] = []
    for line in lines:  # one that a driver wrote while it was taken over from comes twice
        if line["epoch"] <= len(reports):
            reports[line["epoch"] - 1] = line
        elif line["epoch"] == len(reports) + 1:
            reports.append(line)
    return reports, damage


def put_aside(path: Path, reports: list[dict[str, Any]], driver: int) -> None:
    """Keep a damaged file beside a new one that holds its sound reports."""
    path.replace(path.with_name(path.name + ".damaged"))
    reach("put aside")
    if reports:
        append_lines(path, reports, driver)


def value_of(report: Mapping[str, Any], metric: str) -> float | None:
    """The metric of an epoch; None once the loss is not finite, whatever the metric then reads."""
    return None if report["diverged"] else report[metric]


def finite(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report as JSON can hold it: None for numbers that are not finite."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in report.items()
    }


def checkpoint_path(trials_directory: Path, number: int) -> Path:
    """Where a trial keeps its training state."""
    return trials_directory / f"{number:04d}" / "checkpoint"
