"""Configuration: where things are (``Settings``) and how stores are made (``Recipe``).

With ``zarrmill.prices`` the only module that knows a YAML key, and the only one with defaults. Every model is frozen and
refuses unknown keys.
``docs/reference/config.md`` and ``config/schemas/*.json`` are generated from here; a test fails when they drift.
"""

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from zarrmill import FORMAT_VERSION
from zarrmill.errors import ConfigError, has_user

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
"""A name that is safe as a file name and as a key."""


class Model(BaseModel):
    """A part of a configuration file: frozen, refuses unknown keys.

    What the docstrings below its fields say is looked up where it is needed (``zarrmill.reference``): 30 ms of every process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, defer_build=True)

    @field_validator("*")
    @classmethod
    def _no_user(cls, value: Any) -> Any:  # of any field
        if isinstance(value, str) and has_user(value):
            raise ValueError("an address must not hold a user or password; put those of a catalogue into ~/.netrc")
        return value

    def digest(self) -> str:
        """Return the sha256 of this model's canonical JSON: comments and key order do not matter, values do."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Codec(Model):
    """Compression of every chunk (blosc); ``typesize`` follows the dtype."""

    cname: Literal["zstd", "lz4", "zlib"] = "zstd"
    """Compressor inside blosc."""
    clevel: int = Field(2, ge=0, le=9)
    """Compression level."""
    clevels: dict[str, Annotated[int, Field(ge=0, le=9)]] = Field({}, exclude_if=lambda levels: not levels)
    """Other levels for some arrays: a pattern of paths (``measurements/*``) to the level; the first that matches counts."""
    blocksize: int = Field(1 << 20, ge=0, le=1 << 24)
    """Bytes that blosc compresses at a time; 0 lets blosc choose, which makes small blocks and with them larger stores."""
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"] = "shuffle"
    """Filter before compression for items wider than one byte; one-byte items are never shuffled."""

    def of(self, path: str) -> "Codec":
        """Return how the array at ``path`` is compressed: this, with the level that ``clevels`` names for it."""
        levels = (level for pattern, level in self.clevels.items() if fnmatch.fnmatchcase(path, pattern))
        return self.model_copy(update={"clevel": next(levels, self.clevel), "clevels": {}})


class Grd(Model):
    """How radar images (Sentinel-1 GRD) come onto a map grid; for other products nothing."""

    crs: Literal["utm", "EPSG:4326"] = "utm"
    """Target: the UTM zone of the scene's centre, or degrees (a pixel then has the size of the finest level at the equator)."""
    resampling: Literal["bilinear", "nearest"] = "bilinear"
    """How a pixel is made of the samples around it; samples of DN 0 never count."""
    calibration: Literal["none", "sigma0", "gamma0"] = "none"
    """``none`` keeps DN (uint16); the others make backscatter of it (float32, linear power, noise not removed)."""


