"""The atlas of a sweep as a still picture."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from sweep.atlas import Curve, atlas_curves, colour_of, value_range
from sweep.drawing import needs_log_axis
from sweep.figure_parts import COLOURS, LEARNING_RATE, SCALE, axis, legend_name, metric_title
from sweep.records import SweepRecord, TrialRecord


def atlas_png(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> bytes:
    """The atlas as a PNG of 990 x 550 pixels."""
    curves = atlas_curves(sweep, trials)
    picture = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = picture.add_subplot()
    axes.set(xlabel="optimizer step", ylabel=LEARNING_RATE)
    axes.set_title(f"{sweep.name}: {len(trials)} learning-rate curves", size=11)
    axes.grid(alpha=0.25)
    low, high = value_range(sweep, curves)
    for curve in curves:
        axes.plot(
            curve.steps,
            curve.values,
            color=colour_of(sweep, curve, low, high),
            linewidth=1.1,
            linestyle=":" if curve.planned else "-",
            alpha=0.8,
        )
    _mark_ends(axes, curves)
    _fit(axes, curves)
    if any(curve.state == "complete" for curve in curves):
        scale = LinearSegmentedColormap.from_list("results", [colour for _, colour in SCALE])
        scale = scale if sweep.config.search.goal == "maximize" else scale.reversed()
        shown = ScalarMappable(Normalize(low, high if high > low else low + 1e-3), scale)
        label = metric_title(sweep.config, sweep.config.search.metric)
        picture.colorbar(shown, ax=axes, label=label)
    target = io.BytesIO()
    FigureCanvasAgg(picture).print_png(target)
    return target.getvalue()


def _mark_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Marks where trials were pruned or diverged, with how many there are."""
    for state, symbol in (("pruned", "v"), ("diverged", "x")):
        found = [curve for curve in curves if curve.state == state]
        ended = [curve for curve in found if len(curve.steps)]
        if found:
            across = [curve.steps[-1] for curve in ended]
            upright = [curve.values[-1] for curve in ended]
            label = legend_name(state, len(found))
            axes.scatter(across, upright, marker=symbol, color=COLOURS[state], label=label, s=30)
            axes.legend(frameon=False)


def _fit(axes: Axes, curves: Sequence[Curve]) -> None:
    """Make the vertical axis logarithmic where the curves span decades."""
    together = np.concatenate([curve.values for curve in curves]) if curves else np.array([])
    if needs_log_axis(together):
        low, high = axis("", together.tolist())["range"]
        axes.set_yscale("log")
        axes.set_ylim(10**low, 10**high)
