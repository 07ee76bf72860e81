"""What the verbs of the command line share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from zarrmill.config import Settings, load_settings, parse_settings
from zarrmill.errors import EXIT_OK
from zarrmill.io import bucket

ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration of the run.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Instead of the run of the configuration.")]
ProfileOption = Annotated[str, typer.Option(help="Snakemake profile.")]
SnakefileOption = Annotated[str | None, typer.Option(help="Snakefile; by default the one Snakemake finds here.")]
DEFAULT_CONFIG = Path("config/config.yaml")


def exits(verb: Callable[..., int]) -> Callable[..., None]:
    """Turn a verb's returned code into the exit code of the process."""

    @wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        code = verb(*args, **kwargs)
        if code != EXIT_OK:
            raise typer.Exit(code)

    return run


def configured(path: Path, run: str | None = None, **source: object) -> Settings:
    """Read the configuration; ``run`` and keys of ``source`` replace those of the file where they are given."""
    settings = load_settings(path, {"run": run} if run else None)
    given = {key: value for key, value in source.items() if value is not None}
    if given:
        settings = parse_settings({**settings.model_dump(), "source": settings.source.model_dump() | given}, "command line")
    bucket.use(settings.s3)
    return settings
