"""A small picture of a store, from a coarse level."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from zarrmill.errors import StoreError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.objects import Objects
from zarrmill.io.store_reader import ArrayReader, open_array, reachable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_READ_PX = 2048
"""Longest edge that is held in memory; finer levels are thinned out while they are read."""


def render_png(store: Objects, level_path: str, bands: tuple[str, str, str], rescale_dn: tuple[int, int], edge_px: int) -> bytes:
    """Return a PNG (RGBA) of three uint bands ``(red, green, blue)`` of one level, its longest edge at most ``edge_px``.

    Stored values between ``rescale_dn`` become 0 to 255; a pixel that holds ``_FillValue`` in any band is transparent. The same
    store gives the same bytes.
    Raises: StoreError: a band cannot be read; UnknownStateError: the place does not answer.
    """
    import io

    from PIL import Image

    layers = [_read(store, f"{level_path}/{band}") for band in bands]
    valid = np.logical_and.reduce([mask for _, mask in layers])
    low, high = rescale_dn
    pixels = np.zeros((*valid.shape, 4), dtype=np.uint8)
    for channel, (values, _) in enumerate(layers):
        scaled = np.clip((values.astype(np.float32) - low) / max(1, high - low), 0, 1)
        pixels[..., channel] = np.where(valid, np.rint(scaled * 255), 0)
    pixels[..., 3] = np.where(valid, 255, 0)
    image = Image.fromarray(pixels, mode=None)
    longest = max(image.size)
    if longest > edge_px:
        width, height = (max(1, round(side * edge_px / longest)) for side in image.size)
        # Pillow weighs colours by opacity when it resizes RGBA, so transparent pixels do not darken their neighbours.
        image = image.resize((width, height), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=9)
    return stream.getvalue()


def _read(store: Objects, path: str) -> "tuple[NDArray[Any], NDArray[np.bool_]]":
    """Return one array, thinned out to at most ``_MAX_READ_PX``, and where it holds data."""
    array = _open(store, path)
    step = max(1, max(array.shape) // _MAX_READ_PX)
    rows = max(1, array.inner[0] if step > 1 else array.shape[0])
    parts = []
    for start in range(0, array.shape[0], rows):
        block = array.read((slice(start, min(start + rows, array.shape[0])), slice(0, array.shape[1])))
        if isinstance(block, str):
            raise _damaged(store, path, block)
        parts.append(block[-start % step :: step, ::step])
    values = np.concatenate(parts)
    fill = array.attributes.get("_FillValue")
    return values, np.ones(values.shape, dtype=bool) if fill is None else values != fill


def _open(store: Objects, path: str) -> ArrayReader:
    try:
        with reachable():
            document = json.loads(store.get(f"{path}/zarr.json"))
        outer = tuple(map(int, document["chunk_grid"]["configuration"]["chunk_shape"]))
    except MissingObjectError as error:
        raise StoreError(f"{store.href}/{path}: no such array; validate the store", kind="missing") from error
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(store, path, f"its zarr.json is none: {error}") from error
    array = open_array(store, store, path, document, outer, None, full=False)
    if isinstance(array, str):
        raise _damaged(store, path, array)
    return array


def _damaged(store: Objects, path: str, why: str) -> StoreError:
    return StoreError(f"{store.href}/{path}: cannot be decoded ({why}); validate the store", kind="damaged")