class Pixels(Model):
    """The part of a recipe that shapes bytes; it is part of every store's name."""

    levels_m: tuple[int, ...] = (10, 20, 60, 120, 360)
    """Pixel sizes of the levels in metres, fine to coarse; a level that does not divide the extent exactly is left out."""
    overviews: tuple[str, ...] = ()
    """Groups of maps beside the measurements (shell patterns on their path, as ``quality/*``) that get every level of
    ``levels_m`` coarser than their finest: classes by the most frequent one, bit masks by union, probabilities and atmosphere
    by mean, detector footprints by nearest."""
    chunk_px: int = Field(915, ge=1, le=8192)
    """Edge of an inner chunk in pixels."""
    shard_px: int | None = Field(5490, ge=1)
    """Edge of a shard in pixels, a multiple of ``chunk_px``; null writes unsharded arrays."""
    codec: Codec = Codec()
    """Compression."""
    quicklook: bool = False
    """Convert the quick-look groups too."""
    zarr3_source: Literal["relayout", "complete", "refuse"] = "relayout"
    """What to do with a source that is Zarr v3 already: lay it out anew by this recipe; complete it, which keeps its chunks and
    shards byte for byte and adds what is missing (optical products only); or refuse it."""
    mandatory: tuple[str, ...] = ("measurements/reflectance/*/*",)
    """Source arrays (shell patterns on their path) in which a missing chunk is an error; elsewhere it reads as fill value."""
    grd: Grd | None = None
    """Radar images only: how they come onto a map grid; null takes the defaults."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shard_px is not None and self.shard_px % self.chunk_px:
            raise ValueError(f"shard_px {self.shard_px} is not a multiple of chunk_px {self.chunk_px}")
        if list(self.levels_m) != sorted(set(self.levels_m)) or not self.levels_m or self.levels_m[0] < 1:
            raise ValueError(f"levels_m {self.levels_m} must be positive and go from fine to coarse without repeats")
        if any(level % self.levels_m[0] for level in self.levels_m):
            raise ValueError(f"levels_m {self.levels_m}: every level must be a multiple of the finest")
        return self


class Validation(Model):
    """What ``validate`` looks at and what it lets pass."""

    depth: Literal["full", "sampled", "structure"] = "full"
    """``full`` compares every pixel of every level, verifies the digest of all objects, asks zarr-python and the readers too;
    ``sampled`` compares a seeded share of the rows, ``structure`` none."""
    sample_share: float = Field(0.02, gt=0, le=1)
    """Share of the rows of each array that ``sampled`` compares, in stripes; at least one stripe an array."""
    accept: Literal["PASS", "WARN"] = "WARN"
    """Lowest verdict that counts as valid."""
    max_objects: int = Field(450, ge=1)
    """Object budget of one store; more is a warning."""
    max_chunk_mb: float = Field(20.0, gt=0)
    """Largest decoded inner chunk in MB; more is a warning."""
    max_shard_mb: float = Field(256.0, gt=0)
    """Largest decoded shard in MB; more is a warning."""
    readers: tuple[Literal["xarray", "rioxarray", "rio-tiler", "rasterio"], ...] = (
        "xarray",
        "rioxarray",
        "rio-tiler",
        "rasterio",
    )
    """Independent readers that must open the store; asked at depth ``full`` only, for they take longer than a sample does."""


class Item(Model):
    """What ``stac`` writes beside what the store itself says."""

    collection_suffix: str = Field("-geozarr", pattern=r"^[A-Za-z0-9._-]*$")
    """Added to the source collection's id to name the target collection."""
    thumbnail_px: int = Field(343, ge=0, le=2048)
    """Longest edge of the thumbnail in pixels; 0 makes none."""
    rescale_dn: tuple[int, int] = (1000, 4000)
    """Stored values shown as black and white in thumbnail and renders (1000 to 4000 is reflectance 0 to 0.3)."""
    license: str = "other"
    """SPDX identifier of the data's licence, or ``other``."""
    license_href: str = Field(
        "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice", pattern=r"^https?://\S+$"
    )
    """Address of the licence text, linked from items and collections."""


class Recipe(Model):
    """How products of some types become stores, how they are checked and described."""

    name: Name
    """Name of the recipe."""
    product_types: tuple[str, ...] = Field(min_length=1)
    """EOPF product types that this recipe serves."""
    pixels: Pixels = Pixels()
    """What shapes bytes."""
    validation: Validation = Validation()
    """What the gate asks for."""
    item: Item = Item()
    """What items hold."""
    memory_mb: int = Field(2000, ge=64)
    """Memory that one conversion or validation may use, in MB."""
    storage_class: str | None = None
    """Storage class of the objects of stores in a bucket, which stores that are there keep; null takes ``s3.storage_class``."""
    fetch: Literal["direct", "stage"] | None = None
    """How pixels come here, see ``source.fetch``; null takes it."""

    def reading(self, source: "Source") -> "Source":
        """Return how sources are read by this recipe."""
        return source if self.fetch is None else source.model_copy(update={"fetch": self.fetch})


class Staging(Model):
    """A folder on this machine into which products are fetched whole before they are read."""

    folder: str = "results/staging"
    """Folder; shared by stages, recipes, retries and processes of one machine."""
    max_gb: float = Field(50.0, gt=0)
    """Most that is kept, in GB; what was not used for longest goes first, what is in use stays."""
    max_age_hours: float = Field(72.0, gt=0)
    """Products that were not used for longer go."""
    concurrency: int = Field(8, ge=1, le=64)
    """Objects that are fetched at once."""


