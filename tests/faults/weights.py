"""What two runs must share, as one hash: all that trains, and all that decides what comes next."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from rmexp import checkpoint


def weights_sha256(run: Path, name: str = "last.pt") -> str:
    """Of networks, optimisers, draws, counters, place in the data and global generators.

    Not of validation's own draws, which training never sees.
    """
    digest = hashlib.sha256()
    state = checkpoint.load(run / "checkpoints" / name)
    del state["algo"]["draws"]["valid"]
    _feed(digest, {part: state[part] for part in ("algo", "loader", "random")})
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
