"""The end of a log, without what must not be kept."""

import pytest

from zarrmill.core.excerpt import MAX_BYTES, N_LINES, excerpt, secrets_of


def test_last_lines_are_kept():
    text = "\n".join(f"line {n}" for n in range(100)) + "\n\n"
    assert excerpt(text).splitlines() == [f"line {n}" for n in range(100 - N_LINES, 100)]


def test_size_is_bounded_and_no_letter_is_cut():
    kept = excerpt("ä" * MAX_BYTES + "end")
    assert len(kept.encode()) <= MAX_BYTES
    assert kept.endswith("äend")
    assert set(kept) == set("äend")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=***"),
        ('{"token": "abc.def-ghi", "n": 1}', '{"token": "***", "n": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("https://user:word@host/a", "https://***@host/a"),
        ("https://ghp_abcdef123@host/x", "https://***@host/x"),
        ("GET /a?sig=0f0f&se=1", "GET /a?***"),
        ("x-api-key: abc123", "x-api-key: ***"),
        ("apikey: abc123", "apikey: ***"),
        ("/a?subscription-key=abc123&b=1", "/a?***"),
        ("design: plain, sign=1", "design: plain, sign=1"),
        ("GET /a?X-Amz-Signature=0f0f&X-Amz-Date=1", "GET /a?***"),
        ("the host answered 503 for key measurements/b02/0.0", "the host answered 503 for key measurements/b02/0.0"),
    ],
)
def test_secrets_are_hidden(line, expected):
    assert excerpt(line) == expected


def test_values_of_secret_variables_are_hidden_wherever_they_are():
    secrets = secrets_of({"AWS_SECRET_ACCESS_KEY": "very/secret", "API_TOKEN": "short", "HOME": "/workdir"})
    assert secrets == ["very/secret"]
    assert excerpt("signed with very/secret today", secrets) == "signed with *** today"
