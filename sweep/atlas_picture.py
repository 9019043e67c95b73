"""The atlas of a sweep as a still picture."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from sweep.atlas import Curve, atlas_axes, atlas_curves, colour_of, value_range
from sweep.drawing import count
from sweep.figure_parts import COLOURS, LEARNING_RATE, SCALE, legend_name, metric_title
from sweep.records import SweepRecord, TrialRecord


def atlas_png(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> bytes:
    """The atlas as a PNG of 990 x 550 pixels."""
    curves = atlas_curves(sweep, trials)
    picture = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = picture.add_subplot()
    axes.set(xlabel="optimizer step", ylabel=LEARNING_RATE)
    axes.set_title(
        f"{sweep.name}: {count(len(trials), 'learning-rate curve')}", size=11, loc="left"
    )
    axes.grid(alpha=0.25)
    low, high = value_range(sweep, curves)
    axes.add_collection(
        LineCollection(
            [np.column_stack((curve.steps, curve.values)) for curve in curves],
            colors=[colour_of(sweep, curve, low, high) for curve in curves],
            linestyles=[":" if curve.planned else "-" for curve in curves],
            linewidths=1.1,
            alpha=0.8,
        )
    )
    _mark_ends(axes, curves)
    axes.autoscale_view()
    upright = atlas_axes(curves, sweep, normal=False)["yaxis"]
    if upright["type"] == "log":
        axes.set_yscale("log")
        axes.set_ylim(*(10**end for end in upright["range"]))
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
    if axes.get_legend_handles_labels()[0]:  # above the axes, for curves are anywhere in them
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.1}
        axes.legend(frameon=False, ncols=2, columnspacing=1, **place)
