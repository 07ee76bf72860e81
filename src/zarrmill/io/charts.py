"""Charts as inline SVG: same numbers, same bytes; no fonts, scripts or addresses from elsewhere.

Colours are names of the page's theme (CSS variables), so that one drawing serves light and dark. Matplotlib draws with
stand-in colours that ``_inline`` replaces; it is imported when the first chart is drawn.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "line": "#010205",
    "good": "#010206",
    "attention": "#010207",
    "bad": "#010208",
    "idle": "#010209",
    "first": "#01020a",
    "second": "#01020b",
    "third": "#01020c",
}
"""Theme name to the colour that stands for it while drawing."""
SERIES = ("first", "second", "third")
MAX_OUTLINES = 1500
"""Most outlines that a map draws."""

Formatter = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Outline:
    """One shape on the map."""

    rings: tuple[tuple[tuple[float, float], ...], ...]
    """Closed outlines of ``(lon, lat)`` in degrees."""
    colour: str
    """Name of a theme colour."""
    title: str
    """Text that appears when the pointer rests on it."""


def histogram(
    name: str,
    series: Mapping[str, Sequence[float]],
    label: str,
    *,
    limit: tuple[float, str] | None = None,
    colours: Sequence[str] = SERIES,
    n_bins: int = 24,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Return how values are spread: stacked bars, one colour a series, with a dashed line at ``limit``.

    ``name`` keeps the ids of several charts on a page apart; ``label`` names the x axis. Returns an empty string when
    there are no values.
    """
    values = [value for members in series.values() for value in members]
    if not values:
        return ""
    from matplotlib.ticker import MaxNLocator

    low, high = bounds or _bounds(values, limit[0] if limit else None)
    with figure_of(name, 4.6, 2.5) as figure:
        axes = figure.add_subplot()
        _bars(axes, series, colours, low, high, n_bins)
        if limit:
            _limit(axes, limit, low, high)
        axes.set_xlabel(label)
        axes.set_ylabel("products")
        axes.set_xlim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(y=0.16)
        if len(series) > 1:
            # Above the plot: inside it would hide bars.
            place: Any = {
                "loc": "lower left",
                "bbox_to_anchor": (0, 1),
                "ncols": len(series),
                "borderaxespad": 0,
                "handlelength": 1,
            }
            axes.legend(frameon=False, **place)
        return svg_of(figure, name, f"Histogram: {label}")


def stage_bars(name: str, stages: Mapping[str, Sequence[float]], seconds: Formatter) -> str:
    """Return how long each stage takes: bar to the median, line to the 95th percentile. Values are seconds by stage."""
    known = {stage: sorted(values) for stage, values in stages.items() if values}
    if not known:
        return ""
    with figure_of(name, 4.6, 0.75 + 0.5 * len(known)) as figure:
        axes = figure.add_subplot()
        tops = []
        for row, values in enumerate(known.values()):
            median, high = _at(values, 0.5), _at(values, 0.95)
            tops.append(high)
            axes.barh(row, median, height=0.5, color=COLOURS["first"])
            axes.plot([median, high], [row, row], color=COLOURS["first"], linewidth=2)
            axes.plot([high, high], [row - 0.14, row + 0.14], color=COLOURS["first"], linewidth=2)
            axes.annotate(f"{seconds(median)} · {seconds(high)}", (high, row), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(known)), list(known))
        axes.invert_yaxis()
        axes.set_xlim(0, max(tops) * 1.6 or 1)
        axes.set_xlabel("seconds a product: median · 95th percentile")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        return svg_of(figure, name, "Seconds a product by stage")


