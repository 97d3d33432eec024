"""docs/coverage.md is what its script writes."""

from pathlib import Path

from tests.coverage import GROUPS, page

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/coverage.py > docs/coverage.md"


def test_no_name_stands_twice():
    for title, _, names in GROUPS:
        assert len(names.split()) == len(set(names.split())), title
