"""Which settings of a demonstration file may reach robosuite, and in which dialect.

A file is data that somebody else made: it may describe a task, not choose code or files. So only
keyword arguments on the list below pass, with plain values, and no text that could be a path.
Controller settings of robosuite 1.4 and before are said in the words of 1.5, which would otherwise
ignore them without a word (an absolute controller would silently become a relative one).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from rmexp.errors import RolloutError

# Reach the simulator: what the task is.
PASSED = frozenset(
    {
        "robots",
        "env_configuration",
        "controller_configs",
        "gripper_types",
        "base_types",
        "initialization_noise",
        "control_freq",
        "lite_physics",
        "use_object_obs",
        "reward_scale",
        "reward_shaping",
        "table_full_size",
        "table_friction",
        "table_offset",
        "single_object_mode",
        "object_type",
        "nut_type",
        "bin1_pos",
        "bin2_pos",
        "use_latch",
        "prehensile",
        "tote_width",
        "z_offset",
        "z_rotation",
        "task_config",
    }
)
# Dropped: rmexp decides about pictures, time limits, resets and seeds by itself.
DECIDED_HERE = frozenset(
    {
        "has_renderer",
        "has_offscreen_renderer",
        "render_camera",
        "render_collision_mesh",
        "render_visual_mesh",
        "render_gpu_device_id",
        "renderer",
        "use_camera_obs",
        "camera_names",
        "camera_heights",
        "camera_widths",
        "camera_depths",
        "camera_segmentations",
        "horizon",
        "ignore_done",
        "hard_reset",
        "seed",
    }
)

# robosuite <= 1.4 -> 1.5, for the controller of an arm.
RENAMED = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}
_NAME = re.compile(r"[\w-]{0,100}")

DEFAULT_IMAGE_SIZE = 84
LARGEST_IMAGE = 4096  # pixels of a side
LARGEST_NUMBER = 1e9
CONTROL_FREQ = (1, 1000)  # Hz; the simulator advances 1 / control_freq seconds at every step
MANY = 1000  # entries of a list or a mapping


def simulator_arguments(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `robosuite.make`, without pictures, seed and time limit.

    Raises RolloutError naming the key that is missing, unknown or not plain.
    """
    name = env_args["env_name"]
    given = env_args.get("env_kwargs")
    if not isinstance(given, Mapping) or "robots" not in given:
        raise RolloutError(
            f"env_args of {name}: `env_kwargs` with at least `robots` is needed to build the "
            "environment"
        )
    unknown = sorted(set(given) - PASSED - DECIDED_HERE)
    if unknown:
        raise RolloutError(
            f"env_args of {name}: env_kwargs {', '.join(map(repr, unknown))} are not passed on "
            f"to the simulator; those that are: {', '.join(sorted(PASSED))}"
        )
    kwargs = {key: copy.deepcopy(given[key]) for key in sorted(PASSED & set(given))}
    for key, value in kwargs.items():
        _refuse_anything_but_data(f"env_kwargs.{key}", value, name)
    low, high = CONTROL_FREQ
    frequency = kwargs.get("control_freq", low)
    if not isinstance(frequency, int | float) or not low <= frequency <= high:
        raise RolloutError(
            f"env_args of {name}: env_kwargs.control_freq is {frequency!r}; needed is a number "
            f"from {low} to {high}"
        )
    if kwargs.get("controller_configs") is not None:
        kwargs["controller_configs"], old = _translated(kwargs["controller_configs"])
        if old:
            kwargs.setdefault("lite_physics", False)  # 1.4 had no other physics
    return kwargs


def image_sizes(env_args: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera name -> (height, width), in the file's order.

    Raises RolloutError for sizes that are none, or not one for each camera.
    """
    kwargs = env_args.get("env_kwargs") or {}
    cameras = _as_list(kwargs.get("camera_names", []))
    sizes = (
        _as_list(kwargs.get(side, DEFAULT_IMAGE_SIZE))
        for side in ("camera_heights", "camera_widths")
    )
    heights, widths = (side * len(cameras) if len(side) == 1 else side for side in sizes)
    sides = [*heights, *widths]
    if (
        not len(cameras) == len(heights) == len(widths) <= MANY
        or not all(isinstance(camera, str) and _NAME.fullmatch(camera) for camera in cameras)
        or not all(type(side) is int and 1 <= side <= LARGEST_IMAGE for side in sides)
    ):
        raise RolloutError(
            f"env_args of {env_args['env_name']}: camera_names, camera_heights and camera_widths "
            f"are names and sizes from 1 to {LARGEST_IMAGE}, one for each camera"
        )
    return dict(zip(cameras, zip(heights, widths, strict=True), strict=True))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _refuse_anything_but_data(key: str, value: Any, name: str) -> None:
    if value is None or isinstance(value, bool | int | float):
        if value is not None and not abs(value) <= LARGEST_NUMBER:
            raise RolloutError(f"env_args of {name}: {key} is {value!r}, which is no setting")
    elif isinstance(value, str):
        if not _NAME.fullmatch(value):
            raise RolloutError(
                f"env_args of {name}: {key} is {value!r}; only plain names are passed to the "
                "simulator, nothing that could be a file or code"
            )
    elif isinstance(value, Mapping | list | tuple) and len(value) > MANY:
        raise RolloutError(f"env_args of {name}: {key} has {len(value)} entries")
    elif isinstance(value, Mapping):
        for inner, item in value.items():
            _refuse_anything_but_data(key, inner, name)
            _refuse_anything_but_data(f"{key}.{inner}", item, name)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _refuse_anything_but_data(f"{key}[{position}]", item, name)
    else:
        raise RolloutError(f"env_args of {name}: {key} holds a {type(value).__name__}")


def _translated(config: Any) -> tuple[Any, bool]:
    """The same controller(s) in the words of robosuite 1.5, and whether they were of 1.4."""
    if isinstance(config, list | tuple):
        both = [_translated(item) for item in config]
        return [item for item, _ in both], any(old for _, old in both)
    if not isinstance(config, Mapping):
        return config, False
    if "body_parts" in config:
        parts = {part: _translated_part(item) for part, item in config["body_parts"].items()}
        return {**config, "body_parts": parts}, False
    # 1.4: one controller is the whole robot's; it moved in the world's frame and had a gripper.
    arm = {"input_ref_frame": "world", "gripper": {"type": "GRIP"}, **_translated_part(config)}
    return {"type": "BASIC", "body_parts": {"right": arm}}, True


def _translated_part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    new = {RENAMED.get(key, key): value for key, value in part.items()}
    if "control_delta" in new:
        delta = new.pop("control_delta")
        new.setdefault("input_type", "delta" if delta else "absolute")
    return new
