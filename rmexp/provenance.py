"""What a number came from: code, packages, machine, data and command line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import rmexp
from rmexp.atomic import write_atomically
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


def record(directory: RunDirectory, data_hash: str) -> None:
    """Write `provenance.json` and, when the code differs from its commit, `git.diff`."""
    git = _git_state(Path(rmexp.__file__).resolve().parent)
    diff = git.pop("diff", "")
    if diff:
        write_atomically(directory.path / "git.diff", diff.encode())
    facts: dict[str, Any] = {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "cwd": str(Path.cwd()),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "rmexp": rmexp.__version__,
        "git": git or None,
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "gpus": _gpus(),
        },
        "dataset_sha256": data_hash,
    }
    write_atomically(directory.provenance_file, (json.dumps(facts, indent=2) + "\n").encode())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any]:
    """Commit, branch and uncommitted changes of the checkout that holds `folder`; {} if none."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):  # no git here, or a stuck file system
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    diff = git("diff", "HEAD") or ""
    return {
        "commit": commit,
        "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(diff),
        "diff": diff + "\n" if diff else "",
    }


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
