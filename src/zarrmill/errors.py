"""The error tree: one class per thing an operator would do next.

::

    ZarrmillError
    ├── ConfigError         edit the configuration or the command
    ├── SourceError         the source is missing, damaged or of another shape
    ├── CapacityError       memory or disk does not suffice
    ├── StoreError          the target refused or lost a write
    ├── ConformanceError    a written store breaks a rule it claims to meet
    ├── CatalogError        the catalogue refused a request
    └── UnknownStateError   the state cannot be told (an outage): stop, decide nothing

Every error carries a stable ``code`` such as ``ZM-SRC-MISSING``, built from the class and its ``kind``; ``CODES`` has one
line for each, from which ``docs/reference/errors.md`` is generated.
"""

import re
from typing import Any, ClassVar

EXIT_OK = 0
EXIT_BROKEN = 1
EXIT_CONFIG = 2
EXIT_NOTHING = 3
EXIT_FAILED = 4
EXIT_BOUND = 5
EXIT_UNKNOWN = 6
EXIT_INTERRUPTED = 130


_USER = re.compile(r"(?<=://)[^/\s\"'<>?#]*@")
_QUERY = re.compile(r"(://[^\s\"'<>?\\]*\?|\?(?=[\w.~%+-]+=))[^\s\"'<>\\]*[^\s\"'<>\\:;,.)\]}]")
"""Query of an address, also of one that a library tells without its host."""


def hidden(text: str) -> str:
    """Return ``text`` without user, password and query in the addresses that it holds: keys and signatures are in those."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def has_user(text: str) -> bool:
    """Return whether an address in ``text`` holds a user or password."""
    return _USER.search(text) is not None


class ZarrmillError(Exception):
    """Root of the tree; ``str(error)`` is the code and a message with product, path, found, expected and what to do."""

    prefix: ClassVar[str] = "ZM"
    exit_code: ClassVar[int] = EXIT_FAILED
    kinds: ClassVar[dict[str, str]] = {}
    retryable_kinds: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, message: str, *, kind: str) -> None:
        if kind not in self.kinds:
            raise ValueError(f"{type(self).__name__} has no kind {kind!r}, only {sorted(self.kinds)}")
        super().__init__(hidden(message))
        self.message = hidden(message)
        self.kind = kind

    @property
    def code(self) -> str:
        """Stable code of this error, for example ``ZM-SRC-MISSING``."""
        return f"{self.prefix}-{self.kind.upper()}"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anyone changing anything."""
        return self.kind in self.retryable_kinds

    @property
    def failure_class(self) -> str:
        """Class under which ``failures`` groups this error, for example ``source-missing``."""
        return "unknown"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def exit_code_of(error: ZarrmillError) -> int:
    """Return how a command ends by an error: a write that was lost is an outage, and no product that failed."""
    return EXIT_UNKNOWN if isinstance(error, StoreError) and error.retryable else error.exit_code


class ConfigError(ZarrmillError):
    """The configuration, the manifest or the command line is wrong; nothing was started."""

    prefix = "ZM-CFG"
    exit_code = EXIT_CONFIG
    kinds: ClassVar[dict[str, str]] = {
        "invalid": "A key is unknown or a value is out of bounds. Correct the named key; `docs/reference/config.md` lists all.",
        "bucket": "A bucket of this run would lose data. `zarrmill bucket check` says how, `zarrmill bucket setup` mends ours.",
        "manifest": "The manifest is missing or malformed. Run `plan` again.",
        "recipe": "No recipe, or more than one, serves this product type. Edit `recipes` in the configuration.",
        "sample": "The sample pixels are not installed. Run `make setup`.",
        "usage": "The command cannot work on these arguments. Read the message; `--help` shows the choices.",
    }

    def __init__(self, message: str, *, kind: str = "invalid") -> None:
        super().__init__(message, kind=kind)

    @property
    def failure_class(self) -> str:
        return "config"


class SourceError(ZarrmillError):
    """The source product cannot be used."""

    prefix = "ZM-SRC"
    retryable_kinds = frozenset({"timeout"})
    kinds: ClassVar[dict[str, str]] = {
        "missing": "The product, or an object that must hold data, is not there. Check the href; plan again.",
        "corrupt": "An object cannot be decoded. Report it to the provider; replay after it is mended.",
        "metadata": "The consolidated metadata is absent, truncated or not JSON. Report it to the provider.",
        "layout": "A shape, dtype, dimension or coordinate is not what the product type has. Compare with the recipe.",
        "crs": "The product does not say its coordinate reference system. No fallback exists; report it.",
        "type": "The product type is not supported. The message lists those that are.",
        "changed": "The source is not the one that was planned. Plan again.",
        "timeout": "The host did not answer in time. It is tried again; then replay.",
        "denied": "The host refused access. Check credentials and rights.",
        "id": "The product id cannot be used as a name. It is left out of the manifest.",
        "item": "The catalogue entry lacks or garbles something that is needed. Report it to the provider.",
        "duplicate": "Two catalogue entries have the same id and different sources. Both are left out.",
    }

    @property
    def failure_class(self) -> str:
        return {"missing": "source-missing", "timeout": "source-timeout"}.get(self.kind, "source-corrupt")


