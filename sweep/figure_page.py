"""A web page that needs nothing but itself: text, and figures that are drawn when scrolled near."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --faint: #5c6470; --line: #8884;
  --ground: #fff; --raised: #f5f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --faint: #a2aab6;
  --ground: #15181d; --raised: #1e2229; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
body.single { max-width: none; margin: .5rem; padding: 0; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0 1rem; } .faint { color: var(--faint); }
table { border-collapse: collapse; }
.pair { table-layout: fixed; width: 100%; overflow-wrap: anywhere; }
.pair th { white-space: normal; }
.pair th:first-child { width: 24%; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1.2rem .25rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; }
.whole { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.words { font-size: .85rem; color: var(--faint); }
.wide { overflow-x: auto; }
pre { background: var(--raised); padding: .8rem 1rem; overflow-x: auto; border-radius: 6px;
  font: 13px/1.5 ui-monospace, monospace; }
.figure { margin: 1.2rem 0; }
.differs { font-weight: 600; }
@media print { pre { white-space: pre-wrap; } }
"""

# The library is unpacked once the text is shown; each figure is drawn when it is scrolled near.
# No figure holds colours of the page: its text takes them from the page's own text.
_SCRIPT = """
(async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("library").textContent),
    (one) => one.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();
  const ink = () => getComputedStyle(document.body).color;
  const draw = (place) => {
    if (drawn.has(place)) return;
    drawn.add(place);
    const figure = JSON.parse(document.getElementById("data-" + place.id).textContent);
    figure.layout.font.color = ink();
    Plotly.newPlot(place, figure.data, figure.layout,
      { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
        toImageButtonOptions: { filename: place.id, scale: 2 } });
  };
  const places = [...document.querySelectorAll(".figure")];
  const watcher = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) draw(one.target);
  }, { rootMargin: "600px" });
  places.slice(0, 1).forEach(draw);
  places.slice(1).forEach((place) => watcher.observe(place));
  addEventListener("beforeprint", () => places.forEach(draw));
  dark.addEventListener("change", () => {
    for (const place of drawn) Plotly.relayout(place, { "font.color": ink() });
  });
})();
"""


class Section(NamedTuple):
    """A part of a page: HTML, then figures by the names their elements get."""

    html: str
    figures: Mapping[str, go.Figure]


def page(title: str, sections: Sequence[Section], *, single: bool = False) -> str:
    """One HTML text; the figures' library is in it once. The HTML of sections is taken as it is."""
    figures = {name: drawn for part in sections for name, drawn in part.figures.items()}
    body = "".join(part.html + "".join(map(_place, part.figures.items())) for part in sections)
    data = "".join(_data(name, drawn) for name, drawn in figures.items())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<body{' class="single"' if single else ""}>
{body}
<noscript><p>The figures of this page are drawn by a script of its own.</p></noscript>
{data}<script type="text/plain" id="library">{_library()}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _place(named: tuple[str, go.Figure]) -> str:
    """The element that a figure is drawn into, as high as the figure so that nothing moves."""
    name, drawn = named
    return f'<div class="figure" id="{name}" style="min-height:{drawn.layout["height"]}px"></div>\n'


def _data(name: str, drawn: go.Figure) -> str:
    text = drawn.to_json()
    assert text is not None
    text = text.replace("<", "\\u003c")  # no text in it may end the element
    return f'<script type="application/json" id="data-{name}">{text}</script>\n'


@cache
def _library() -> str:
    """plotly.js, deflated, in base64: 2.0 MB in place of 4.8."""
    return base64.b64encode(zlib.compress(get_plotlyjs().encode(), 6)).decode()
