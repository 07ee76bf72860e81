"""Convert one EOPF product into a sealed GeoZarr store.

The way of the pixels: the source's metadata and the recipe become a ``StorePlan``; one worker a source array streams its rows
once, writes the array and every level computed from it, and notes each row of chunks in the journal; then the metadata, then
the root ``zarr.json`` as the seal; then the store is read back and the receipt is returned.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import numcodecs
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from zarrmill import FORMAT_VERSION
from zarrmill.config import Pixels, Recipe, Source
from zarrmill.core import conventions as cv
from zarrmill.core.array_plans import is_mandatory
from zarrmill.core.blocks import column_bands, n_workers, stripe_rows
from zarrmill.core.grid import centres, grid_from_centres
from zarrmill.core.layout import GRD_TYPES, check_type, level_groups, source_crs, source_layout, store_plan
from zarrmill.core.layout_s1 import grd_plan, needed_arrays
from zarrmill.core.resample import coarser_levels
from zarrmill.core.warp import Run, WarpedImages, image_groups
from zarrmill.errors import SourceError, StoreError, ZarrmillError
from zarrmill.io.arrays import PlaneWriter, SmallObjects, array_document, group_document
from zarrmill.io.measure import Meter
from zarrmill.io.objects import Objects, local_path
from zarrmill.io.process import pin_threads
from zarrmill.io.record import dumps
from zarrmill.io.source import open_rows, read_metadata, read_tree, read_whole
from zarrmill.io.staging import opened
from zarrmill.io.store import StoreWriter, Writer, tree_digest
from zarrmill.io.store_bucket import BucketWriter
from zarrmill.io.takeover import take_over
from zarrmill.io.windows import WindowedArray
from zarrmill.io.written import Entry, Written
from zarrmill.model import ConvertReceipt, Finding, Grid, Product, RasterTask, Severity, SourceArray, SourceTree, StorePlan, Taken

Progress = Callable[[int, int], None]
"""Told decoded bytes done and in all."""

_NOT_THERE = (-1, "")
"""Bytes and entity tag of a source object that is not there."""
_Sinks = Sequence[tuple[int, PlaneWriter]]
"""Where the levels of a raster are written, each by its factor."""
_FINDINGS = TypeAdapter(tuple[Finding, ...])


def convert(
    product: Product,
    *,
    recipe: Recipe,
    store_root: str,
    threads: int = 1,
    attempt: int = 1,
    on_progress: Progress | None = None,
    fetch: Source | None = None,
) -> ConvertReceipt:
    """Convert ``product`` and return the receipt of its sealed store.

    ``fetch`` says how its pixels come here, where the recipe does not; without it they are read from their host.
    A sealed store of this name is verified and adopted, never written again. An unsealed one is continued.
    Raises: SourceError, CapacityError, StoreError: see ``zarrmill.errors``; the store is then not sealed.
    """
    meter = Meter(attempt=attempt, threads=threads)
    pin_threads(threads)
    writer = _writer(store_root, product, recipe)
    n_bytes_source = product.n_bytes
    try:
        adopted = writer.is_sealed()
        if adopted:
            writer.remove_journal()  # left by a kill right after the seal
        else:
            with opened(product.href, product.source_fingerprint, fetch and recipe.reading(fetch)) as objects:
                tree = _planned_tree(objects, product, meter)
                plan = plan_store(objects, tree, product.product_type, recipe)
                workers = n_workers(plan, threads, recipe.memory_mb, writer.buffer_bytes)
                n_bytes_source = plan.n_bytes
                meter.step("plan")
                with writer.locked():
                    adopted = writer.is_sealed()  # by a process that was waited for
                    if not adopted:
                        _Conversion(objects, tree, plan, writer, workers, on_progress).run(product, recipe, meter)
                    writer.remove_journal()
        return _receipt(product, recipe, writer, meter, n_bytes_source=n_bytes_source, adopted=adopted)
    except ZarrmillError as error:
        if product.product_id not in error.message:
            error.message = f"{product.product_id}: {error.message}"
        raise


def plan_store(objects: Objects, tree: SourceTree, product_type: str, recipe: Recipe) -> StorePlan:
    """Return the plan of the store that ``recipe`` makes of this source.

    Raises: SourceError: the source is not what its product type has, or its coordinates are not a regular grid.
    """
    check_type(tree, product_type)
    if product_type in GRD_TYPES:
        values = {path: _needed(objects, tree.arrays[path]) for path in needed_arrays(tree, recipe.pixels)}
        return grd_plan(tree, recipe.pixels, values)
    layout = source_layout(product_type)
    crs = source_crs(tree)
    levels, coarsest = level_groups(tree, recipe.pixels), max(recipe.pixels.levels_m)
    unused = {path for path, metres in levels.items() if path.startswith(f"{layout.multiscales}/") and metres > coarsest}
    grids = {path: _group_grid(objects, tree, path, levels[path], crs) for path in levels if path not in unused}
    if not any(path.startswith(f"{layout.multiscales}/") for path in grids):
        if unused:
            found = f"{objects.href}: {sorted(unused)} are all coarser than {coarsest} m, the coarsest of pixels.levels_m"
            raise SourceError(f"{found}; add their pixel sizes to the recipe", kind="layout")
        expected = f"as every {product_type} has; check the product type, report it to the provider"
        raise SourceError(f"{objects.href}: no groups {layout.multiscales}/r<metres>m, {expected}", kind="layout")
    return store_plan(tree, layout, recipe.pixels, grids)


def _writer(store_root: str, product: Product, recipe: Recipe) -> Writer:
    root = local_path(store_root)
    if root is not None:
        return StoreWriter(root / product.store_path, recipe.pixels.codec)
    if not store_root.startswith("s3://"):
        raise StoreError(f"{store_root}: stores are written to local folders and to s3://; change store_root", kind="denied")
    return BucketWriter(f"{store_root.rstrip('/')}/{product.store_path}", recipe.pixels.codec, recipe.storage_class)


def _planned_tree(objects: Objects, product: Product, meter: Meter) -> SourceTree:
    tree = read_tree(objects)
    if len(product.source_fingerprint) == 64:
        _check_fingerprint(objects, tree.fingerprint, product.source_fingerprint)
    meter.step("metadata")
    return tree


def _check_fingerprint(objects: Objects, found: str, planned: str) -> None:
    """Raise SourceError when the source's metadata is not the one that was planned."""
    if found != planned:
        text = f"{objects.href}: metadata digest {found[:12]}, planned {planned[:12]}; plan again"
        raise SourceError(text, kind="changed")


