"""What a file that is not in the robomimic layout looks like, so that its owner is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rmexp.suggest import proposals, question

ASSETS = Path(__file__).resolve().parent.parent / "assets"
NEEDED = "needed is the robomimic layout: data/demo_<i>/actions and data/demo_<i>/obs/<key>"


def not_a_file(path: Path, source: str | None) -> str:
    """Why `path` is no file that can be opened, and what to type."""
    if path.is_dir():
        if (path / "meta" / "info.json").exists():
            return f"{path}: looks like a LeRobot dataset; {NEEDED}, in one HDF5 file"
        if (path / "data" / "main_data.hdf5").exists():
            return f"{path}: looks like a Minari dataset; {NEEDED}, in one HDF5 file"
        return f"{path}: is a folder; give the HDF5 file, for example dataset.path={path}/FILE.hdf5"
    if path.parent == ASSETS:
        return (
            f"{path}: no such file. It comes with this package and is made again by "
            f"python -m rmexp.tools.generate task={path.stem} out={path}"
        )
    if source is None or path.name not in source:
        there = {file.stem: file.name for file in sorted(path.parent.glob("*.h*5"))}
        meant = question(there[stem] for stem in proposals(path.stem, there))
        return f"{path}: no such file; say where it is with dataset.path=FILE{meant}"
    return (
        f"{path}: no such file. It comes from {source}; when you have it, say where it is with "
        "paths.data_dir=DIR (keeping the folders below) or dataset.path=FILE"
    )


def describe_unusable(
    path: Path, root: Mapping[str, bool], demo: Mapping[str, bool] | None = None
) -> str:
    """Why the file cannot be used; `root` and `demo` map names to whether each is a group."""
    if demo is not None:
        return f"{path}: {_without_actions(demo)}"
    groups = [name for name, is_group in root.items() if is_group]
    if any(name.startswith("episode_") for name in groups):
        layout = "Minari (groups episode_<i>)"
    elif "observations" in root and "actions" in root:
        layout = "D4RL (flat arrays observations, actions, terminals)"
    elif "observations" in root and "action" in root:
        layout = "ALOHA/ACT (one episode a file, action and observations)"
    elif any(name.startswith("Trial") for name in groups):
        layout = "RoboHive (groups Trial<i>)"
    elif "agent_actions" in root:
        layout = "iGibson/BEHAVIOR (agent_actions, physics_data)"
    else:
        found = ", ".join(sorted(root)[:8]) or "nothing"
        return f"{path}: no group `data`, the file holds {found}; {NEEDED}"
    return f"{path}: looks like the {layout} layout, which is not read; {NEEDED}"


def without_obs(*, raw: bool) -> str:
    """Message for a demo that has actions and no observations; `raw` when it has states."""
    if raw:
        return (
            "has states and no obs: a raw robosuite recording. Observations must be extracted "
            f"first, by replaying the states in the simulator; {NEEDED}"
        )
    return f"has no obs; {NEEDED}"


def _without_actions(demo: Mapping[str, bool]) -> str:
    if not demo:
        return f"`data` holds no demonstration; {NEEDED}"
    if "states" in demo and "obs" not in demo:
        return (
            "no demo has actions or obs, only "
            + ", ".join(sorted(demo)[:6])
            + ": a raw robosuite recording. Observations and actions must be extracted first, by "
            f"replaying the states in the simulator; {NEEDED}"
        )
    return f"no demo has actions, only {', '.join(sorted(demo)[:6])}; {NEEDED}"
