"""What a host means by its answer: errors of obstore and of the disk become ours."""

from types import TracebackType

from zarrmill.errors import SourceError, ZarrmillError
from zarrmill.io.bucket import CLOCK_WRONG, wrong_region
from zarrmill.io.patience import is_final, status_of

_NO_METHOD = "405 Method Not Allowed"
"""Words of a server that does not do what was asked, whatever is there; obstore takes them for an absent object."""

_MEANINGS = (
    ("NoSuchBucket", "there is no such bucket; check address and endpoint"),
    (_NO_METHOD, f"the server answers {_NO_METHOD}; check the address"),
    ("ExpiredToken", "the credentials are too old; renew them"),
    (CLOCK_WRONG, "the clock of this machine is wrong; set it"),
)
"""Words of a refusal, and what is told."""


class MissingObjectError(KeyError):
    """The object is certainly not there; anything less certain is another error."""


class Translated:
    """Turns errors of a place into ours. No generator: its frames would keep what a caller holds until the next collection."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) and error.errno:
            # The disk says so: obstore, 0.06 s to import, has nothing to do with it.
            raise MissingObjectError(self._place) from error
        from obstore.exceptions import BaseError

        if isinstance(error, BaseError | OSError):
            raise _meaning(self._place, error) from error


def _meaning(place: str, error: Exception) -> ZarrmillError | MissingObjectError:
    from obstore import exceptions as known

    text = str(error)
    if isinstance(error, known.PreconditionError):
        return SourceError(f"{place}: another object came in its place while it was read; plan again", kind="changed")
    told = next((told for words, told in _MEANINGS if words in text), None)
    if told:
        return SourceError(f"{place}: {told}", kind="denied")
    if isinstance(error, FileNotFoundError | known.NotFoundError) or status_of(error) == 410:
        return MissingObjectError(place)
    if isinstance(error, PermissionError | known.PermissionDeniedError | known.UnauthenticatedError) or status_of(error) in (
        401,
        403,
    ):
        return SourceError(f"{place}: access denied; check credentials and rights", kind="denied")
    elsewhere = wrong_region(place, error)
    if elsewhere:
        return elsewhere
    reason = text.split("\n")[0][:300]
    if is_final(error):
        return SourceError(f"{place}: the host refuses the request ({reason}); check the address", kind="denied")
    return SourceError(f"{place}: no answer ({reason}); try again later", kind="timeout")
