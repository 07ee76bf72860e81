"""Stage ``validate``: read a finished GeoZarr store independently of the converter and say what is wrong with it.

A broken store never raises: every defect is a finding. Only a store or source that is not there or does not answer does.
"""

import hashlib
import json
import math
import os
import re
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

from zarrmill import __version__
from zarrmill.config import Pixels, Recipe, Source, Validation
from zarrmill.core import checks_arrays, checks_georef, checks_layout, checks_s1, checks_tree
from zarrmill.core.checks import Checks
from zarrmill.core.checks_arrays import GivenArray, GivenTree
from zarrmill.core.checks_attributes import check_attributes
from zarrmill.core.checks_conventions import check_conventions
from zarrmill.core.checks_tree import StoreTree
from zarrmill.core.checks_values import Job, JobResult, LevelTarget, Outcome, reread, run_job
from zarrmill.core.rules import level_rule
from zarrmill.errors import EXIT_FAILED, EXIT_OK
from zarrmill.io import readers, store_reader
from zarrmill.io.chunk_reader import ByteReader
from zarrmill.io.hashed import HashedObjects
from zarrmill.io.objects import Objects
from zarrmill.io.process import pin_threads
from zarrmill.io.staging import opened
from zarrmill.io.store_reader import ArrayReader, SourceReader
from zarrmill.model import Measured, Product, Severity, ValidationReport, Verdict

SOFTWARE = ("zarr", "numcodecs", "numpy", "xarray", "rioxarray", "rio-tiler", "rasterio", "zarr-cm", "geozarr-toolkit")
BASE_BYTES = 300_000_000
"""Memory beside the workers: interpreter and readers."""
DEFAULT_MEMORY_MB = int(Recipe.model_fields["memory_mb"].default)
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_KIND = ("data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value")
"""Keys of ``zarr.json`` by which an array is decoded."""
Progress = Callable[[int, int], None]


@dataclass
class _Run:
    """State of one validation."""

    store: Objects
    read: ByteReader
    """Reads the store's bytes; hashes them on the way where a digest has to be compared."""
    source: SourceReader | None
    limits: Validation
    pixels: Pixels | None
    memory_mb: int
    threads: int
    seed: str
    progress: Progress | None
    product_types: tuple[str, ...] = ()
    """What the product may be; empty when nothing is known."""
    stamp: Mapping[str, str] = field(default_factory=dict)
    """What the root attribute ``zarrmill`` must say of source and recipe, where these are known."""
    checks: Checks = field(default_factory=Checks)
    tree: StoreTree = field(default_factory=lambda: StoreTree({}, None))
    arrays: dict[str, ArrayReader] = field(default_factory=dict)
    complete: bool = False
    """Nothing is absent that was written: number and bytes of all objects, or their digest, are those of the seal."""
    may_lack: bool = True
    """An absent chunk object may stand for data: it is lost, or the source had none when it was converted."""
    vectors: "dict[str, checks_georef.Vector | str]" = field(default_factory=dict)
    """Path to coordinates of pixels, or why they cannot be had."""
    apart: readers.Apart | None = None
    """Readers in a process of their own; None where they are asked in this one, or not at all."""
    readers: dict[str, str] = field(default_factory=dict)
    n_pixels: int = 0
    sample: str = "no pixels"
    steps_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        start = time.monotonic()
        yield
        self.steps_s[name] = round(time.monotonic() - start, 3)


def validate(
    store: str,
    *,
    source: str | None = None,
    recipe: Recipe | None = None,
    product: Product | None = None,
    threads: int = 1,
    on_progress: Progress | None = None,
    fetch: Source | None = None,
) -> ValidationReport:
    """Check a GeoZarr store, ours or not, and compare its values with ``source`` when it is given.

    Args: recipe: limits, depth and readers, and which levels to expect; without it defaults apply and no levels are asked for;
    product: manifest row, kept in the report; on_progress: called with bytes done and bytes in all; fetch: how the source's
    pixels come here, without it from their host.
    Raises: StoreError (missing): nothing is there; SourceError: the source is not there or is no product;
    UnknownStateError: one of them does not answer.
    """
    started, wall, cpu = datetime.now(UTC), time.monotonic(), _cpu_s()
    pin_threads(max(threads, 1))
    seed = product.product_id if product else store.rstrip("/").rpartition("/")[2]
    fingerprint = product.source_fingerprint if product else ""
    reading = recipe.reading(fetch) if recipe and fetch else fetch
    with opened(source.rstrip("/"), fingerprint, reading) if source else nullcontext() as given:
        run = _run(Objects(store.rstrip("/")), given, recipe, max(threads, 1), seed, on_progress)
        run.stamp = _stamp(product, recipe)
        run.product_types = (product.product_type,) if product else recipe.product_types if recipe else ()
        with _apart(run) as run.apart:
            _check(run)
    return ValidationReport(
        store=store,
        source=source or "",
        verdict=run.checks.verdict,
        score=run.checks.score,
        n_checks=run.checks.n_checks,
        findings=tuple(sorted(run.checks.findings, key=lambda f: (_RANK[f.severity], f.code, f.path, f.message))),
        depth=run.limits.depth,
        sample=run.sample,
        n_pixels_compared=run.n_pixels,
        readers=run.readers,
        measured=_measured(run, started, wall, cpu),
        product=product,
    )


