"""The content hash of a file: names the data in provenance, in checkpoints and in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rmexp.errors import DatasetError

WHOLE_BYTES = 2 << 30  # larger files are hashed by sample unless a sha256 is given
SAMPLES = 256
SAMPLE_BYTES = 1 << 20


def fingerprint(path: Path, expected: str | None) -> str:
    """sha256 of the file; raises DatasetError when it is not the expected one."""
    size = path.stat().st_size
    if expected is None and size > WHOLE_BYTES:
        return _sampled(path, size)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.lower():
        raise DatasetError(
            f"{path}: sha256 is {found}, expected {expected}; fetch the file again, or, if it is "
            f"one of your own, say dataset=hdf5 dataset.path={path} (or dataset.sha256=null)"
        )
    return found


def combined(hashes: list[str]) -> str:
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _sampled(path: Path, size: int) -> str:
    """Hash of the size, the time of change and evenly spread megabytes; marked as what it is."""
    digest = hashlib.sha256(f"{size} {path.stat().st_mtime_ns}".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return "sampled-" + digest.hexdigest()
