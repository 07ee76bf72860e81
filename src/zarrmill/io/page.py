"""HTML pages that need nothing beside themselves: templates of this package, images as data URIs, JSON inside."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from zarrmill.errors import ZarrmillError
from zarrmill.io.places import Place

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render_page(template: str, values: Mapping[str, object], filters: Mapping[str, Callable[..., object]] | None = None) -> str:
    """Return a template of ``zarrmill.io.templates`` with ``values``; every value is escaped unless marked as markup."""
    environment = _environment().overlay()
    environment.filters = {**environment.filters, "ticks": ticks, **(filters or {})}
    return environment.get_template(template).render(**values)


def ticks(text: str) -> "Markup":
    """Return text as markup in which `words in backticks` are code; everything else is escaped."""
    from markupsafe import Markup, escape

    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(text.split("`"))
    )


def embedded_json(value: object) -> str:
    """Return JSON that is safe inside a ``<script>`` element: no ``<``, ``>`` or ``&`` in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def inline_image(place: Place, edge_px: int) -> str | None:
    """Return an image as a small JPEG data URI, its longest edge at most ``edge_px``; None when it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(place.read_bytes())) as opened:
            image = opened.convert("RGBA")
    except (OSError, ZarrmillError, UnidentifiedImageError, ValueError, SyntaxError):
        # Pillow tells damaged PNG files by SyntaxError.
        return None
    image.thumbnail((edge_px, edge_px))
    # Pixels without data are transparent; JPEG has no transparency.
    ground = Image.new("RGBA", image.size, (128, 136, 144, 255))
    stream = io.BytesIO()
    Image.alpha_composite(ground, image).convert("RGB").save(stream, "JPEG", quality=74, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("zarrmill.io", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