def _identity(product: Product, recipe: Recipe, tree: SourceTree) -> str:
    """Return the digest of all that shapes the store's bytes: also what its name leaves out, and the encoder."""
    parts = (FORMAT_VERSION, recipe.pixels.digest(), product.source_fingerprint, tree.fingerprint, numcodecs.__version__)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _needed(objects: Objects, array: SourceArray) -> NDArray[Any]:
    """Return a small array without which nothing can be placed. Raises: SourceError: a chunk is not there."""

    def missing(key: str) -> None:
        found = f"{objects.href}: array {array.path}: chunk {key} is not there, without it no pixel has a place"
        raise SourceError(f"{found}; report it to the provider", kind="missing")

    return read_whole(objects, array, missing)


def _group_grid(objects: Objects, tree: SourceTree, path: str, metres: int, crs: str) -> Grid:
    axes = []
    for name in ("x", "y"):
        array = tree.arrays.get(f"{path}/{name}")
        if array is None or len(array.shape) != 1:
            raise SourceError(
                f"{path}: no one-dimensional {name}; the grid cannot be known; report it to the provider", kind="layout"
            )
        axes.append(_needed(objects, array).astype(np.float64))
    try:
        return grid_from_centres(axes[0], axes[1], metres, crs)
    except ValueError as error:
        raise SourceError(f"{path}: {error}; report it to the provider", kind="layout") from None


