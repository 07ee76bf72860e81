"""Patience: how long a failure that may pass is waited for, without waiting."""

import pytest

from zarrmill.io.patience import BrokenOffError, passes, patiently


def refusal(status):
    return OSError(
        f"Generic HTTP error: Error performing GET http://x/y in 1ms - Server returned non-2xx status code: {status} X: "
    )


@pytest.mark.parametrize(("retries", "shortest", "longest"), [(0, 0, 0), (1, 0.15, 0.3), (4, 6, 12), (6, 26, 52), (20, 166, 332)])
def test_pauses_grow_are_random_and_bounded(monkeypatch, retries, shortest, longest):
    pauses = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)

    def ask():
        raise refusal(503)

    with pytest.raises(OSError, match="503"):
        patiently(ask, retries)
    assert len(pauses) == retries
    assert shortest <= sum(pauses) <= longest
    assert pauses[:4] == sorted(pauses[:4])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_asked_again(monkeypatch, status):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    answers = [refusal(status), BrokenOffError("short"), OSError("HTTP error: error sending request")]

    def ask():
        if answers:
            raise answers.pop()
        return "it"

    assert patiently(ask, 3) == "it"


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 410, 412, 416, 451, 501, 505])
def test_a_refusal_does_not_pass(status):
    assert not passes(refusal(status))
    assert not passes(OSError("HTTP error: error following redirect"))
