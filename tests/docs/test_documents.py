"""The Python blocks of README.md and docs/ run as written, top to bottom, one page at a time.

Pages may use the study `runs/demo`, which `make demo` would have made: a small one stands in for
it. Blocks that must not run are preceded by the comment `<!-- skip: next "reason" -->`.
"""

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
READER = Sybil([PythonCodeBlockParser(), SkipParser()])


@pytest.mark.parametrize(
    "page",
    [
        page if page.name == "README.md" else pytest.param(page, marks=pytest.mark.long)
        for page in PAGES
    ],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
@pytest.mark.usefixtures("directory")
def test_python_blocks_run(page: Path) -> None:
    for example in READER.parse(page):
        example.evaluate()


def test_a_wrong_block_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text("```python\nvalue = 1\n```\n\n```python\nassert value == 2\n```\n")
    first, second = READER.parse(page)
    first.evaluate()
    with pytest.raises(AssertionError):
        second.evaluate()