class Source(Model):
    """Which products to take, and from where."""

    catalogue: str
    """STAC API, static catalogue, item collection, folder of items or CSV of hrefs; local path or http(s) URL."""
    kind: Literal["auto", "api", "catalog", "items", "csv"] = "auto"
    """What ``catalogue`` is; ``auto`` finds out."""
    collections: tuple[str, ...] = ()
    """Collections to take; empty takes all that the catalogue holds (an API needs at least one)."""
    datetime: str | None = None
    """Acquisition range ``start/end`` as RFC 3339 dates or times, ``..`` for an open end."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; products that intersect it are taken."""
    ids: tuple[str, ...] = ()
    """Only these product ids; empty takes all."""
    max_cloud_cover: float | None = Field(None, ge=0, le=100)
    """Largest ``eo:cloud_cover`` in percent."""
    missing_cloud_cover: Literal["take", "skip"] = "take"
    """What to do with products that do not state a cloud cover when ``max_cloud_cover`` is set."""
    min_age_hours: float = Field(0.0, ge=0)
    """Leave out products acquired less than this many hours ago."""
    limit: int | None = Field(None, ge=1)
    """Take at most this many products, after ordering."""
    max_cost_eur: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Take products, after ordering, as long as their planned cost stays within so many EUR; needs ``prices``."""
    order: Literal["newest", "oldest"] = "newest"
    """Which products come first."""
    fingerprint: Literal["metadata", "item"] = "metadata"
    """What identifies a source's content: a digest of its consolidated metadata, or of the catalogue item's stable fields."""
    timeout_s: float = Field(60.0, gt=0)
    """Time that a connection to a catalogue or a source may be silent."""
    retries: int = Field(4, ge=0, le=20)
    """Further tries of a request that failed in a way that may pass, with growing, random pauses: four last 6 to 12 seconds, six
    26 to 52, each further one 10 to 20."""
    fetch: Literal["direct", "stage"] = "direct"
    """How pixels come here: ``direct`` reads each chunk from its host when it is needed, ``stage`` fetches the product once."""
    staging: Staging = Staging()
    """Where fetched products are kept; with ``fetch: stage`` only."""
    page_size: int = Field(100, ge=1, le=10_000)
    """Items asked for in one page of an API."""

    @field_validator("bbox")
    @classmethod
    def _bbox(cls, value: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if value is not None:
            west, south, east, north = value
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise ValueError(f"bbox {value} is not west, south, east, north in degrees")
        return value

    @field_validator("catalogue")
    @classmethod
    def _catalogue(cls, value: str) -> str:
        return _address(value)

    @field_validator("datetime", mode="before")
    @classmethod
    def _yaml_date(cls, value: Any) -> Any:  # what YAML holds; it reads a lone date as one
        return value.isoformat() if isinstance(value, date) else value

    @field_validator("datetime")
    @classmethod
    def _datetime(cls, value: str | None) -> str | None:
        if value is not None:
            parse_range(value)
        return value


class Endpoint(Model):
    """How a bucket is reached; the environment of S3 clients (``AWS_ENDPOINT_URL``, ``AWS_REGION``) says what is left out."""

    endpoint_url: str | None = Field(None, pattern=r"^https?://\S+$")
    """Address of the S3 service; null takes the environment's, and without that Amazon's."""
    region: str | None = None
    """Region; null takes the environment's, and without that ``us-east-1``."""
    addressing: Literal["path", "virtual"] = "path"
    """Where the bucket stands in an address: ``path`` is host/bucket/key, ``virtual`` is bucket.host/key."""
    profile: str | None = None
    """Profile of the shared AWS configuration that holds the credentials; null takes the standard chain."""
    anonymous: bool = False
    """Send requests without credentials, for public buckets."""


class S3(Endpoint):
    """Object storage: where it is and how it is spoken to, for stores, state and sources alike. Never a credential."""

    buckets: dict[str, Endpoint] = Field(default_factory=dict)
    """Buckets that are reached in another way: name to `endpoint_url`, `region`, `addressing`, `profile`, `anonymous`."""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    """How uploads are protected: by Content-MD5, which every service knows, or by CRC32 trailers, which newer ones know too."""
    storage_class: str | None = None
    """Storage class of the objects of stores; null takes the bucket's default."""
    max_concurrency: int = Field(16, ge=1, le=256)
    """Requests that one conversion has under way at once."""
    part_mb: int = Field(8, ge=5, le=512)
    """Size of a part of a large object in MiB; at most ``max_concurrency`` parts are in memory on their way out."""
    connect_timeout_s: float = Field(10.0, gt=0)
    """Time that opening a connection may take."""
    timeout_s: float = Field(60.0, gt=0)
    """Time that a connection may be silent."""
    retries: int = Field(6, ge=0, le=20)
    """Further tries of a request that failed in a way that may pass, with growing, random pauses."""
    lease_s: float = Field(60.0, ge=2)
    """Time after which another process may go on with a store whose writer has fallen silent."""

    def of(self, bucket: str) -> Endpoint:
        """Return how one bucket is reached."""
        return self.buckets.get(bucket, self)