class CapacityError(ZarrmillError):
    """Memory or disk does not suffice; nothing was published."""

    prefix = "ZM-CAP"
    kinds: ClassVar[dict[str, str]] = {
        "memory": "The product needs more memory than the recipe allows. Raise `memory_mb` or lower `threads`.",
        "killed": "The job was killed: out of memory or by hand. Look at its machine; raise `memory_mb`, run again.",
        "evicted": "The node took the pod back: it was short, drained, or the pod wrote more than `disk_mb`. It is tried again.",
        "disk": "The target has no space left. Free some, then run again: finished shards are kept.",
    }

    @property
    def failure_class(self) -> str:
        return "evicted" if self.kind == "evicted" else "capacity"


class StoreError(ZarrmillError):
    """The target store refused or lost a write, or holds something that must not be overwritten."""

    prefix = "ZM-STO"
    retryable_kinds = frozenset({"lost"})
    kinds: ClassVar[dict[str, str]] = {
        "denied": "The target cannot be written. Check path and rights.",
        "lost": "What was written reads back differently, or the server lost the request. Run again.",
        "damaged": "A sealed store no longer matches its own digest. Move it away, then run again.",
        "missing": "There is no sealed store at this place.",
        "bucket": "The bucket is not there. Check the address and `s3.endpoint_url`, or create it.",
    }

    @property
    def failure_class(self) -> str:
        return "store"


class ConformanceError(ZarrmillError):
    """A store or an item breaks a rule that it claims to meet; it is not published."""

    prefix = "ZM-CON"
    kinds: ClassVar[dict[str, str]] = {
        "store": "Validation gave FAIL. The findings say where; the item is not made.",
        "item": "The STAC item breaks its schemas. The message names the field.",
    }

    def __init__(self, message: str, *, kind: str, findings: tuple[Any, ...] = ()) -> None:
        super().__init__(message, kind=kind)
        self.findings = findings
        """The findings (``zarrmill.model.Finding``) that made the verdict."""

    @property
    def failure_class(self) -> str:
        return "conformance"


class CatalogError(ZarrmillError):
    """The catalogue answered, but refused or answered nonsense."""

    prefix = "ZM-CAT"
    kinds: ClassVar[dict[str, str]] = {
        "answer": "The catalogue's answer is not STAC. Check the address and its kind.",
        "refused": "The catalogue refused the request. The message has its reason.",
    }

    @property
    def failure_class(self) -> str:
        return "catalog"


class UnknownStateError(ZarrmillError):
    """Present or absent cannot be told; nothing was decided."""

    prefix = "ZM-UNK"
    exit_code = EXIT_UNKNOWN
    retryable_kinds = frozenset({"outage", "taken"})
    kinds: ClassVar[dict[str, str]] = {
        "outage": "A catalogue, host or bucket could not be asked. Nothing was decided; try again when it is back.",
        "taken": "Another driver works on the run, took it over or planned it anew. Let it finish, then run again.",
    }


TREE: tuple[type[ZarrmillError], ...] = (
    ConfigError,
    SourceError,
    CapacityError,
    StoreError,
    ConformanceError,
    CatalogError,
    UnknownStateError,
)

CODES: dict[str, str] = {f"{c.prefix}-{kind.upper()}": text for c in TREE for kind, text in c.kinds.items()}
"""Every stable code with what to do about it."""

FAILURE_CLASSES = tuple(sorted({c("", kind=kind).failure_class for c in TREE for kind in c.kinds}))
"""What ``failures`` groups by."""

UNKNOWN_CODE = "ZM-UNKNOWN"
"""Code of an error that is none of ours."""
UNKNOWN_ADVICE = "No error of zarrmill's. Read the log; report it with the log."


PERMANENT = frozenset(
    f"{c.prefix}-{kind.upper()}"
    for c in (SourceError, ConformanceError)
    for kind in c.kinds
    if kind not in c.retryable_kinds and kind != "denied"  # rights and keys are mended beside a run
)
"""Codes of errors that the same try meets again as long as nobody mends the source."""


def advice(code: str) -> str:
    """Return what to do about an error code."""
    return CODES.get(code, UNKNOWN_ADVICE)


def help_of(code: str) -> str:
    """Return where the documentation tells of an error code: a page of the repository and a place on it."""
    return f"docs/reference/errors.md#{(code if code in CODES else UNKNOWN_CODE).lower()}"
