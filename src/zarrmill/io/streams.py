"""stdout and stderr of a verb: work is not lost with those who watch it."""

import errno
import os
import sys
from collections.abc import Buffer
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TextIO

from zarrmill.errors import EXIT_BROKEN, EXIT_OK
from zarrmill.io.process import tell


class Outlet(FileIO):
    """A stream of this process. What it takes no more is dropped, what is done goes on, and stderr tells it once."""

    lost: OSError | None = None
    """Why the stream takes nothing more."""

    def write(self, data: Buffer, /) -> int:
        """Write, or drop, ``data``."""
        try:
            return super().write(data)
        except OSError as error:
            self._drop(error)
            return memoryview(data).nbytes

    def exit_code(self, code: int | str | None) -> int | str | None:
        """Return how a verb ends that would end with ``code``: lost output is an error, a reader that has enough is none."""
        if self.lost and self.lost.errno != errno.EPIPE and code in (EXIT_OK, None):
            return EXIT_BROKEN
        return code

    def _drop(self, error: OSError) -> None:
        self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self.fileno() == 1:
            tell(f"stdout takes nothing more ({error.strerror}): what is done goes on to its end, unseen")


def keep_streams() -> Outlet:
    """Let stdout and stderr of this process be lost without harm; return the one below stdout."""
    out, sys.stdout = _kept(sys.stdout, 1)
    _, sys.stderr = _kept(sys.stderr, 2)
    return out


def _kept(stream: TextIO | None, number: int) -> tuple[Outlet, TextIO]:
    """Return a stream that does as ``stream`` and can be lost; one that was closed at the start is lost from the start."""
    if stream is None:
        nowhere = Outlet(os.devnull, "w")
        return nowhere, TextIOWrapper(BufferedWriter(nowhere))
    stream.flush()
    outlet = Outlet(number, "w", closefd=False)
    at_once = getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False)
    return outlet, TextIOWrapper(BufferedWriter(outlet), stream.encoding, stream.errors, line_buffering=at_once)