class BucketRules(Model):
    """What the buckets of state and stores are to be like; `zarrmill bucket setup` makes them so, every run looks."""

    versioning: Literal["required", "wanted", "off"] = "wanted"
    """``required`` starts no run without, ``wanted`` has ``setup`` switch it on, ``off`` leaves it as it is."""
    noncurrent_days: int = Field(14, ge=1)
    """Days for which what was overwritten or deleted can be had back, where there is versioning."""
    incomplete_days: int = Field(1, ge=1)
    """Days after which the parts of an upload that was never completed are removed."""
    expire_days: dict[str, int] = Field(default_factory=dict)
    """``s3://bucket/prefix`` to days after which objects there are deleted; any other rule that would delete ours stops a run."""
    viewers: tuple[str, ...] = ()
    """Origins of web viewers that may read stores, e.g. ``https://viewer.example.org``."""
    public_read: bool = False
    """Let everyone read the objects of stores, also of one that is being written by its name; no journal and no listing."""

    @field_validator("expire_days")
    @classmethod
    def _expire_days(cls, value: dict[str, int]) -> dict[str, int]:
        for address, days in value.items():
            bucket, _, prefix = address.removeprefix("s3://").partition("/")
            if not address.startswith("s3://") or not bucket or not prefix.strip("/") or days < 1:
                raise ValueError(f"{address}: {days} is not s3://bucket/prefix and at least one day")
        return value


class Clean(Model):
    """What `zarrmill clean` may remove of what belongs to no run."""

    max_share: float = Field(0.2, ge=0, le=1)
    """Most that is removed at once, as a share of all stores below ``store_root``; more is refused."""
    protected: dict[str, str] = Field(default_factory=dict)
    """Stores that stay, and why: shell pattern on a store's name, or on its key below ``store_root``, to the reason."""


class Settings(Model):
    """One run: where the sources are, where results go, which recipes serve which product types."""

    run: Name = "demo"
    """Name of the run."""
    state_root: str = "results"
    """Folder or ``s3://bucket/prefix`` where manifests, records and reports go; a run's is ``<state_root>/<run>``."""
    store_root: str = "results/stores"
    """Folder or ``s3://bucket/prefix`` where stores go; shared by runs."""
    s3: S3 = S3()
    """Object storage."""
    bucket_rules: BucketRules = BucketRules()
    """What the buckets of state and stores are to be like."""
    clean: Clean = Clean()
    """What `zarrmill clean` may remove."""
    source: Source
    """Where products come from."""
    recipes: tuple[str, ...] = Field(
        ("config/recipes/s2-l2a.yaml", "config/recipes/s2-l1c.yaml", "config/recipes/s1-grd.yaml"), min_length=1
    )
    """Recipe files; each product type is served by exactly one."""
    prices: str | None = None
    """Price list, e.g. ``config/prices.yaml``; null tells no cost."""
    public_root: str | None = None
    """Public address of ``store_root`` used in items (e.g. ``https://data.example.org/geozarr``); null writes relative links."""
    public_state: str | None = Field(None, pattern=r"^https?://\S+$")
    """Public address of ``state_root``; gives items, collections and the catalogue absolute self links, null gives them none."""
    schema_cache: str | None = None
    """Folder of STAC extension schemas with an ``index.json`` (address to file); null checks core schema and own rules only."""
    threads: int = Field(2, ge=1, le=64)
    """Threads of one conversion or validation."""

    @field_validator("store_root")
    @classmethod
    def _store_root(cls, value: str) -> str:
        return _address(value)

    @field_validator("state_root")
    @classmethod
    def _state_root(cls, value: str) -> str:
        scheme, separator, rest = _address(value).partition("://")
        if separator and (scheme not in ("file", "s3") or not rest.strip("/")):
            raise ValueError("state is kept on disk or below s3://bucket")
        return value

    @model_validator(mode="after")
    def _stores_are_no_run(self) -> Self:
        if f"{self.state_root.rstrip('/')}/{self.run}" == self.store_root.rstrip("/"):
            raise ValueError(f"run {self.run!r} would keep its state in store_root {self.store_root}; name it otherwise")
        return self

    @model_validator(mode="after")
    def _cost_can_be_told(self) -> Self:
        if self.source.max_cost_eur is not None and self.prices is None:
            raise ValueError("source.max_cost_eur needs a price list: set `prices`, e.g. to config/prices.yaml")
        if self.source.max_cost_eur is not None and self.source.fingerprint != "metadata":
            raise ValueError("source.max_cost_eur needs source.fingerprint: metadata; without, no size is known")
        return self


