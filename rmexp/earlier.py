"""What earlier versions called the things in runs and checkpoints that they wrote.

Up to format 2 of checkpoints, each kind of network laid its parts out in a way of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOVED = {"rmexp.nets.action_values.": "rmexp.nets.critics."}
"""Classes of `_target_`, by the beginning of their names."""

RENAMED = {
    r"\.vae\.(encoder|decoder|prior_parameters)\.": r".\1.",
    r"\.condition\.obs\.": ".encoder.",
    r"\.condition\.goal\.": ".encoder.goal.",
    r"\bgoal_encoder\.": "encoder.goal.",
    r"\bencoder\.obs\.": "encoder.",
}
"""Patterns in the names of weights."""

_LAST_LAYER = re.compile(r"\.net\.decoder\.(?=(weight|bias)$)")


def current_target(name: str) -> str:
    """Where the class of a saved `_target_` is now."""
    for old, new in MOVED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def current_names(weights: Mapping[Any, Any]) -> dict[Any, Any]:
    """Weights of format 1 or 2 under the names that they have now."""
    return {
        _current_name(name, value) if isinstance(name, str) else name: value
        for name, value in weights.items()
    }


def _current_name(name: str, value: Any) -> str:
    for old, new in RENAMED.items():
        name = re.sub(old, new, name)
    output = "action"
    if "critic" in name:
        output = "value" if tuple(getattr(value, "shape", ()))[:1] == (1,) else "logits"
    return _LAST_LAYER.sub(f".net.decoder.{output}.", name)
