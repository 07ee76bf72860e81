"""Snakemake's benchmark files: ``<run>/benchmarks/<stage>/.../<product>.tsv``, one header and one line a repeat.

Source: snakemake 9.27.1, ``snakemake/benchmark.py``: seconds in ``s`` and ``cpu_time``, memory in ``max_rss`` in MiB.
"""

import csv
import math

from zarrmill.errors import ZarrmillError
from zarrmill.io.listing import Listing
from zarrmill.io.places import Place, together
from zarrmill.io.state import STAGES, State
from zarrmill.model import Measured


def read_benchmarks(state: State, listing: Listing | None = None) -> dict[tuple[str, str], Measured]:
    """Return the last repeat of every benchmark file by stage and product name; 0 where nothing was measured.

    Files that cannot be read are left out: they add to the report and decide nothing.
    Raises: UnknownStateError: the state cannot be listed.
    """
    folder = state.root / "benchmarks"
    staged = {}
    for place, _ in (listing or Listing(state.root)).below(folder):
        stage = next((part for part in place.key_in(folder).split("/") if part in STAGES), None)
        if stage is not None and place.name.endswith(".tsv"):
            staged[place] = (stage, place.name.removesuffix(".tsv"))
    costs = zip(staged.values(), together(_read, staged, folder.n_reads), strict=True)
    return {key: cost for key, cost in costs if cost is not None}


def _read(place: Place) -> Measured | None:
    try:
        rows = list(csv.DictReader(place.read_text().splitlines(), delimiter="\t"))
    except (FileNotFoundError, ZarrmillError, UnicodeDecodeError, csv.Error):
        return None
    if not rows or "s" not in rows[-1]:
        return None
    last = rows[-1]
    return Measured(
        wall_s=_number(last.get("s")),
        cpu_s=_number(last.get("cpu_time")),
        peak_rss_bytes=int(_number(last.get("max_rss")) * 2**20),
    )


def _number(text: str | None) -> float:
    """Return a cell; jobs shorter than the first measurement have ``NA`` or ``-``."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
