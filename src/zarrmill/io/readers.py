"""Independent readers that must open a finished store: xarray, rioxarray, rio-tiler and GDAL (rasterio).

Each is asked the way its users ask, and what it sees is compared with the store's own metadata. Beside other work they are
asked in a process of their own (``Apart``): importing them takes a second, in which one thread would keep the others from
Python. That process reads one JSON object and writes a line for each reader.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from zarrmill.config import S3
from zarrmill.errors import UnknownStateError, ZarrmillError
from zarrmill.io import bucket as buckets
from zarrmill.io.objects import Objects
from zarrmill.io.process import die_with_parent, spare_collector, spare_imports

OK = "ok"
GDAL_PLAIN = (3, 12)
"""First GDAL that reads unsharded Zarr v3 stores of this profile (measured with 3.12.2)."""
GDAL_SHARDED = (3, 13)
"""First GDAL that reads sharded arrays: https://github.com/OSGeo/gdal/issues/13529."""
_UNKNOWN = "unknown: "
"""An answer that begins so says nothing of the store: an outage."""
SPARED = ("dask", "pyarrow")
"""What readers import where they find it, and no answer needs: 0.15 s and 60 MB."""
PREVIEW_PX = 256
CORNER_PX = 1e-3
"""Pixels that a corner of the raster may be off with a reader, most of which reckon the transform from x and y."""
ANSWER_S = 900.0
"""Seconds that readers may take in all."""


_GDAL_PATIENCE = {"GDAL_HTTP_CONNECTTIMEOUT": "10", "GDAL_HTTP_LOW_SPEED_TIME": "60", "GDAL_HTTP_LOW_SPEED_LIMIT": "1"}
"""Without these GDAL waits for ever for a server that says nothing."""


class ReaderProblem(Exception):  # noqa: N818 - it is what a reader tells, not an error of ours
    """A reader opened the store and sees something else than its metadata say."""


@dataclass(frozen=True, slots=True)
class Target:
    """The raster that readers are asked for."""

    group: str
    """Multiscales group."""
    finest: str
    """Group of the finest level."""
    coarsest: str
    """Group of the coarsest level that has the band."""
    band: str
    shape: tuple[int, int]
    """``(y, x)`` of the finest level."""
    transform: tuple[float, ...] | None
    """Of the finest level, rasterio order; None when the store does not state it."""
    epsg: int | None
    nodata: float | None
    """``_FillValue`` of the band."""
    sharded: bool
    has_cf: bool
    """The band has a grid mapping and x, y: what readers without the conventions need."""


def ask(names: Sequence[str], objects: Objects, target: Target) -> dict[str, str]:
    """Ask readers one after the other; return what each says, by its name, see ``run_reader``.

    Raises: SourceError: the store does not answer.
    """
    return {name: _asked(name, objects, target) for name in names}


def _asked(name: str, objects: Objects, target: Target) -> str:
    """Ask one reader; of a remote store twice when it fails: what an outage did to it is no fault of the store.

    Raises: SourceError: the store does not answer.
    """
    answer = run_reader(name, objects, target)
    if not answer.startswith("failed") or objects.local is not None:
        return answer
    objects.exists(f"{target.finest}/zarr.json")
    return run_reader(name, objects, target)


