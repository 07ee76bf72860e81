"""Generated pages and schemas are those of the code."""

import re
from pathlib import Path

import pytest

from zarrmill.errors import CODES, TREE, UNKNOWN_CODE, help_of
from zarrmill.reference import reference_files, write_reference

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(reference_files()))
def test_generated_file_has_not_drifted(name):
    assert (ROOT / name).read_text() == reference_files()[name], "run `make docs`"


def test_every_config_key_is_described():
    for line in reference_files()["docs/reference/config.md"].splitlines():
        if line.startswith("| `"):
            assert line.rstrip(" |").split(" | ")[-1] not in ("", "group"), line


def test_every_code_is_unique_and_has_advice():
    assert len(CODES) == sum(len(error.kinds) for error in TREE)
    assert all(text.endswith(".") for text in CODES.values())


def anchors(page: str) -> list[str]:
    """Anchors of a page, as its headings get them: lower case, without what is no letter, digit or hyphen."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_help_of_every_code_leads_to_one_place():
    for code in (*CODES, UNKNOWN_CODE, "ZM-NEVER-HEARD"):
        page, anchor = help_of(code).split("#")
        assert anchors(page).count(anchor) == 1, code


def test_writing_twice_changes_nothing(tmp_path):
    assert write_reference(tmp_path)
    assert write_reference(tmp_path) == []
