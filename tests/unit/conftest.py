"""For the tests of single modules."""

import pytest
from unit.boxes import Box


@pytest.fixture
async def new_box(nursery):
    """Makes boxes. No cancel reaches a writer, so they are ended here, else a failing test would hang."""
    boxes = []

    def make(**options):
        boxes.append(Box(nursery, **options))
        return boxes[-1]

    yield make
    for box in boxes:
        box.outbox.close(within=0)
