"""For all tests: a mistake of the library's own is never only a line in the log."""

from __future__ import annotations

import os

import hypothesis
import pytest

# The same examples in every run there: a red result is then the change's doing. Elsewhere it goes on looking.
hypothesis.settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def no_internal_errors(caplog):
    """Fails the test if a connection ended by an exception that nobody had foreseen."""
    yield
    mistakes = [record for record in caplog.get_records("call") if "internal error in" in record.getMessage()]
    assert not mistakes
