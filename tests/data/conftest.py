from __future__ import annotations

from pathlib import Path

import pytest
from demo_files import OpenDataset, WriteDemos, dataset_opener, demo_writer


@pytest.fixture
def open_dataset(tmp_path: Path) -> OpenDataset:
    """Dataset(path, **changes) with settings that suit small files."""
    return dataset_opener(tmp_path)


@pytest.fixture
def write_demos(tmp_path: Path) -> WriteDemos:
    """Writes a file of random demonstrations and returns its path."""
    return demo_writer(tmp_path)
