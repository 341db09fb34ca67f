"""What the tests of hostile files share: a canary that sings when code ran, and a memory limit."""

from __future__ import annotations

import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

CANARY = "rmexp_canary"
SOURCE = """
from pathlib import Path

Path(__file__).with_name("sang").touch()


def run(*args, **kwargs):
    Path(__file__).with_name("sang").touch()


def head(**kwargs):
    from rmexp.nets.heads import Deterministic

    return Deterministic(**kwargs)
"""


class Canary:
    """The module `rmexp_canary` can be imported; doing so leaves a file behind."""

    def __init__(self, folder: Path) -> None:
        (folder / f"{CANARY}.py").write_text(SOURCE)
        self._mark = folder / "sang"
        self.folder = folder

    @property
    def sang(self) -> bool:
        return self._mark.exists() or CANARY in sys.modules


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Canary]:
    folder = tmp_path / "canary"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield Canary(folder)
    sys.modules.pop(CANARY, None)


@contextmanager
def bounded_memory(more: int = 1 << 30) -> Generator[None]:
    """Asking for more than `more` bytes beyond what the process holds fails in this block."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
