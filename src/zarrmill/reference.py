"""Generates the reference pages and schemas from the code; a test fails when the files drift."""

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from zarrmill.config import Model, Recipe, Settings
from zarrmill.core.checks import findings_markdown
from zarrmill.errors import CODES, EXIT_FAILED, TREE, UNKNOWN_ADVICE, UNKNOWN_CODE
from zarrmill.io.record import SCHEMAS
from zarrmill.prices import Prices


def reference_files() -> dict[str, str]:
    """Return every generated file: path from the project's root to content."""
    _describe(Model)
    files = {
        "docs/reference/config.md": config_markdown(),
        "docs/reference/errors.md": errors_markdown(),
        "docs/reference/findings.md": findings_markdown(),
        "config/schemas/config.schema.json": _schema(Settings),
        "config/schemas/recipe.schema.json": _schema(Recipe),
        "config/schemas/prices.schema.json": _schema(Prices),
    }
    for kind, name in SCHEMAS.items():
        files[f"docs/reference/schemas/{name.split('/')[1]}.schema.json"] = _text(TypeAdapter(kind).json_schema())
    return files


def write_reference(root: Path) -> list[Path]:
    """Write every generated file below ``root`` and return those that changed."""
    changed = []
    for name, text in reference_files().items():
        path = root / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(path)
    return changed


def errors_markdown() -> str:
    """Return ``docs/reference/errors.md``: a heading a code, so that each has an anchor (``zarrmill.errors.help_of``)."""
    lines = ["# Error codes", "", "Generated from `src/zarrmill/errors.py`; do not edit.", ""]
    lines += ["| exit code | meaning |", "| --- | --- |"]
    meanings = {
        0: "all done",
        1: "broke off with products left: run again",
        2: "usage or configuration error",
        3: "nothing to do",
        4: "finished, something failed",
        5: "stopped by a bound",
        6: "unknown state (an outage): nothing was decided",
        130: "interrupted",
    }
    lines += [f"| {code} | {text} |" for code, text in meanings.items()]
    lines += ["", "Snakemake itself ends with 1 when any job failed; `zarrmill summary` and `status` then end with 4."]
    for error in TREE:
        summary = (error.__doc__ or "").strip().splitlines()[0]
        lines += ["", f"## {error.__name__} (exit {error.exit_code})", "", summary]
        for code, text in CODES.items():
            if code.startswith(f"{error.prefix}-"):
                lines += ["", f"### {code}", "", text]
    lines += ["", f"## Anything else (exit {EXIT_FAILED})", "", "An error that zarrmill does not know."]
    lines += ["", f"### {UNKNOWN_CODE}", "", UNKNOWN_ADVICE]
    return "\n".join(lines) + "\n"


def config_markdown() -> str:
    """Return ``docs/reference/config.md``."""
    origin = "Generated from `src/zarrmill/config.py` and `prices.py`; do not edit. Unknown keys are refused."
    lines = ["# Configuration", "", origin]
    for title, model in (
        ("config/config.yaml: where things are", Settings),
        ("config/recipes/*.yaml: how stores are made", Recipe),
        ("config/prices.yaml: what a run costs", Prices),
    ):
        lines += ["", f"## {title}", "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{key}` | {kind} | {default} | {text} |" for key, kind, default, text in _keys(model)]
    return "\n".join(lines) + "\n"


def _describe(parent: type[Model]) -> None:
    """Give the fields of every model the docstrings below them as descriptions, in the order in which models are defined."""
    for model in parent.__subclasses__():
        (body,) = (node.body for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef))
        for field, below in pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    for one in (model, *model.__subclasses__()):
                        one.model_fields[name].description = inspect.cleandoc(text)
        model.model_rebuild(force=True)
        _describe(model)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    schema = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        inner = field.annotation
        text = (field.description or "").replace("\n", " ")
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"{prefix}{name}", "group", "", text
            yield from _keys(inner, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        yield f"{prefix}{name}", _kind(schema[name]), default, text


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return "list"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    found = ", ".join(f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema)
    return f"{schema.get('type', 'any')}{f' ({found})' if found else ''}"


def _schema(model: type[BaseModel]) -> str:
    return _text({"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()})


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