def _stamp(product: Product | None, recipe: Recipe | None) -> dict[str, str]:
    """Return what a store of ``product`` by ``recipe`` is stamped with; nothing without a product, whose recipe is its own."""
    if product is None:
        return {}
    return {"source_fingerprint": product.source_fingerprint} | ({"recipe_sha256": recipe.pixels.digest()} if recipe else {})


def _run(
    store: Objects, source: Objects | None, recipe: Recipe | None, threads: int, seed: str, progress: Progress | None
) -> _Run:
    limits = recipe.validation if recipe else Validation()
    given = SourceReader(source, ahead=limits.depth == "full") if source else None
    if recipe is None:
        return _Run(store, store, given, limits, None, DEFAULT_MEMORY_MB, threads, seed, progress)
    return _Run(store, store, given, limits, recipe.pixels, recipe.memory_mb, threads, seed, progress)


def _apart(run: _Run) -> AbstractContextManager[readers.Apart | None]:
    """Start the process of the readers, so that it is ready when they are asked: a second core has nothing else to do yet."""
    if run.limits.depth != "full" or not run.limits.readers or run.threads == 1:
        return nullcontext()  # with one thread nothing else goes on, and a second interpreter would only cost
    return readers.Apart(run.limits.readers, run.store.href)


_RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def exit_code(report: ValidationReport, recipe: Recipe | None = None) -> int:
    """Return 0 for a verdict that the recipe accepts, else 4."""
    accept = (recipe.validation if recipe else Validation()).accept
    accepted = {Verdict.PASS} | ({Verdict.WARN} if accept == "WARN" else set())
    return EXIT_OK if report.verdict in accepted else EXIT_FAILED


def _measured(run: _Run, started: datetime, wall: float, cpu: float) -> Measured:
    return Measured(
        started=started.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - wall, 3),
        cpu_s=round(_cpu_s() - cpu, 3),
        peak_rss_bytes=sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024,
        threads=run.threads,
        steps_s=run.steps_s,
        software={"zarrmill": __version__, **{name: version(name) for name in SOFTWARE}},
    )


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


def _check(run: _Run) -> None:
    jobs: list[Job] = []
    compared: set[str] = set()
    with run.step("metadata"):
        documents = _open(run)
        given = _source_tree(run.source) if run.source else None
        sealed = run.checks.expect("" in documents, "structure.unsealed", "", "no root zarr.json")
        root_keys = frozenset(given.attributes) if given else frozenset()
        checks_tree.check_structure(run.tree, run.checks, run.limits.max_objects, root_keys)
        run.complete = checks_tree.check_listing(run.tree, run.checks)
        run.may_lack = not run.complete or checks_tree.lacked_chunks(run.tree)
        checks_arrays.check_arrays(run.tree, given, run.checks, run.limits)
        check_attributes(run.tree, given, run.checks, run.product_types, run.pixels)
        if given is not None:
            checks_arrays.check_complete(run.tree, given, run.checks, run.pixels or Pixels())
            jobs, compared = _comparisons(run, given)
        run.vectors = _vectors(run)
    target = _target(run) if sealed else None
    if run.limits.depth == "structure":
        _check_conventions(run, given)
        _tell_readers(run, target, _ask_readers(run, target))
    else:
        with run.step("values"):
            _check_values(run, jobs, compared, target, given)
    with run.step("digest"):
        _check_digest(run)
        _tell_absent(run, compared)


