"""A signed S3 request with a header taken away, as a service that does not know the header would take it."""

import hashlib
import hmac
import re
from urllib.parse import urlsplit


def without(head: bytes, name: str) -> bytes:
    """Return the head of a request without the header ``name``, signed again (Signature Version 4) with the test's own secret."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    lines = [line for line in lines if line.partition(":")[0].lower() != name]
    found = {key.lower(): " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)}
    scope = re.search(r"Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Signature=", found["authorization"])
    assert scope, found["authorization"]
    key, place, signed = scope[1], scope[2], [one for one in scope[3].split(";") if one != name]
    method, target, _ = first.split(" ")
    url = urlsplit(target)
    query = "&".join(sorted(item if "=" in item else f"{item}=" for item in url.query.split("&") if item))
    values = [f"{one}:{found[one]}\n" for one in signed]
    canonical = "\n".join([method, url.path, query, "".join(values), ";".join(signed), found["x-amz-content-sha256"]])
    text = "\n".join(["AWS4-HMAC-SHA256", found["x-amz-date"], place, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = f"AWS4{key.removesuffix('-key')}-secret".encode()  # as tests/s3_server.py names keys
    for part in (*place.split("/"), text):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    header = f"AWS4-HMAC-SHA256 Credential={key}/{place}, SignedHeaders={';'.join(signed)}, Signature={secret.hex()}"
    lines = [f"Authorization: {header}" if line.lower().startswith("authorization:") else line for line in lines]
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")
