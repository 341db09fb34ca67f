from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.faults.campaign")

from tests.faults.campaign import Tally  # noqa: E402 - its asserts explain themselves now


@pytest.fixture
def fault_rounds(request: pytest.FixtureRequest) -> int:
    """How often a test repeats what it draws at random."""
    return 20 if request.config.getoption("--faults") == "long" else 1


@pytest.fixture
def tally(record_property: Callable[[str, Any], None]) -> Iterator[Tally]:
    """Reported at the end of the session, whatever became of the test."""
    tally = Tally()
    yield tally
    record_property("kills", tally.kills)
    record_property("resumed", tally.resumed)
