"""What can be said of a bucket in a catalogue: never credentials, only where it is."""

import os
from urllib.parse import urlsplit

from zarrmill.model import Json


def storage_scheme(href: str) -> dict[str, Json]:
    """Return the storage scheme (STAC storage extension 2.0) of an ``s3://`` address, empty for any other.

    Endpoint and region come from the standard environment variables of S3 clients; a region that is not set is left out.
    """
    parts = urlsplit(href)
    if parts.scheme != "s3":
        return {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    scheme: dict[str, Json] = {
        "type": "custom-s3" if endpoint else "aws-s3",
        "platform": endpoint or "https://{bucket}.s3.{region}.amazonaws.com",
        "bucket": parts.netloc,
    }
    return {**scheme, "region": region} if region else scheme
