"""Sources of scripts, read once by a driver: Snakemake reads the script of a rule again for every job that it plans.

With 10,000 products that is 30,000 readings of three small files, a sixth of the seconds in which their graph is made.
"""

import inspect
from functools import wraps
from types import ModuleType
from typing import Any

PARAMETERS = ("path", "sourcecache", "basedir", "wildcards", "params")
"""Of the function that is replaced; another one is left as it is."""


def read_once(script: ModuleType) -> None:
    """Let the script of a rule be read once, unless wildcards are part of its path.

    Args: script: the module ``snakemake.script``, whose ``get_source`` Snakemake looks up here.
    """
    read = script.get_source
    if tuple(inspect.signature(read).parameters) != PARAMETERS or hasattr(read, "__wrapped__"):
        return
    known: dict[tuple[str, ...], Any] = {}  # what Snakemake returns: path, text, language and more

    @wraps(read)
    def get_source(path: Any, sourcecache: Any, basedir: Any = None, wildcards: Any = None, params: Any = None) -> Any:
        place = _words(path)
        if "{" in place:
            return read(path, sourcecache, basedir, wildcards, params)
        key = (f"{id(sourcecache)}", place, _words(basedir))
        if key not in known:
            known[key] = read(path, sourcecache, basedir, wildcards, params)
        return known[key]

    script.get_source = get_source  # type: ignore[attr-defined]  # Snakemake has no types


def _words(place: Any) -> str:
    """Return the path or address of what Snakemake takes for a source file."""
    return str(place.get_path_or_uri(secret_free=True)) if hasattr(place, "get_path_or_uri") else str(place)