def finished_over_time(name: str, hours: Sequence[float]) -> str:
    """Return how many products were through after so many hours; ``hours`` are the moments, in any order."""
    if len(hours) < 2:
        return ""
    ordered = sorted(hours)
    scale, unit = (60.0, "minutes") if ordered[-1] < 2 else (1.0, "hours")
    step = max(1, len(ordered) // 400)
    shown = [(when * scale, n) for n, when in enumerate(ordered, start=1) if n % step == 0 or n == len(ordered)]
    with figure_of(name, 4.6, 2.5) as figure:
        axes = figure.add_subplot()
        xs, ys = [0.0, *(x for x, _ in shown)], [0, *(y for _, y in shown)]
        axes.fill_between(xs, ys, step="post", color=COLOURS["first"], alpha=0.18, linewidth=0)
        axes.step(xs, ys, where="post", color=COLOURS["first"], linewidth=1.8)
        axes.set_xlabel(f"{unit} since the first start")
        axes.set_ylabel("products ok")
        axes.set_xlim(0, xs[-1] or 1)
        axes.set_ylim(0, len(ordered) * 1.08)
        return svg_of(figure, name, "Products finished over time")


def footprint_map(name: str, outlines: Sequence[Outline]) -> str:
    """Return a map in longitude and latitude with graticule; outlines later in the sequence lie on top.

    Draws at most ``MAX_OUTLINES``, the last ones. An outline across the antimeridian is drawn in one piece, east of 180.
    """
    shown = [(_unwrapped(outline.rings), outline) for outline in outlines[-MAX_OUTLINES:] if outline.rings]
    if not shown:
        return ""
    from matplotlib.patches import Polygon

    extent = _extent([point for rings, _ in shown for ring in rings for point in ring])
    west, east, south, north, stretch = extent
    with figure_of(name, 9.4, 9.4 * (north - south) * stretch / (east - west)) as figure:
        axes = figure.add_subplot()
        for index, (rings, outline) in enumerate(shown):
            colour = COLOURS[outline.colour]
            for part, ring in enumerate(rings):
                patch = Polygon(ring, closed=True, edgecolor=colour, facecolor=(*_rgb(colour), 0.22), linewidth=1.1)
                patch.set_gid(f"outline-{index}-{part}")
                axes.add_patch(patch)
        _frame_map(axes, extent)
        svg = svg_of(figure, name, "Footprints of the products")
    titles = {f"{name}-outline-{i}-{p}": one.title for i, (rings, one) in enumerate(shown) for p in range(len(rings))}

    def titled(match: re.Match[str]) -> str:
        return f"{match[0]}<title>{escape(titles[match[1]])}</title>"

    return re.sub(rf'<g id="({re.escape(name)}-outline-\d+-\d+)">', titled, svg)


def _extent(points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float, float]:
    """Return west, east, south, north of a map around all points, and how much a degree north is longer than one east.

    The map is between 0.34 and 0.56 times as high as it is wide; the shorter side is widened for it.
    """
    lons, lats = [lon for lon, _ in points], [lat for _, lat in points]
    middle = (min(lats) + max(lats)) / 2
    stretch = 1 / max(0.1, math.cos(math.radians(middle)))
    centre = (min(lons) + max(lons)) / 2
    half_y = 0.55 * max(max(lats) - min(lats), 0.4)
    half_x = 0.55 * max(max(lons) - min(lons), 0.4 * stretch)
    half_x = max(half_x, half_y * stretch / 0.56)
    half_y = max(half_y, half_x * 0.34 / stretch)
    return centre - half_x, centre + half_x, middle - half_y, middle + half_y, stretch


def _frame_map(axes: "Axes", extent: tuple[float, float, float, float, float]) -> None:
    """Set extent, aspect and graticule."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    west, east, south, north, stretch = extent
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect(stretch)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees((value + 180) % 360 - 180, "E", "W")))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees(value, "N", "S") if abs(value) <= 90 else ""))
    axes.grid(visible=True, axis="both")


@contextmanager
def figure_of(name: str, width: float, height: float) -> Iterator["Figure"]:
    """Give an empty figure, sizes in inches, within the settings that all charts share."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {  # matplotlib lists every key as a literal type
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.size": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.edgecolor": COLOURS["line"],
        "axes.labelcolor": COLOURS["muted"],
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": COLOURS["line"],
        "grid.linewidth": 0.7,
        "text.color": COLOURS["ink"],
        "xtick.color": COLOURS["line"],
        "ytick.color": COLOURS["line"],
        "xtick.labelcolor": COLOURS["muted"],
        "ytick.labelcolor": COLOURS["muted"],
        "ytick.major.size": 0,
        "legend.labelcolor": COLOURS["ink"],
    }
    with matplotlib.rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained", facecolor="none")


def svg_of(figure: "Figure", name: str, label: str) -> str:
    from io import StringIO

    for axes in figure.axes:
        axes.set_facecolor("none")
    stream = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    return _inline(stream.getvalue(), name, label)


def _inline(text: str, name: str, label: str) -> str:
    """Turn a stand-alone SVG file into an element of an HTML page: own ids, theme colours, the page's font."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg class="chart" role="img" aria-label="{escape(label)}" {view_box[0] if view_box else ""}>'
    body = re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for theme, stand_in in COLOURS.items():
        body = body.replace(stand_in, f"var(--{theme})")
    return re.sub(r"\s*\n\s*", "\n", body).strip()


def _bars(
    axes: "Axes", series: Mapping[str, Sequence[float]], colours: Sequence[str], low: float, high: float, n_bins: int
) -> None:
    """Draw the stacked bars of a histogram."""
    axes.hist(
        [list(members) for members in series.values()],
        bins=n_bins,
        range=(low, high),
        stacked=True,
        color=[COLOURS[colour] for colour, _ in zip(colours, series, strict=False)],
        label=list(series),
        edgecolor="none",
        rwidth=0.9,
    )


def _limit(axes: "Axes", limit: tuple[float, str], low: float, high: float) -> None:
    """Draw a dashed line with its name on the side that has room."""
    x, text = limit
    on_right = x > low + 0.6 * (high - low)
    axes.axvline(x, color=COLOURS["bad"], linestyle=(0, (4, 3)), linewidth=1.2)
    axes.annotate(
        text,
        (x, 1),
        (-5 if on_right else 5, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if on_right else "left",
        va="top",
        color=COLOURS["bad"],
    )


def _bounds(values: Sequence[float], limit: float | None) -> tuple[float, float]:
    low, high = min(values), max(values)
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    pad = 0.05 * (high - low) or max(0.5, abs(high) * 0.05)
    return max(0.0, low - pad), high + pad


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _unwrapped(rings: Sequence[Sequence[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    unwrapped = []
    for ring in rings:
        lons = [lon for lon, _ in ring]
        crosses = max(lons) - min(lons) > 180
        unwrapped.append([(lon + 360 if crosses and lon < 0 else lon, lat) for lon, lat in ring])
    return unwrapped


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _degrees(value: float, positive: str, negative: str) -> str:
    side = positive if value > 0 else negative if value < 0 else ""
    return f"{abs(round(value, 6)):g}°{side}"