class _Conversion:
    """One run of the engine over a plan."""

    def __init__(
        self,
        objects: Objects,
        tree: SourceTree,
        plan: StorePlan,
        writer: Writer,
        workers: int,
        on_progress: Progress | None,
    ) -> None:
        self._objects, self._tree, self._plan, self._writer = objects, tree, plan, writer
        self._workers, self._total, self._on_progress = workers, plan.n_bytes, on_progress or (lambda done, total: None)
        self._done, self._lock, self._stop = 0, threading.Lock(), threading.Event()
        self._finished: Mapping[str, Entry] = {}
        self._identity = ""
        self._findings: set[Finding] = set(plan.findings)

    def run(self, product: Product, recipe: Recipe, meter: Meter) -> None:
        """Write what an earlier attempt did not finish of the store, and seal it."""
        self._identity = self._still(_identity(product, recipe, self._tree))
        self._finished = self._writer.finished(self._identity)
        self._objects.watch(self._saw)
        self._findings.update(finding for entry in self._finished.values() for finding in entry.findings)
        documents = self._documents()
        written = self._write(documents, recipe.pixels)
        meter.step("pixels")
        self._check_source()
        self._writer.seal(_json(self._root(documents, product, recipe, written)), written)
        meter.step("seal")

    def _still(self, identity: str) -> str:
        """Return the identity to go on with: another one where source objects are not what an attempt of this one read.

        A provider may mend objects under unchanged metadata; what was made of the old ones is then begun anew.
        Raises: SourceError: the source does not answer.
        """
        while told := {key: (n, tag) for entry in self._writer.noted(identity) for key, n, tag in entry.source}:
            now = self._objects.facts(sorted(told))
            changed = [(key, now.get(key)) for key, was in sorted(told.items()) if now.get(key, _NOT_THERE) != was]
            if not changed:
                break
            identity = hashlib.sha256(json.dumps([identity, changed]).encode()).hexdigest()
        return identity

    def _saw(self, key: str, n_bytes: int, tag: str | None) -> None:
        """Note what was read of the source, before anything that is made of it is noted."""
        if tag is not None:
            self._writer.record(Entry(f"source {self._identity[:8]}: {key}", source=((key, n_bytes, tag),)))

    def _check_source(self) -> None:
        """Raise SourceError when the source was published anew since its metadata was read: pixels of both may be mixed."""
        self._objects.check_unchanged()
        _, raw = read_metadata(self._objects)
        _check_fingerprint(self._objects, hashlib.sha256(raw).hexdigest(), self._tree.fingerprint)

    def _write(self, documents: Mapping[str, dict[str, Any]], pixels: Pixels) -> list[Written]:
        """Write everything but the root: every raster, largest first, one worker a raster, and at last what is small.

        The first failure stops the others.
        """
        written = [item for tasks in image_groups(self._plan.rasters) for item in self._images(tasks)]
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(self._raster, task) for task in self._plan.rasters if task.warp is None]
            futures += [pool.submit(self._take, taken) for taken in self._plan.taken]
            futures.append(pool.submit(self._write_small, documents, pixels))
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failed = any(future.exception() for future in done)
            except BaseException:  # Ctrl-C: the pool would wait for all that it was given
                self._give_up(pool)
                raise
            if failed:
                self._give_up(pool)
        failures = [f.exception() for f in futures if not f.cancelled() and f.exception()]
        for failure in sorted(failures, key=lambda error: isinstance(error, _StoppedError)):
            if failure is not None:
                raise failure
        return written + [item for future in futures for item in future.result()]

    def _give_up(self, pool: ThreadPoolExecutor) -> None:
        """Let every worker end at its next stripe, and begin nothing more."""
        self._stop.set()
        pool.shutdown(cancel_futures=True)

    def _raster(self, task: RasterTask) -> list[Written]:
        return [item for plane in range(math.prod(task.source.shape[:-2])) for item in self._plane(task, plane)]

    def _take(self, taken: Taken) -> list[Written]:
        """Take the objects of one source array over as they are."""
        written = []
        for one in take_over(self._objects, taken.source, self._writer, self._finished, partial(self._missing, taken)):
            written.append(one)
            self._go_on()
        self._advance(taken.source.n_bytes)
        return written

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _plane(self, task: RasterTask, plane: int) -> list[Written]:
        lead = tuple(int(i) for i in np.unravel_index(plane, task.source.shape[:-2])) if task.source.shape[:-2] else ()
        sinks = [PlaneWriter(self._writer, plan, lead, self._finished) for _, plan in task.outputs]
        try:
            for band in column_bands(task):
                self._band(task, plane, band, sinks)
        finally:
            for sink in sinks:
                sink.release()
        return [item for sink in sinks for item in sink.written]

    def _images(self, tasks: Sequence[RasterTask]) -> list[Written]:
        """Write images that share their geometry together; all workers work on one stripe at a time, or write the one before."""
        sinks = [
            [(factor, PlaneWriter(self._writer, plan, (), self._finished)) for factor, plan in task.outputs] for task in tasks
        ]
        every = [sink for of_image in sinks for _, sink in of_image]
        try:
            with ThreadPoolExecutor(self._workers) as pool:
                self._stripes(tasks, sinks, pool.map if self._workers > 1 else map)
        finally:
            for sink in every:
                sink.release()
        return [item for sink in every for item in sink.written]

    def _stripes(self, tasks: Sequence[RasterTask], sinks: Sequence[_Sinks], run: Run) -> None:
        """Stream the map grid of some images, band by band, into their arrays and levels, from the first row that is needed."""
        warps, (height, width) = [task.warp for task in tasks if task.warp], tasks[0].source.shape
        arrays = [WindowedArray(self._objects, self._tree, task.source, partial(self._missing, task)) for task in tasks]
        images, n_bytes = WarpedImages(warps, (height, width), arrays, run), sum(task.n_bytes for task in tasks)
        (rows, columns), step = warps[0].grid.shape, stripe_rows(tasks[0])
        for left, right in column_bands(tasks[0]):
            written: Iterable[None] = ()
            begin = _begin([output for of_image in sinks for output in of_image], (left, right), rows, step)
            share = n_bytes * right // columns - n_bytes * left // columns
            self._advance(share * begin // rows)
            if begin < rows:
                images.begin(slice(left, right))
            for top in range(begin, rows, step):
                bottom = min(top + step, rows)
                stripes = images.read(slice(top, bottom), slice(left, right))
                list(written)  # the stripe before: workers wrote it while others read this one
                written = run(partial(_write_stripe, top, left), zip(stripes, tasks, sinks, strict=True))
                self._advance(share * bottom // rows - share * top // rows)
            list(written)

    def _band(self, task: RasterTask, plane: int, band: tuple[int, int], sinks: Sequence[PlaneWriter]) -> None:
        """Stream the rows of one band of columns into the array and its levels, from the first that is needed."""
        height, width = task.source.shape[-2:]
        share = task.n_bytes // math.prod(task.source.shape[:-2]) * (band[1] - band[0]) // width
        outputs = [(factor, sink) for (factor, _), sink in zip(task.outputs, sinks, strict=True)]
        step = stripe_rows(task)
        begin = _begin(outputs, band, height, step)
        self._advance(share * begin // height)
        if begin == height:
            return
        rows = open_rows(self._objects, self._tree, task.source, partial(self._missing, task), band)
        for start in range(begin, height, step):
            self._go_on()
            stop = min(start + step, height)
            if [factor for factor, _ in outputs] == [1]:
                parts = [rows.read_beside(plane, start, stop)]
            else:
                parts = [[part] for part in _outputs(rows.read(plane, start, stop), task)]
            for (factor, sink), blocks in zip(outputs, parts, strict=True):
                sink.put(blocks, start // factor, band[0] // factor)
            self._advance(share * stop // height - share * start // height)

    def _missing(self, task: RasterTask | Taken, key: str) -> None:
        if task.mandatory:
            raise SourceError(
                f"{self._objects.href}: array {task.source.path}: chunk {key} is not there, and the recipe calls the array "
                "mandatory; report it to the provider, or take the array off `pixels.mandatory` to read fill values",
                kind="missing",
            )
        if self._objects.local is None:
            self._saw(key, *_NOT_THERE)
        text = f"chunk {key} is not in the source; it reads as fill value {task.source.fill_value}"
        with self._lock:
            self._findings.add(Finding("source.missing-chunk", Severity.WARNING, task.source.path, text))
            of_array = tuple(sorted((f for f in self._findings if f.path == task.source.path), key=_order))
            self._writer.record(Entry(f"{task.source.path}: findings", findings=of_array))

    def _advance(self, n_bytes: int) -> None:
        with self._lock:
            self._done += n_bytes
            self._on_progress(self._done, self._total)

    def _write_small(self, documents: Mapping[str, dict[str, Any]], pixels: Pixels) -> list[Written]:
        small = SmallObjects(self._writer, self._finished)
        written = self._write_copies(small, pixels) + self._write_coordinates(small)
        return written + [small.write(f"{path}/zarr.json", _json(node)) for path, node in sorted(documents.items())]

    def _write_copies(self, small: SmallObjects, pixels: Pixels) -> list[Written]:
        written = []
        for source, plan in self._plan.copies:
            copy = Taken(source, plan, is_mandatory(source.path, pixels))
            written += small.write_array(plan, read_whole(self._objects, source, partial(self._missing, copy)))
            self._advance(source.n_bytes)
        return written

    def _write_coordinates(self, small: SmallObjects) -> list[Written]:
        written = []
        for plan, grid in self._plan.coordinates:
            x, y = centres(grid)
            values = {"x": x, "y": y}.get(plan.path.rpartition("/")[2])
            if values is not None:  # spatial_ref says everything in its attributes; its value is its fill value
                written += small.write_array(plan, values)
        return written

    def _documents(self) -> dict[str, dict[str, Any]]:
        """Return the ``zarr.json`` of every node but the root, consolidated where the plan says so."""
        codec = self._writer.codec
        nodes = {plan.path: array_document(plan, codec) for plan in self._plan.arrays}
        nodes |= {path: group_document(attributes) for path, attributes in self._plan.groups.items() if path}
        for path in self._plan.consolidated:
            if path:
                members = {key[len(path) + 1 :]: node for key, node in nodes.items() if key.startswith(f"{path}/")}
                nodes[path] = group_document(self._plan.groups[path], members)
        return nodes

    def _root(
        self, documents: Mapping[str, dict[str, Any]], product: Product, recipe: Recipe, written: Sequence[Written]
    ) -> dict[str, Any]:
        """Return the root ``zarr.json``, stamped with what the store was made of and all that it has beside this one object."""
        mark = {
            "format": FORMAT_VERSION,
            "recipe_sha256": recipe.pixels.digest(),
            "source_fingerprint": product.source_fingerprint,
            "n_objects": len(written),
            "n_bytes": sum(item.n_bytes for item in written),
            "tree_sha256": tree_digest((item.key, item.n_bytes, item.sha256) for item in written),
        }
        if self._findings:
            mark["findings"] = [asdict(finding) for finding in sorted(self._findings, key=_order)]
        return group_document({**self._plan.groups[""], "zarrmill": mark}, documents)


class _StoppedError(Exception):
    """Another worker failed; this one gave up."""


def _begin(outputs: Sequence[tuple[int, PlaneWriter]], band: tuple[int, int], height: int, step: int) -> int:
    """Return the first row of a band that some output needs, at the start of a stripe: the same stripes as without a break."""
    needed = min(factor * sink.needed(band[0] // factor, band[1] // factor) for factor, sink in outputs)
    return height if needed >= height else needed // step * step


def _write_stripe(top: int, left: int, image: tuple[NDArray[Any], RasterTask, _Sinks]) -> None:
    stripe, task, sinks = image
    for (factor, sink), part in zip(sinks, _outputs(stripe, task), strict=True):
        sink.put([part], top // factor, left // factor)


def _outputs(stripe: NDArray[Any], task: RasterTask) -> list[NDArray[Any]]:
    factors = [factor for factor, _ in task.outputs if factor > 1]
    levels = dict(zip(factors, coarser_levels(stripe, factors, task.rule, task.nodata), strict=True)) if factors else {}
    return [stripe if factor == 1 else levels[factor] for factor, _ in task.outputs]


def _json(document: Mapping[str, Any]) -> bytes:
    return dumps(cv.strict(document)).encode()


def _order(finding: Finding) -> tuple[str, ...]:
    return (finding.path, finding.code, finding.message)


def _receipt(
    product: Product, recipe: Recipe, writer: Writer, meter: Meter, *, n_bytes_source: int, adopted: bool
) -> ConvertReceipt:
    """Read the sealed store back, object by object, and compare it with the digest that its root holds.

    Raises: StoreError: they differ, or the root is not one of ours.
    """
    objects = [(item.key, item.n_bytes, item.sha256) for item in writer.read_back(meter.threads)]
    stated: str | None = None
    findings: tuple[Finding, ...] = ()
    with suppress(ValueError, KeyError, TypeError):
        mark = json.loads(writer.root())["attributes"]["zarrmill"]
        stated = mark["tree_sha256"]
        findings = _FINDINGS.validate_python(mark.get("findings", ()))
    digest = tree_digest(objects)
    if stated != digest:
        raise StoreError(
            f"{writer.href}: objects give digest {digest[:12]}, the sealed root holds {str(stated)[:12]}; "
            "move this store away, then run again",
            kind="damaged" if adopted else "lost",
        )
    meter.step("read-back")
    return ConvertReceipt(
        product=product,
        store=writer.href,
        recipe_digest=recipe.pixels.digest(),
        tree_sha256=digest,
        root_sha256=next(sha for key, _, sha in objects if key == "zarr.json"),
        n_objects=len(objects),
        n_bytes=sum(size for _, size, _ in objects),
        n_bytes_source=n_bytes_source,
        findings=findings,
        adopted=adopted,
        measured=meter.measured(),
    )
