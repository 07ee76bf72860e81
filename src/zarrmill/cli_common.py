"""What the verbs of the command line share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from zarrmill.config import Settings, load_settings, parse_settings
from zarrmill.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError
from zarrmill.io import bucket
from zarrmill.io.process import tell

ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration of the run.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Instead of the run of the configuration.")]
RunArgument = Annotated[str | None, typer.Argument(help="Name of the run or backfill; by default the run of the configuration.")]
ProfileOption = Annotated[str, typer.Option(help="Snakemake profile.")]
SnakefileOption = Annotated[str | None, typer.Option(help="Snakefile; by default the one Snakemake finds here.")]
DEFAULT_CONFIG = Path("config/config.yaml")


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, option: str) -> float:
    """Return the seconds of ``30m``, ``12h`` or ``2d``. Raises: ConfigError: it is no such time, or nothing; names the option."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 10**9 and unit in _UNITS):
        raise ConfigError(f"{option} {text!r} is not a time like 30m, 12h or 2d", kind="usage")
    return int(number) * _UNITS[unit]


def exits(verb: Callable[..., int]) -> Callable[..., None]:
    """Turn a verb's returned code into the exit code of the process; an interruption, of which typer says nothing, is told."""

    @wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = verb(*args, **kwargs)
        except KeyboardInterrupt:
            tell("interrupted; run the same command again to go on")
            code = EXIT_INTERRUPTED
        if code != EXIT_OK:
            raise typer.Exit(code)

    return run


def configured(path: Path, run: str | None = None, **source: object) -> Settings:
    """Read the configuration; ``run`` and keys of ``source`` replace those of the file where they are given."""
    settings = load_settings(path, {"run": run} if run is not None else None)
    given = {key: value for key, value in source.items() if value is not None}
    if given:
        settings = parse_settings({**settings.model_dump(), "source": settings.source.model_dump() | given}, "command line")
    bucket.use(settings.s3)
    return settings
