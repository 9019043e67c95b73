"""A preview as a picture, and as a page that needs nothing but itself."""

import io
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from sweep.drawing import DECADES, needs_log_axis, short
from sweep.errors import CommandError
from sweep.preview import Preview, Sample
from sweep.preview_text import plan, ranges, sample_text
from trainers.hyperparameters import momentum_name

# Okabe & Ito 2008, to be told apart by everybody; later families are dashed.
_COLOURS = ("#2180c8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
_DASHES: tuple[LineStyleType, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
_POINTS = 1000
_INK = "#010203"  # becomes the colour of the page's text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .2rem 0 1.2rem; opacity: .75; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0;
  border-bottom: 1px solid #8884; }
th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.words { font-size: .85rem; }
.curves { width: 100%; height: auto; }
.small { width: 9rem; height: 1.6rem; vertical-align: middle; }
"""


def save(preview: Preview, *, png: Path | None, html: Path | None) -> None:
    """Write the picture, the page, or both; CommandError where that cannot be."""
    contents = {}
    for path, ending in ((png, ".png"), (html, ".html")):
        if path and path.suffix != ending:
            raise CommandError(f"the name must end in {ending}, but got {path}", exit_code=2)
    if png:
        contents[png] = picture(preview)
    if html:
        contents[html] = page(preview).encode()
    for path, content in contents.items():
        try:
            path.write_bytes(content)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}", 2) from error


def picture(preview: Preview) -> bytes:
    """All curves over each other, as a PNG."""
    figure, target = _figure(preview, "#222222"), io.BytesIO()
    figure.suptitle(f"{preview.config.name}: {len(preview.samples)} of its schedules", size=11)
    FigureCanvasAgg(figure).print_png(target)
    return target.getvalue()


def page(preview: Preview) -> str:
    """The plan, all curves over each other, and a row for each: one HTML text, without scripts."""
    config = preview.config
    samples = "".join(_rows(preview))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(config.name)}</title>
<style>{_STYLE}</style>
<h1>{escape(config.name)}</h1>
<p>{escape(config.description)}</p>
<table>{_pairs(plan(preview))}</table>
<h2>{len(preview.samples)} of its schedules</h2>
{_svg(preview)}
<table>
<tr><th>schedule<th>learning rate<th class="number">peak<th class="number">last<th>parameters
{samples}</table>
<h2>What is searched</h2>
<table>{_pairs(ranges(config))}</table>
</html>
"""


def _figure(preview: Preview, ink: str) -> Figure:
    momenta = any(sample.momenta is not None for sample in preview.samples)
    with rc_context({"font.size": 9, "text.color": ink, "axes.labelcolor": ink}):
        figure = Figure(figsize=(9, 6 if momenta else 4.6), dpi=110, layout="constrained")
        ratios = [3, 1] if momenta else [1]
        axes = figure.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        _draw(axes[0], [(sample, sample.learning_rates) for sample in preview.samples])
        axes[0].set_ylabel("learning rate")
        if momenta:
            _draw(axes[1], [(s, s.momenta) for s in preview.samples if s.momenta is not None])
            axes[1].set_ylabel(momentum_name(preview.config.training.optimizer))
        axes[-1].set_xlabel("optimizer step")
        for one in axes:
            one.set_facecolor("none")
            one.tick_params(which="both", color=ink, labelcolor=ink)
            one.spines[:].set(color=ink, alpha=0.3)
            one.grid(color=ink, alpha=0.12)
        lines = [
            Line2D([], [], color=colour, linestyle=dashes, label=family)
            for family, (colour, dashes) in _looks(preview.samples).items()
        ]
        figure.legend(handles=lines, loc="outside right upper", frameon=False)
    return figure


def _draw(axes: Axes, curves: list[tuple[Sample, np.ndarray]]) -> None:
    together = np.concatenate([_thin(curve)[1] for _, curve in curves])
    log = needs_log_axis(together)
    looks = _looks([sample for sample, _ in curves])
    for sample, curve in curves:
        colour, dashes = looks[sample.family]
        steps, values = _thin(curve)
        shown = np.where(values > 0, values, np.nan) if log else values
        axes.plot(steps, shown, color=colour, linestyle=dashes, linewidth=1.5, alpha=0.9)
    if log:
        peak = together.max()
        lowest = together[together > 0].min()
        axes.set_yscale("log")
        axes.set_ylim(max(lowest, peak / 10**DECADES) / 1.3, peak * 1.5)


def _looks(samples: list[Sample]) -> dict[str, tuple[str, LineStyleType]]:
    """A colour and a dash for each family."""
    families = dict.fromkeys(sample.family for sample in samples)
    return {
        family: (_COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)])
        for i, family in enumerate(families)
    }


def _thin(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = np.unique(np.linspace(0, len(curve) - 1, _POINTS).round().astype(np.int64))
    return steps, curve[steps]


def _svg(preview: Preview) -> str:
    """The picture as an element of a page, in the page's own colours."""
    target = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = _figure(preview, _INK)
        figure.set_facecolor("none")
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    label = f'<svg class="curves" role="img" aria-label="{len(preview.samples)} curves" '
    return text.replace("<svg ", label, 1).replace(_INK, "currentColor")


def _rows(preview: Preview) -> Iterator[str]:
    looks = _looks(preview.samples)
    for sample in preview.samples:
        curve = sample.learning_rates
        enqueued = ", enqueued" if sample.enqueued else ""
        yield (
            f"<tr><th>{escape(sample.family)}{enqueued}<td>{_small(curve, looks[sample.family][0])}"
            f'<td class="number">{short(float(curve.max()))}'
            f'<td class="number">{short(float(curve[-1]))}'
            f'<td class="words">{escape(sample_text(preview.config, sample))}\n'
        )


def _small(curve: np.ndarray, colour: str) -> str:
    """A curve by itself, between 0 and its peak."""
    places = np.unique(np.linspace(0, len(curve) - 1, 120).round().astype(np.int64))
    heights = curve[places] / max(float(curve.max()), np.finfo(np.float32).tiny)
    across = 140 * places / max(len(curve) - 1, 1)
    points = " ".join(f"{x:.1f},{23 - 22 * y:.1f}" for x, y in zip(across, heights, strict=True))
    return (
        f'<svg class="small" viewBox="0 0 140 24"><polyline points="{points}" fill="none" '
        f'stroke="{colour}" stroke-width="1.5"/></svg>'
    )


def _pairs(lines: dict[str, str]) -> str:
    return "".join(f"<tr><th>{escape(label)}<td>{escape(text)}\n" for label, text in lines.items())