def _open(run: _Run) -> Mapping[str, bytes]:
    """Read every node's metadata and open its arrays."""
    full = run.limits.depth == "full"
    sizes = store_reader.list_sizes(run.store)
    if full and sizes is not None:
        run.read = HashedObjects(run.store, sizes)
    documents = store_reader.read_documents(run.store, run.read, sizes, run.threads)
    run.tree, problems = checks_tree.parse_tree(documents, sizes)
    run.checks.ours = run.tree.ours
    for code, path, message in problems:
        run.checks.expect(False, code, path, message)
    if sizes is None:
        run.readers["listing"] = "skipped: plain http cannot list objects"
    for path, array in run.tree.arrays.items():
        document = run.tree.nodes[path].document
        opened = store_reader.open_array(run.store, run.read, path, document, array.outer, sizes, full)
        if run.checks.expect(not isinstance(opened, str), "structure.metadata", path, f"zarr refuses the array: {opened}"):
            assert isinstance(opened, ArrayReader)
            run.arrays[path] = opened
    return documents


def _source_tree(source: SourceReader) -> GivenTree:
    described = checks_s1.placed(source.described)
    arrays = {}
    for path, array in checks_s1.placed(source.arrays).items():
        fill, format_ = described[path].fill_value, described[path].encoding.get("zarr_format")
        arrays[path] = GivenArray(array.shape, array.dtype, array.attributes, array.chunks, array.dims, fill, format_ == 3)
    images = {name: image.path for name, image in checks_s1.images(source.arrays).items()}
    return GivenTree(arrays, source.attributes, source.groups, images)


def _vectors(run: _Run) -> "dict[str, checks_georef.Vector | str]":
    """Read the coordinates of pixels, before others read arrays at the same time, or say why they cannot be read."""
    arrays = {path: run.arrays.get(path) for path in checks_georef.axes_to_read(run.tree)}
    return {path: array.read((slice(0, *array.shape),)) if array else "cannot be opened" for path, array in arrays.items()}


def _check_digest(run: _Run) -> None:
    """Compare source, recipe and the digest over all objects with those in the root attribute ``zarrmill``."""
    stamp = run.tree.stamp
    wanted = stamp.get("tree_sha256") if isinstance(stamp, dict) else None
    for key, value in run.stamp.items() if run.tree.ours else ():
        found = stamp.get(key) if isinstance(stamp, dict) else None
        text = f"{key} {found!r} in the attribute zarrmill, expected {value!r} as of product and recipe"
        run.checks.expect(found == value, "structure.stamp", "", text)
    if run.tree.ours and not (isinstance(wanted, str) and _SHA256.match(wanted)):
        run.checks.expect(False, "structure.digest", "", f"attribute zarrmill is {stamp!r}, expected one with a tree_sha256")
    elif isinstance(wanted, str) and isinstance(run.read, HashedObjects):
        with store_reader.reachable():
            found = run.read.tree_sha256(run.threads)
        run.complete = run.checks.expect(found == wanted, "structure.digest", "", f"tree_sha256 {found}, the root says {wanted}")


def _check_conventions(run: _Run, given: GivenTree | None) -> None:
    """Check what needs no pixels and much of Python: libraries of the conventions, pyproj among them, are imported for it."""
    with run.step("conventions"):
        check_conventions(run.tree, run.checks)
        checks_layout.check_layouts(run.tree, run.checks, run.pixels, given)
        checks_georef.check_georef(run.tree, given, run.vectors.__getitem__, run.checks)


def _check_values(run: _Run, jobs: list[Job], compared: set[str], target: readers.Target | None, given: GivenTree | None) -> None:
    """Carry out the comparisons, decode what nothing can be compared with; check conventions and ask other readers meanwhile."""
    jobs = jobs + [Job(base=array, decode_only=True) for path, array in run.arrays.items() if path not in compared]
    share = 1.0 if run.limits.depth == "full" else run.limits.sample_share
    costs = {job.base.path: job.cost_bytes for job in jobs}
    ordered = sorted(jobs, key=lambda job: (-costs[job.base.path], job.base.path))
    pairs = _image_pairs(run)
    images = [pair.image for pair in pairs.values() if isinstance(pair, checks_s1.Pair) and share == 1]
    advance = _advance(run, sum(array.n_bytes for array in (*(job.base for job in jobs), *images)))

    def one(job: Job) -> tuple[JobResult, checks_s1.ImageResult | None]:
        result = run_job(job, share, run.seed, lambda path, index: _absent(run, path, index), advance)
        pair = pairs.get(job.base.path)  # its image comes after its levels: an array is for one thread at a time
        return result, checks_s1.compare_image(pair, None if share == 1 else run.seed, advance) if pair else None

    with _pool(run, max([1, *costs.values()])) as pool:
        conventions = pool.submit(_check_conventions, run, given)
        answers = pool.submit(_ask_readers, run, target)
        results = list(pool.map(one, ordered))
        conventions.result()  # nobody else may tell findings meanwhile
        again = list(pool.map(lambda array: reread(array, run.seed), _one_of_each_kind(run)))
        _tell_readers(run, target, answers.result())
    levels, compared_images = [level for level, _ in results], [image for _, image in results if image is not None]
    n_blocks, n_all = sum(level.n_blocks for level in levels), sum(level.n_blocks_all for level in levels)
    what = "compared with the source" if run.source else "decoded, nothing to compare with"
    run.sample = f"{n_blocks} of {n_all} blocks {what}" + ("" if share == 1 else f", seeded by {run.seed!r}")
    run.sample += "".join(f"; {image.told}" for image in compared_images)
    run.n_pixels = sum(level.n_pixels for level in levels) + sum(image.n_pixels for image in compared_images)
    for outcomes in (again, *(level.outcomes for level in levels), *(image.outcomes for image in compared_images)):
        _tell(run, outcomes)


