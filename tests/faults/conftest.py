from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.faults.campaign")

from tests.faults.campaign import Tally  # noqa: E402 - its asserts explain themselves now


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long run may take its time."""
    if config.getoption("--faults") == "long":
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.timeout(7200))


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
