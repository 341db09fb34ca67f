"""The file that recordings become: what it says about itself, and which episodes serve for what."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmexp.data.hdf5_writer import Demo, write_demos
from rmexp.tools.recording import Recording
from rmexp.tools.tasks import TASKS, Task

MODULES = ("robosuite", "mujoco")  # other versions give other episodes


class Request(Protocol):
    """What was asked for."""

    task: str
    n: int
    seed: int
    layout: str


def env_args_of(task: Task, cameras: Sequence[str], camera_size: int) -> dict[str, Any]:
    """The task's environment with these views; images are recorded in the quick rendering."""
    env_args: dict[str, Any] = json.loads(json.dumps(task.env_args))
    env_args["env_version"] = importlib.metadata.version("robosuite")
    if cameras:
        env_args["fast_rendering"] = True
        env_args["env_kwargs"] |= {
            "use_camera_obs": True,
            "has_offscreen_renderer": True,
            "camera_names": list(cameras),
            "camera_heights": camera_size,
            "camera_widths": camera_size,
        }
    return env_args


def write_demo_file(
    out: Path, request: Request, env_args: dict[str, Any], paths: Sequence[Path]
) -> str:
    """Write it and say in a sentence what is in it."""
    full = request.layout == "full"
    task = TASKS[request.task]
    heads = [_head(Recording.load(path)) for path in paths]
    attrs = {
        "env_args": json.dumps(env_args, indent=2),
        "source": (
            f"scripted expert, not human: rmexp.tools.generate task={request.task} n={request.n} "
            f"seed={request.seed} layout={request.layout}"
        ),
        "dones": "1 where the task was solved; an episode that ran out of time has none",
        "masks": "valid apart, every other mask is a part of train",
        **{f"{module}_version": importlib.metadata.version(module) for module in MODULES},
    }
    demos = (_demo(Recording.load(path), full, full or task.next_obs) for path in paths)
    write_demos(out, demos, attrs=attrs, masks=_masks(heads, request.seed))
    successes = sum(success for _, success, _ in heads)
    frames = sum(length for _, _, length in heads)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    return (
        f"{len(heads)} episodes, {successes} successful, mean length {frames / len(heads):.1f}, "
        f"{out.stat().st_size / 1e6:.2f} MB, sha256 {digest}"
    )


def _head(recording: Recording) -> tuple[str, bool, int]:
    return recording.behaviour, recording.success, len(recording)


def _demo(recording: Recording, full: bool, next_obs: bool) -> Demo:
    arrays = {
        "actions": recording.actions,
        "rewards": recording.rewards,
        "dones": recording.dones,
        **{f"obs/{key}": frames[:-1] for key, frames in recording.obs.items()},
    }
    attrs: dict[str, Any] = {
        "seed": recording.seed,
        "behaviour": recording.behaviour,
        "success": recording.success,
    }
    if next_obs:
        arrays |= {f"next_obs/{key}": frames[1:] for key, frames in recording.obs.items()}
    if full:
        arrays["states"] = recording.states
        attrs["model_file"] = recording.model_xml
    return Demo(arrays, attrs)


def _masks(heads: Sequence[tuple[str, bool, int]], seed: int) -> dict[str, list[int]]:
    """Splits by a seeded draw: a tenth to valid; shares of train; and train by quality."""
    order = np.random.default_rng([seed, 2]).permutation(len(heads)).tolist()
    num_valid = round(len(heads) / 10)
    valid, train = order[:num_valid], order[num_valid:]
    masks = {"train": train, "valid": valid} if valid else {"train": train}
    for percent in (10, 20, 50):
        masks[f"{percent}_percent"] = train[: max(1, round(len(train) * percent / 100))]
    behaviours = sorted({behaviour for behaviour, _, _ in heads})
    if len(behaviours) > 1:
        masks["success"] = [i for i in train if heads[i][1]]
        masks["failure"] = [i for i in train if not heads[i][1]]
        for behaviour in behaviours:
            masks[behaviour] = [i for i in train if heads[i][0] == behaviour]
    return {name: members for name, members in masks.items() if members}
