"""Environment metadata as files carry it; a broken one costs the rollouts, not the training."""

from __future__ import annotations

import json
from typing import Any, cast


def parse_env_args(
    raw: object, declared_type: int | None
) -> tuple[dict[str, Any] | None, str | None]:
    """The JSON of the attribute `env_args` -> (metadata or None, warning or None)."""
    if raw is None:
        return None, None
    try:
        parsed = json.loads(cast(str, raw))
    except (ValueError, TypeError, RecursionError) as error:
        return None, f"env_args is not JSON ({error}); no rollouts"
    if not isinstance(parsed, dict):
        return None, "env_args is no JSON object; no rollouts"
    env_args = cast(dict[str, Any], parsed)
    if "type" in env_args:
        return env_args, None
    if declared_type is None:
        return env_args, "env_args has no `type`; rollouts take it for robosuite's"
    env_args["type"] = declared_type
    return env_args, f"env_args has no `type`; {declared_type} is used, the attribute of `data`"