def load_settings(path: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a configuration file; ``overrides`` replace top-level keys.

    Raises: ConfigError: the file is missing, is not YAML, or a key or value is not allowed (the key is named).
    """
    return parse_settings({**_read_yaml(path), **(overrides or {})}, str(path))


def parse_settings(values: Mapping[str, Any], origin: str = "configuration") -> Settings:
    """Validate a configuration that was read already (Snakemake's ``config``)."""
    return _validated(Settings, values, origin)


def load_recipes(settings: Settings) -> dict[str, Recipe]:
    """Return the recipe of each product type.

    Raises: ConfigError: a file is missing or wrong, or two recipes serve one product type.
    """
    by_type: dict[str, Recipe] = {}
    for name in settings.recipes:
        recipe = load_recipe(Path(name))
        for product_type in recipe.product_types:
            if product_type in by_type:
                other = by_type[product_type].name
                raise ConfigError(
                    f"{name}: product type {product_type} is served by recipes {other} and {recipe.name}; keep one",
                    kind="recipe",
                )
            by_type[product_type] = recipe
    return by_type


def load_recipe(path: Path) -> Recipe:
    """Read one recipe file.

    Raises: ConfigError: the file is missing, is not YAML, or a key or value is not allowed (the key is named).
    """
    return load_model(Recipe, path)


def load_model[M: Model](model: type[M], path: Path) -> M:
    """Read one YAML file as ``model``. Raises: ConfigError: as ``load_recipe``."""
    return _validated(model, _read_yaml(path), str(path))


def product_digest(recipe: Recipe, source_fingerprint: str) -> str:
    """Return the eight hex digits in a store's name: pixels recipe, format version and source."""
    text = f"{FORMAT_VERSION}:{recipe.pixels.digest()}:{source_fingerprint}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def parse_range(text: str) -> tuple[datetime | None, datetime | None]:
    """Return start and end (aware, UTC; None is open) of an RFC 3339 range; a date means its whole day.

    Raises: ValueError: not a date, a time or two of them joined by ``/``, or the end lies before the start.
    """
    from datetime import UTC, timedelta

    parts = text.split("/")
    if len(parts) > 2:
        raise ValueError("not start/end")
    ends: list[datetime | None] = []
    for position, part in enumerate(parts if len(parts) == 2 else parts * 2):
        if part in ("", ".."):
            ends.append(None)
            continue
        try:
            moment = datetime.fromisoformat(part)
        except ValueError:
            raise ValueError(f"{part!r} is not a date like 2025-01-31 or 2025-01-31T10:00:00Z") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        whole_day = "T" not in part and " " not in part
        ends.append(moment + timedelta(days=1, microseconds=-1) if position and whole_day else moment)
    start, end = ends
    if start and end and end < start:
        raise ValueError("the end lies before the start")
    return start, end


def _address(text: str) -> str:
    """Return ``text`` when it is a path or an address. Raises: ValueError: it is neither."""
    try:
        urlsplit(text)
    except ValueError as error:
        raise ValueError(f"not a path or an address ({error})") from None
    return text


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


def _validated[M: Model](model: type[M], values: Mapping[str, Any], origin: str) -> M:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines, told = [], set[str]()
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"]) or "(all)"
            if item["type"] == "extra_forbidden":
                known = ", ".join(_keys_at(model, item["loc"][:-1]))
                lines.append(f"{where}: unknown key" + (f"; known here: {known}" if known not in told else ""))
                told.add(known)
            elif item["type"] == "missing":
                lines.append(f"{where}: is missing")
            else:
                message = item["msg"].removeprefix("Value error, ")
                lines.append(f"{where}: {message}, found {item.get('input')!r}")
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from None


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return sorted(model.model_fields)
