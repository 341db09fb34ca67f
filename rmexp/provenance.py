"""What a number came from: code, packages, machine, data and command line."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import rmexp
from rmexp.atomic import write_atomically
from rmexp.determinism import torch_settings
from rmexp.errors import CheckpointError
from rmexp.run_dir import RunDirectory

PACKAGES = (
    "torch",
    "numpy",
    "h5py",
    "hydra-core",
    "omegaconf",
    "wandb",
    "robosuite",
    "mujoco",
)
_DIFF = ("diff", "--no-ext-diff", "--no-color", "HEAD")
# Set by a git hook, these would make git answer for the repository that runs the hook.
_OTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")


def record(directory: RunDirectory, data_hash: str) -> None:
    """Append this start of the run to `provenance.json`; nothing written earlier is changed.

    When the code differs from its commit, the entry's `diff` names the file that says how.

    Raises:
        CheckpointError: what stands there is no provenance, or cannot be written to.
    """
    starts = _earlier_starts(directory.provenance_file)
    folder = _code()
    git = _git_state(folder)
    starts.append(
        {
            "command": [sys.executable, *sys.orig_argv[1:]],
            "cwd": str(Path.cwd()),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "rmexp": rmexp.__version__,
            "git": git,
            "diff": _save_diff(directory.path, folder, len(starts) + 1) if git else None,
            "python": platform.python_version(),
            "packages": {name: v for name in PACKAGES if (v := _version(name))},
            "host": {
                "name": platform.node(),
                "system": platform.platform(),
                "processor": _processor(),
                "cpus": os.cpu_count(),
                "gpus": _gpus(),
            },
            "torch": torch_settings(),
            "dataset_sha256": data_hash,
        }
    )
    data = json.dumps({"starts": starts}, indent=2) + "\n"
    write_atomically(directory.provenance_file, data.encode())


def git_state() -> dict[str, Any] | None:
    """Commit, branch, remote of the checkout that rmexp runs from, and whether it is dirty.

    None for an installed package, also for one that lies inside somebody else's repository.
    """
    return _git_state(_code())


def _code() -> Path:
    return Path(rmexp.__file__).resolve().parent


def _earlier_starts(file: Path) -> list[dict[str, Any]]:
    try:
        starts = json.loads(file.read_text())["starts"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); it lists the run's starts. "
            "Restore it, or move it away to go on without it"
        ) from error
    if not isinstance(starts, list):
        raise CheckpointError(f"{file}: 'starts' is no list; move the file away to go on")
    return starts


def _save_diff(run_dir: Path, folder: Path, start: int) -> str | None:
    """The name of the new file with the uncommitted changes, or None if there are none."""
    diff = _git(folder, *_DIFF)
    if not diff:
        return None
    name = "git.diff" if start == 1 else f"git-{start}.diff"
    while (run_dir / name).exists():  # of a start that died before it was recorded
        start += 1
        name = f"git-{start}.diff"
    write_atomically(run_dir / name, diff)
    return name


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    commit = _git_line(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    remote = _git_line(folder, "config", "--get", "remote.origin.url")
    return {
        "commit": commit,
        "branch": _git_line(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, *_DIFF)),
        "remote": remote and _without_credentials(remote),
    }


def _git_line(folder: Path, *arguments: str) -> str | None:
    output = _git(folder, *arguments)
    return None if output is None else output.decode(errors="replace").strip()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints, byte for byte; None if it fails or is not there."""
    environment = {k: v for k, v in os.environ.items() if k not in _OTHER_REPOSITORY}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            env=environment,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a stuck file system
        return None
    return done.stdout if done.returncode == 0 else None


def _without_credentials(url: str) -> str:
    """`https://name:token@host/x` -> `https://host/x`; others as they are."""
    return re.sub(r"^(https?://)[^/]*@", r"\1", url)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
