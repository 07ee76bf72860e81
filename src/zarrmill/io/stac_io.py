"""Reading STAC documents over http: timeouts, bounded retries, paging to the very end, and our errors."""

import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from pystac import Link
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests.exceptions import ChunkedEncodingError, ConnectionError, ContentDecodingError
from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_random_exponential
from urllib3 import Retry

from zarrmill.errors import CatalogError, UnknownStateError
from zarrmill.io.logs import hides
from zarrmill.model import Json

CONNECT_S = 15.0
"""Longest wait for a connection."""

MAY_PASS = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that may be another one later."""

MAX_EMPTY_PAGES = 50
"""Empty pages in a row, each with a next link, before the catalogue is called broken."""

EXACT_BELOW = 100_000
"""A stated number of matches from here on may be the database's guess (pgSTAC ``context_estimated_count``)."""


class StacHttp(StacApiIO):
    """pystac-client's transport, made strict.

    pystac-client stops at the first empty page even when it has a next link, follows a looping next link for ever, and does
    not try again when a body breaks off. Searching is reading, so POST is tried again like GET.
    """

    def __init__(self, timeout_s: float, retries: int) -> None:
        retry = Retry(
            total=retries,
            other=0,
            allowed_methods=None,
            status_forcelist=MAY_PASS,
            backoff_factor=0.5,
            backoff_jitter=0.5,
            backoff_max=20,
            retry_after_max=60,
            raise_on_status=False,
        )
        super().__init__(timeout=(min(CONNECT_S, timeout_s), timeout_s), max_retries=retry)
        self._attempts = retries + 1
        logging.getLogger("urllib3.connectionpool").addFilter(hides)  # it warns of each retry, with the address

    def close(self) -> None:
        """Give back the connections."""
        self.session.close()

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,  # as pystac-client declares it
    ) -> str:
        """Return the body of the answer.

        Raises: CatalogError: refused (4xx); UnknownStateError: no whole answer in time, or 5xx to the last try.
        """
        tries = Retrying(
            stop=stop_after_attempt(self._attempts), wait=wait_random_exponential(0.5, 20), retry=_broke_off, reraise=True
        )
        try:
            return str(tries(super().request, href, method, headers, parameters))
        except APIError as error:
            raise _translated(error, href) from error

    def document(self, href: str, source: str | Link, method: str | None, parameters: dict[str, Any] | None) -> dict[str, Json]:
        """Return one JSON document; a ``Link`` is asked as it says (method, headers, body, merge).

        Raises: as ``request``; CatalogError: the answer is not a JSON object.
        """
        return json_object(self.read_text(source, method=method, parameters=parameters), href)

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield every page that holds items, following next links as given until there is none.

        Raises: as ``document``; CatalogError: a page is no FeatureCollection or next links go in a circle;
            UnknownStateError: fewer items came than the catalogue said there are.
        """
        page = self.document(url, url, method, parameters)
        matched, n_items, n_empty = _stated_matches(page), 0, 0
        asked: set[str] = set()
        while True:
            features = _features(page, url)
            n_items += len(features)
            n_empty = 0 if features else n_empty + 1
            if features:
                yield page
            following = _next(page, url)
            if following is None:
                break
            key = json.dumps(following, sort_keys=True)
            if key in asked or n_empty > MAX_EMPTY_PAGES:
                raise CatalogError(f"{url}: next links lead in a circle or through empty pages; report it", kind="answer")
            asked.add(key)
            page = self.document(following["href"], Link.from_dict(following), None, parameters)
        if matched is not None and n_items < matched < EXACT_BELOW:
            message = f"{url}: {n_items} items came, the catalogue said {matched}; nothing was decided, plan again"
            raise UnknownStateError(message, kind="outage")


def json_object(text: str, place: str) -> dict[str, Json]:
    """Parse a JSON object.

    Raises: CatalogError: it is something else.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{place}: the answer is not JSON ({error}); check address and kind", kind="answer") from None
    if not isinstance(document, dict):
        message = f"{place}: the answer is a {type(document).__name__}, expected an object; check address and kind"
        raise CatalogError(message, kind="answer")
    return document


def _features(page: dict[str, Json], place: str) -> list[Json]:
    features = page.get("features")
    if page.get("type") != "FeatureCollection" or not isinstance(features, list):
        found = f"type {page.get('type')!r}, features {type(features).__name__}"
        raise CatalogError(f"{place}: a page has {found}; expected a FeatureCollection; check address and kind", kind="answer")
    returned = page.get("numberReturned")
    if isinstance(returned, int) and returned != len(features):
        message = f"{place}: a page has {len(features)} items and states {returned}; nothing was decided, plan again"
        raise UnknownStateError(message, kind="outage")
    return features


def _next(page: dict[str, Json], base: str) -> dict[str, Json] | None:
    links = page.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "next":
            if not isinstance(link.get("href"), str):
                raise CatalogError(f"{base}: a next link has no address; report it to the catalogue", kind="answer")
            return {**link, "href": urljoin(base, link["href"])}
    return None


def _stated_matches(page: dict[str, Json]) -> int | None:
    context = page.get("context")
    matched = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else None)
    return matched if isinstance(matched, int) else None


def _broke_off(state: RetryCallState) -> bool:
    """Whether the body of an answer broke off or stalled; urllib3 retries all that comes before the body."""
    error = state.outcome.exception() if state.outcome else None
    cause = error.__context__ if isinstance(error, APIError) else None
    stalled = isinstance(cause, ConnectionError) and type(cause.args[0]).__name__ == "ReadTimeoutError"
    return stalled or isinstance(cause, (ChunkedEncodingError, ContentDecodingError))


def _translated(error: APIError, href: str) -> CatalogError | UnknownStateError:
    status = getattr(error, "status_code", None)
    reason = " ".join(str(error).split()).rpartition("Caused by ")[2][:200]
    if status is not None and 400 <= status < 500 and status not in MAY_PASS:
        return CatalogError(f"{href}: status {status} ({reason}); check address, kind and rights", kind="refused")
    said = f"status {status}" if status else "no answer"
    return UnknownStateError(f"{href}: {said} ({reason}); nothing was decided, plan again when it is back", kind="outage")
