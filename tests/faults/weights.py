"""What two runs must share: the weights in their last checkpoint, as one hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from rmexp import checkpoint


def weights_sha256(run: Path, name: str = "last.pt") -> str:
    """Of the networks and of everything else that trains: optimisers, draws, counters."""
    digest = hashlib.sha256()
    _feed(digest, checkpoint.load(run / "checkpoints" / name)["algo"])
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())
