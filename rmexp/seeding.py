"""One number seeds everything: each purpose gets its own stream, and streams never mix.

Data order, weights, training noise and acting noise are separate functions of (seed, purpose), so
turning one part of a run on or off cannot change what another part draws.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, the same on every machine."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_global(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators (dropout and foreign code use them)."""
    random.seed(derive(seed, "python"))
    np.random.seed(derive(seed, "numpy") % 2**32)  # noqa: NPY002 - foreign code draws from it
    torch.manual_seed(derive(seed, "torch"))


def random_state() -> dict[str, Any]:
    """Every global generator's state as plain numbers and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(
        "tuple[str, np.ndarray[Any, Any], int, int, float]",
        np.random.get_state(),  # noqa: NPY002
    )
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo what was drawn since `random_state()` returned `state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def preserved_random_state(active: bool = True) -> Generator[None]:
    """Let the body draw from the global generators without anybody noticing afterwards."""
    if not active:
        yield
        return
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
