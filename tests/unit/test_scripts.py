"""Scripts of rules are read once by a driver."""

from types import ModuleType
from typing import Any

import snakemake.script

from zarrmill.io.scripts import PARAMETERS, read_once


def reader(asked: list[str]) -> ModuleType:
    module = ModuleType("script")

    def get_source(path: Any, sourcecache: Any, basedir: Any = None, wildcards: Any = None, params: Any = None) -> str:
        asked.append(f"{basedir}/{path}")
        return f"text of {basedir}/{path}, {wildcards}"

    module.get_source = get_source  # type: ignore[attr-defined]
    return module


def test_a_script_is_read_once_for_all_jobs_of_its_rule() -> None:
    asked: list[str] = []
    module, cache = reader(asked), object()
    read_once(module)
    read_once(module)
    texts = [module.get_source("convert.py", cache, "rules", wildcards=product, params={}) for product in ("a", "b", "c")]
    assert texts == ["text of rules/convert.py, a"] * 3
    module.get_source("validate.py", cache, "rules")
    module.get_source("convert.py", cache, "elsewhere")
    module.get_source("convert.py", object(), "rules")
    assert asked == ["rules/convert.py", "rules/validate.py", "elsewhere/convert.py", "rules/convert.py"]


def test_a_path_with_wildcards_is_read_for_every_job() -> None:
    asked: list[str] = []
    module = reader(asked)
    read_once(module)
    found = [module.get_source("{wildcards.name}.py", None, "rules", wildcards=name) for name in "ab"]
    assert found == ["text of rules/{wildcards.name}.py, a", "text of rules/{wildcards.name}.py, b"]
    assert len(asked) == 2


def test_another_function_than_the_known_one_is_left_alone() -> None:
    module = ModuleType("script")
    module.get_source = before = lambda path, cache: path  # type: ignore[attr-defined]
    read_once(module)
    assert module.get_source is before


def test_the_installed_snakemake_has_the_known_function() -> None:
    import inspect

    assert tuple(inspect.signature(snakemake.script.get_source).parameters) == PARAMETERS
