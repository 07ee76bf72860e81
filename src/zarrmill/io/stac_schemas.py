"""JSON schemas of STAC, from this machine only: validation never asks the network.

The core schemas come with pystac. Those of extensions come from a folder with an ``index.json`` that maps the address of each
schema to a file in the folder; it is named by ``schema_cache`` in the configuration or by the environment variable
``ZARRMILL_SCHEMA_CACHE``. A declared schema that is in neither place is reported as not checked, never passed over.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from zarrmill.errors import ConfigError
from zarrmill.model import Json

if TYPE_CHECKING:
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import ValidationError
    from referencing import Registry

ENVIRONMENT = "ZARRMILL_SCHEMA_CACHE"
"""Environment variable that names the schema folder when the configuration does not."""

_CORE = "https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{kind}.json"
_KINDS = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """One place where a document breaks a schema."""

    field: str
    """Path in the document, e.g. ``properties.eo:cloud_cover``."""
    schema: str
    """Address of the schema."""
    message: str
    """What was found and what the schema expects."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message} ({self.schema})"


@dataclass(frozen=True, slots=True)
class SchemaCheck:
    """Outcome of checking one document."""

    faults: tuple[SchemaFault, ...]
    checked: tuple[str, ...]
    """Schemas that were applied, core first."""
    unchecked: tuple[str, ...]
    """Declared schemas that are not on this machine."""


@dataclass(frozen=True)
class Schemas:
    """Schemas at hand."""

    documents: Mapping[str, Json]
    """Address, without fragment, to schema."""

    @cached_property
    def registry(self) -> "Registry[Json]":
        """Registry of all schemas; it has no way to fetch others."""
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT7

        # Keyed by address, not by $id: the published common.json calls itself "commonjson".
        pairs = [(url, Resource.from_contents(body, DRAFT7)) for url, body in self.documents.items()]
        return Registry[Json]().with_resources(pairs)

    @cached_property
    def _validators(self) -> "dict[str, Draft7Validator]":
        return {}

    def check(self, document: Mapping[str, Json]) -> SchemaCheck:
        """Check an item, a collection or a catalogue against the core schema and every declared extension."""
        core = _CORE.format(kind=_KINDS.get(str(document.get("type")), "item"))
        wanted = [core, *(str(url).removesuffix("#") for url in document.get("stac_extensions", []))]
        checked = [url for url in wanted if url in self.documents]
        faults = [fault for url in checked for fault in self._faults(url, document)]
        return SchemaCheck(tuple(faults), tuple(checked), tuple(url for url in wanted if url not in self.documents))

    def _faults(self, url: str, document: Mapping[str, Json]) -> list[SchemaFault]:
        from jsonschema import Draft7Validator
        from referencing.exceptions import Unresolvable

        if url not in self._validators:
            checker = Draft7Validator.FORMAT_CHECKER
            self._validators[url] = Draft7Validator(self.documents[url], registry=self.registry, format_checker=checker)
        try:
            return _distinct(url, [_innermost(error) for error in self._validators[url].iter_errors(document)])
        except Unresolvable as error:
            raise ConfigError(f"{url}: refers to {error.ref}, which is not in the schema folder; add it there") from error


def schema_folder(configured: str | None) -> str | None:
    """Return the folder of extension schemas, or None when none is named."""
    return configured or os.environ.get(ENVIRONMENT) or None


@lru_cache(maxsize=4)
def load_schemas(folder: str | None) -> Schemas:
    """Read the core schemas and those of ``folder`` (None: only core).

    Raises: ConfigError: the folder has no readable ``index.json``, or a file that it names is missing or not JSON.
    """
    from pystac.validation.local_validator import get_local_schema_cache

    documents: dict[str, Json] = dict(get_local_schema_cache())
    if folder is not None:
        place = Path(folder)
        index = _read(place / "index.json")
        if not isinstance(index, dict):
            raise ConfigError(f"{place}/index.json: expected addresses and files, found {type(index).__name__}")
        documents |= {url.removesuffix("#"): _read(place / name) for url, name in index.items() if url.startswith("http")}
    return Schemas(documents)


def _read(path: Path) -> Json:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read ({error.strerror}); correct schema_cache or {ENVIRONMENT}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); correct schema_cache or {ENVIRONMENT}") from error


def _innermost(error: "ValidationError") -> "ValidationError":
    """Return the most telling cause: of the branches of ``oneOf`` or ``anyOf`` the one that reaches deepest.

    Branches that fail because they are for another kind of document (``type``) tell nothing.
    """
    leaves = _leaves(error)
    apt = [leaf for leaf in leaves if not (leaf.validator == "const" and list(leaf.absolute_path) == ["type"])] or leaves
    return max(apt, key=lambda leaf: (len(leaf.absolute_path), leaf.validator != "required"))


def _leaves(error: "ValidationError") -> "list[ValidationError]":
    if not error.context:
        return [error]
    return [leaf for inner in error.context for leaf in _leaves(inner)]


def _distinct(url: str, errors: "list[ValidationError]") -> list[SchemaFault]:
    faults = {}
    for error in errors:
        field = ""
        for part in error.absolute_path:
            field += f"[{part}]" if isinstance(part, int) else f".{part}"
        fault = SchemaFault(field.lstrip(".") or "(document)", url, error.message[:300])
        faults[fault.field, fault.message] = fault
    return [faults[key] for key in sorted(faults)]