def _image_pairs(run: _Run) -> dict[str, checks_s1.Pair | checks_s1.ImageResult]:
    """Return what radar images are compared with; it reads arrays that jobs read too, so it comes before them."""
    attributes = {path: node.attributes for path, node in run.tree.nodes.items()}
    return checks_s1.image_pairs(run.arrays, run.source.arrays if run.source else {}, attributes)


@contextmanager
def _pool(run: _Run, cost_bytes: int) -> Iterator[ThreadPoolExecutor]:
    """Give as many threads as fit into the memory when each takes ``cost_bytes``; at the end what waits is dropped."""
    room = max(run.memory_mb * 1_000_000 - BASE_BYTES, 0)
    pool = ThreadPoolExecutor(max(1, min(run.threads, room // cost_bytes)))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _advance(run: _Run, total: int) -> Callable[[int], None]:
    """Return what is told the bytes of each stripe and tells the progress."""
    lock, done = threading.Lock(), 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        with lock:
            done += n_bytes
            if run.progress is not None:
                run.progress(min(done, total), total)

    return advance


def _tell_absent(run: _Run, compared: set[str]) -> None:
    """Tell which chunk objects are absent of arrays that nothing was compared with."""
    for path in run.arrays if run.limits.depth != "structure" else ():
        # A grid mapping says everything in its attributes; its one value means nothing.
        if path in compared or checks_arrays.is_grid_mapping(run.tree.nodes[path]):
            continue
        if absent := checks_tree.absent_chunks(run.tree, path):
            text = f"{len(absent)} of {math.prod(run.tree.arrays[path].grid)} chunk objects are absent, first {absent[0]}"
            severity = Severity.INFO if run.complete else None
            run.checks.note("structure.absent_chunk", path, text, severity)


def _comparisons(run: _Run, given: GivenTree) -> tuple[list[Job], set[str]]:
    """Return a job for each source array that feeds something, and the store arrays that are thereby compared."""
    assert run.source is not None
    levels: dict[str, list[LevelTarget]] = {}
    jobs, compared = checks_s1.level_jobs(run.arrays, checks_s1.images(run.source.arrays))
    for path, array in run.arrays.items():
        if path in given.arrays or path in compared or len(array.shape) != 2:  # a coordinate or a grid mapping
            continue
        target, origin = _level_target(run, given, path, array)
        if target is not None and origin is not None:
            levels.setdefault(origin, []).append(target)
            compared.add(path)
    for path, base in checks_s1.placed(run.source.arrays).items():
        native = run.arrays.get(path)
        if native is not None and (native.shape != base.shape or checks_arrays.is_grid_mapping(run.tree.nodes[path])):
            native = None
        fed = tuple(sorted(levels.get(path, []), key=lambda level: level.factor))
        if native is not None:
            compared.add(path)
        if native is not None or fed:
            jobs.append(_job(run, base, native, fed))
    return jobs, compared


def _tell(run: _Run, outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        run.checks.expect(outcome.ok, outcome.code, outcome.path, outcome.message)


def _job(run: _Run, base: ArrayReader, native: ArrayReader | None, levels: tuple[LevelTarget, ...]) -> Job:
    """Return the job of one source array, with the regions that lack a chunk object on arrays made from it, and may have data."""
    places = [(native.path, 1)] if native is not None else []
    places += [(level.array.path, level.factor) for level in levels]
    suspects = tuple(
        tuple(slice(i * edge * factor, (i + 1) * edge * factor) for i, edge in zip(index, run.arrays[path].chunks, strict=True))
        for path, factor in (places if run.may_lack else ())
        for index in checks_tree.absent_chunks(run.tree, path)
    )
    fill_is_zero = all(run.tree.nodes[path].document.get("fill_value") == 0 for path, _ in places)
    return Job(base=base, native=native, levels=levels, suspects=suspects, fill_is_zero=fill_is_zero)


def _level_target(run: _Run, given: GivenTree, path: str, array: ArrayReader) -> tuple[LevelTarget | None, str | None]:
    origin = given.origin(path)
    if not run.checks.expect(origin is not None, "arrays.unsourced", path, "array is neither in the source nor made from it"):
        return None, None
    assert origin is not None
    finest = given.arrays[origin].shape
    factors = {n // m if m and n % m == 0 else 0 for n, m in zip(finest, array.shape, strict=False)}
    ok = len(finest) == 2 and len(factors) == 1 and min(factors) >= 1
    text = f"shape {array.shape} is no whole fraction of {finest}, the finest level of the source"
    if not run.checks.expect(ok, "arrays.shape", path, text):
        return None, None
    nodata = 0 if path.startswith("measurements/") else array.attributes.get("_FillValue")
    return LevelTarget(array, factors.pop(), level_rule(path), nodata if isinstance(nodata, int) else None), origin


def _one_of_each_kind(run: _Run) -> list[ArrayReader]:
    """Return an array, chosen by the seed, of each kind that is decoded in one way: zarr-python reads a chunk of it again.

    One that lacks chunk objects is taken where all of its kind do. Plain http servers may know no ranges, which reading takes.
    """

    def order(path: str) -> tuple[bool, bytes]:
        return bool(checks_tree.absent_chunks(run.tree, path)), hashlib.sha256(f"{run.seed}|{path}".encode()).digest()

    kinds: dict[str, ArrayReader] = {}
    for path in sorted(run.arrays, key=order):
        array = run.arrays[path]
        if array.direct and array.document and isinstance(run.read, HashedObjects):
            kinds.setdefault(json.dumps([array.document.get(key) for key in _KIND], sort_keys=True), array)
    return list(kinds.values())


def _absent(run: _Run, path: str, index: tuple[int, ...]) -> str | None:
    key = run.tree.arrays[path].key(path, index)
    with store_reader.reachable():
        there = run.store.exists(key) if run.tree.sizes is None else key in run.tree.sizes
    return None if there else key


def _ask_readers(run: _Run, target: readers.Target | None) -> dict[str, str]:
    """Return what each reader says of the store, or why it was not asked."""
    names = run.limits.readers
    if run.limits.depth != "full":
        return dict.fromkeys(names, "skipped: asked at full depth only")
    if not names:
        return {}
    if target is None:
        return dict.fromkeys(names, "skipped: no multiscales group with a raster")
    with run.step("readers"):
        if run.apart:
            return run.apart.ask(target)
        with store_reader.reachable():
            return readers.ask(names, run.store, target)


def _tell_readers(run: _Run, target: readers.Target | None, answers: Mapping[str, str]) -> None:
    for name, state in answers.items():
        run.readers[name] = state
        if target is not None and not state.startswith("skipped"):
            run.checks.expect(state == readers.OK, f"readers.{name}", f"{target.finest}/{target.band}", state)


def _target(run: _Run) -> readers.Target | None:
    """Choose the raster that readers are asked for: the first band of the finest level of the measurements, else of any group."""
    for node in sorted(run.tree.multiscales, key=lambda node: not node.path.startswith("measurements/")):
        levels = [level for level in checks_layout.levels_of(run.tree, node) if level.node and level.node.array is None]
        rasters = run.tree.rasters_of(levels[0].path) if levels else {}
        if not rasters or levels[0].shape is None:
            continue
        band = sorted(rasters)[0]
        raster = rasters[band]
        assert raster.array is not None
        with_band = [level.path for level in levels if band in run.tree.rasters_of(level.path)]
        siblings = run.tree.arrays_of(levels[0].path)
        fill = raster.attributes.get("_FillValue")
        return readers.Target(
            group=node.path,
            finest=levels[0].path,
            coarsest=with_band[-1],
            band=band,
            shape=levels[0].shape,
            transform=levels[0].transform,
            epsg=_epsg(run.tree, levels[0].path, node.path),
            nodata=float(fill) if isinstance(fill, int | float) and not isinstance(fill, bool) else None,
            sharded=raster.array.sharded,
            has_cf="grid_mapping" in raster.attributes and {"x", "y"} <= set(siblings),
        )
    return None


def _epsg(tree: StoreTree, *paths: str) -> int | None:
    codes = [str(tree.nodes[path].attributes.get("proj:code", "")) for path in paths]
    return next((int(code[5:]) for code in codes if code.startswith("EPSG:") and code[5:].isdecimal()), None)
