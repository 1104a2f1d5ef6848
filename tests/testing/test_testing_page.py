"""The tests on ``docs/testing.md`` pass, as a project of their own; its programs are run with those of other pages."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, blocks_of

pytest_plugins = ["pytester"]

PAGE = DOCS / "testing.md"


def test_the_tests_on_the_page(pytester):
    files = {block.caption: block.text for block in blocks_of(PAGE) if block.caption}
    for name, text in files.items():
        (pytester.path / name).write_text(text)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers")
    number = sum(len(re.findall("^async def test_", text, re.MULTILINE)) for text in files.values())
    assert number >= 10
    result.assert_outcomes(passed=number)


def test_the_message_on_the_page(pytester):
    """What a recorder says is as the page shows it."""
    blocks = blocks_of(PAGE)
    files = {block.caption: block.text for block in blocks if block.caption in {"shop.py", "test_sell.py"}}
    old = 'recorder.assert_not_called("Stock.take", "chair")'
    assert old in files["test_sell.py"]
    files["test_sell.py"] = files["test_sell.py"].replace(old, 'recorder.assert_called("Stock.take", "chair")')
    for name, text in files.items():
        (pytester.path / name).write_text(text)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "test_sell.py")
    (message,) = [block.text for block in blocks if block.text.startswith("AssertionError: Stock.take")]
    result.stdout.fnmatch_lines([f"*{line}" for line in message.replace("[", "[[]").splitlines()], consecutive=True)