class Apart:
    """Readers in another process, which imports the first of them while this one has other things to do.

    One that crashes has the reader that it was at fail, and those behind. A context: the process does not outlive it.
    """

    def __init__(self, names: Sequence[str], href: str) -> None:
        """Args: names: at least one; href: store; it is reached as this process reaches it."""
        self._names, self._href = list(names), href
        spared = [*SPARED, *(["boto3"] if Objects(href).local is not None else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", __name__, self._names[0], *spared],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, target: Target, *, within_s: float = ANSWER_S) -> dict[str, str]:
        """Do as ``ask``, once.

        Args: within_s: seconds for all of them. Raises: UnknownStateError: they do not come to an end, are killed from outside,
            or the store does not answer them.
        """
        s3 = buckets.settings().model_dump(mode="json")
        asked = {"names": self._names, "href": self._href, "target": asdict(target), "s3": s3}
        try:
            out, err = self._process.communicate(json.dumps(asked), within_s)
        except subprocess.TimeoutExpired as error:
            text = f"{self._href}: {', '.join(self._names)} did not answer in {within_s:.0f} s; validate again"
            raise UnknownStateError(text, kind="outage") from error
        answers = dict(json.loads(line) for line in out.splitlines())
        if outages := [answer for answer in answers.values() if answer.startswith(_UNKNOWN)]:
            raise UnknownStateError(f"{self._href}: {outages[0].removeprefix(_UNKNOWN)}; validate again", kind="outage")
        silent = [name for name in self._names if name not in answers]
        if silent and -self._process.returncode in (signal.SIGKILL, signal.SIGTERM):
            text = f"{self._href}: the process that asks {silent[0]} {_end(self._process.returncode)}, most often for its memory"
            raise UnknownStateError(f"{text}; validate again, with more memory or one thread", kind="outage")
        if silent:
            end, last = _end(self._process.returncode), err.strip().rpartition("\n")[2][:200]
            why = f"failed: the process that asks {silent[0]} {end}: {last}"
            answers |= dict.fromkeys(silent, why.rstrip(": "))
        return answers


def _end(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def main() -> None:
    """Ask the readers that the JSON object on stdin names; write name and answer of each, one a line.

    The first argument names the reader that is imported before stdin is read, the others what is not imported at all.
    """
    die_with_parent()
    spare_collector()
    spare_imports(*sys.argv[2:])
    with suppress(Exception):  # what goes wrong goes wrong again, and is told, when the reader is asked
        importlib.import_module(_MODULES[sys.argv[1]])
    asked = json.load(sys.stdin)
    buckets.use(S3.model_validate(asked["s3"]))
    objects = Objects(asked["href"])
    fields: dict[str, Any] = {name: tuple(f) if isinstance(f, list) else f for name, f in asked["target"].items()}  # Any: JSON
    target = Target(**fields)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for name in asked["names"]:
        try:
            answer = _asked(name, objects, target)
        except ZarrmillError as error:
            answer = f"{_UNKNOWN}{error.message}"
        answers.write(json.dumps([name, answer]) + "\n")
        answers.flush()


def run_reader(name: str, objects: Objects, target: Target) -> str:
    """Ask one reader; return ``ok``, ``skipped: <why>``, or ``failed: <what it said>``. Does not raise for a broken store."""
    known = (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _READERS[name](objects, target)
        except (*known, ReaderProblem) as error:
            return _failed(error)
        except Exception as error:
            if not isinstance(error, _errors()):
                raise
            return _failed(error)


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {error}".split("\n")[0][:300]


def _errors() -> tuple[type[Exception], ...]:
    """Return what libraries raise that is no error of Python's own."""
    from pyproj.exceptions import ProjError
    from rasterio.errors import RasterioError
    from rio_tiler.errors import RioTilerError

    return (ProjError, RasterioError, RioTilerError)


def _expect(found: Any, wanted: Any, what: str) -> None:  # Any: readers answer with their own types
    if found != wanted:
        raise ReaderProblem(f"{what} is {found}, expected {wanted}")


def _expect_transform(found: tuple[float, ...], target: Target) -> None:
    if target.transform is not None and not _corners_agree(found[:6], target.transform, target.shape):
        raise ReaderProblem(f"transform is {tuple(found[:6])}, expected {target.transform}")


def _corners_agree(found: tuple[float, ...], wanted: tuple[float, ...], shape: tuple[int, int]) -> bool:
    """Return whether two transforms put every corner of a ``(y, x)`` shape in the same place, be it in metres or in degrees."""
    a, b, c, d, e, f = (one - other for one, other in zip(found, wanted, strict=True))
    corners = [(row, column) for row in (0, shape[0]) for column in (0, shape[1])]
    drift = max(max(abs(a * x + b * y + c), abs(d * x + e * y + f)) for y, x in corners)
    return drift <= CORNER_PX * max(abs(wanted[0]), abs(wanted[1]))


def _xarray(objects: Objects, target: Target) -> str:
    import xarray as xr
    import zarr

    store: Any = objects.zarr_store()  # xarray accepts a zarr store but does not say so
    with xr.open_datatree(store, engine="zarr", mask_and_scale=False, chunks=None) as tree:
        variable = tree[f"/{target.coarsest}/{target.band}".replace("//", "/")]
        values = np.asarray(variable.values)
    path = f"{target.coarsest}/{target.band}".strip("/")
    wanted = np.asarray(zarr.open_array(objects.zarr_store(), path=path, mode="r", zarr_format=3))
    _expect(values.shape, wanted.shape, f"shape of {target.band}")
    if not np.array_equal(values, wanted, equal_nan=values.dtype.kind == "f"):
        raise ReaderProblem(f"values of /{target.coarsest}/{target.band} differ from what zarr reads")
    return OK


def _rioxarray(objects: Objects, target: Target) -> str:
    import rioxarray  # noqa: F401 - registers the accessor
    import xarray as xr

    store: Any = objects.zarr_store()  # xarray accepts a zarr store but does not say so
    with xr.open_dataset(store, engine="zarr", group=target.finest or None, decode_coords="all", chunks=None) as dataset:
        raster = dataset[target.band]
        crs = raster.rio.crs
        _expect(crs.to_epsg() if crs else None, target.epsg, "EPSG code")
        _expect_transform(tuple(raster.rio.transform()), target)
        if target.nodata is not None:
            found = raster.rio.encoded_nodata if raster.rio.encoded_nodata is not None else raster.rio.nodata
            _expect(found, target.nodata, "nodata")
    return OK


def _rio_tiler(objects: Objects, target: Target) -> str:
    import zarr
    from rio_tiler.experimental.zarr import GroupReader

    opened = zarr.open_group(objects.zarr_store(), mode="r")
    group = opened[target.group] if target.group else opened
    with GroupReader(group) as reader:  # type: ignore[arg-type]
        _expect(reader.crs.to_epsg(), target.epsg, "EPSG code")
        image = reader.preview(variables=[target.band], max_size=PREVIEW_PX)
        if image.count != 1 or 0 in image.array.shape:
            raise ReaderProblem(f"preview of {target.band} has shape {image.array.shape}")
        zoom = reader.minzoom
        west, south, east, north = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
        tile = reader.tms.tile((west + east) / 2, (south + north) / 2, zoom)
        rendered = reader.tile(tile.x, tile.y, tile.z, variables=[target.band])
        _expect(rendered.array.shape[0], 1, "bands of the tile")
    return OK


def _rasterio(objects: Objects, target: Target) -> str:
    import rasterio

    version = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
    if target.sharded and version < GDAL_SHARDED:
        return f"skipped: GDAL {rasterio.__gdal_version__} cannot read shards, 3.13 can"
    if version < GDAL_PLAIN:
        return f"skipped: GDAL {rasterio.__gdal_version__} cannot read Zarr v3, 3.12 can"
    if not target.has_cf and version < GDAL_SHARDED:
        return f"skipped: GDAL {rasterio.__gdal_version__} needs a CF grid mapping with x and y"
    path = f"{target.finest}/{target.band}".strip("/")
    address, options = _gdal_address(objects)
    with rasterio.Env(**options), rasterio.open(f'ZARR:"{address}":/{path}') as dataset:
        _expect(dataset.shape, target.shape, "shape")
        _expect(dataset.crs.to_epsg() if dataset.crs else None, target.epsg, "EPSG code")
        _expect_transform(tuple(dataset.transform), target)
        if target.nodata is not None:
            _expect(dataset.nodata, target.nodata, "nodata")
    return OK


def _gdal_address(objects: Objects) -> tuple[str, dict[str, str]]:
    """Return how GDAL names the store, and the options with which it reaches it."""
    if objects.local is not None:
        return str(objects.local), {}
    # A directory is never listed: GDAL would ask for every folder of the store.
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_MAX_RETRY": str(objects.retries)} | _GDAL_PATIENCE
    if not objects.href.startswith("s3://"):
        return f"/vsicurl/{objects.href}", options
    bucket, prefix = buckets.split(objects.href)
    return f"/vsis3/{bucket}/{prefix}", options | buckets.gdal_options(bucket)


_MODULES = {"xarray": "xarray", "rioxarray": "rioxarray", "rio-tiler": "rio_tiler.experimental.zarr", "rasterio": "rasterio"}
_READERS: dict[str, Callable[[Objects, Target], str]] = {
    "xarray": _xarray,
    "rioxarray": _rioxarray,
    "rio-tiler": _rio_tiler,
    "rasterio": _rasterio,
}

if __name__ == "__main__":
    main()
