"""docs/coverage.md, docs/reference.md and Tensor's stub are what their scripts write; public names are explained."""

from pathlib import Path

import pytest

from tests import coverage, reference, stubs, typed
from tests.coverage import GROUPS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("script", [coverage, reference], ids=["coverage", "reference"])
def test_the_page_is_up_to_date(script):
    name = script.__name__.rpartition(".")[2]
    written = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert written == script.page(), f"python tests/{name}.py > docs/{name}.md"


def test_the_stub_is_up_to_date():
    assert stubs.STUB.read_text(encoding="utf-8") == stubs.stub(), "python tests/stubs.py"


def test_the_typed_program_runs():
    typed.main()


def test_every_public_name_has_a_docstring():
    for _, module in reference.SECTIONS:
        for name, thing in reference.public(module).items():
            assert reference.text_of(thing), f"{module}.{name}"


def test_no_name_stands_twice():
    for title, _, names in GROUPS:
        assert len(names.split()) == len(set(names.split())), title
