"""Items as stac-geoparquet: one row an item, GeoParquet metadata, read back without loss."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from zarrmill.io.places import Place
from zarrmill.model import Json


def write_items(items: Sequence[Json], place: Place) -> None:
    """Write ``items`` (at least one) whole or not at all; equal items give equal bytes. Raises: as ``Place.write_bytes``."""
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    with tempfile.TemporaryDirectory(prefix="zarrmill-") as folder:
        draft = Path(folder) / "items.parquet"
        to_parquet(parse_stac_items_to_arrow([dict(item) for item in items]), draft, compression="zstd", compression_level=3)
        place.write_bytes(draft.read_bytes())


def read_items(path: Path) -> list[dict[str, Json]]:
    """Return the items of a file that ``write_items`` made.

    Columns are shared by all rows, so a field that one item lacks comes back as null; items hold no nulls, they are dropped.
    """
    import pyarrow.parquet as pq
    from stac_geoparquet.arrow import stac_table_to_items

    return [_without_nulls(item) for item in stac_table_to_items(pq.read_table(path))]


def _without_nulls(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
