"""The arrows between the parts, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "rmexp"

FORBIDDEN = {
    "data": ("algo", "nets", "loop", "loggers", "runner", "build", "rollout", "policy", "hydra"),
    "nets": ("algo", "data", "loop", "loggers", "runner", "build", "rollout", "hydra", "omegaconf"),
    "algo": (
        "data",
        "loop",
        "loggers",
        "runner",
        "build",
        "rollout",
        "policy",
        "hydra",
        "omegaconf",
    ),
    "loggers": ("algo", "nets", "data", "loop", "runner", "build", "rollout", "hydra", "omegaconf"),
    "rollout": ("algo", "nets", "data", "loop", "loggers", "runner", "build", "hydra", "omegaconf"),
    "loop.py": ("algo", "nets", "data", "loggers", "runner", "build", "rollout", "hydra"),
}

ONLY_IN = {
    "h5py": ("data/hdf5.py", "data/storage.py", "data/hdf5_writer.py"),
    "wandb": ("loggers/wandb.py", "loggers/wandb_service.py", "loggers/wandb_sent.py"),
    "robosuite": ("rollout/robosuite.py", "rollout/rendering.py"),
    "mujoco": ("rollout/robosuite.py", "rollout/rendering.py"),
    "imageio": ("rollout/video.py",),
    "av": ("rollout/video.py",),
    "tensorboard": ("loggers/tensorboard.py",),
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_no_arrow_points_backwards(part: str) -> None:
    root = PACKAGE / part
    files = [root] if root.is_file() else sorted(root.rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            for banned in FORBIDDEN[part]:
                full = banned if banned in ("hydra", "omegaconf") else f"rmexp.{banned}"
                assert not f"{name}.".startswith(f"{full}."), f"{file} imports {name}"


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_foreign_libraries_live_at_the_edge(library: str) -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        used = {name for name in imports(file) if name.partition(".")[0] == library}
        if used:
            assert file.relative_to(PACKAGE).as_posix() in ONLY_IN[library]


def test_only_build_instantiates() -> None:
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if "hydra.utils.instantiate" in imports(file)
    }
    assert users == {"build.py"}


def test_importing_rmexp_is_light() -> None:
    code = (
        "import sys, rmexp, rmexp.cli; print(sorted({'torch', 'wandb', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_and_files_stay_readable() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        source = file.read_text()
        assert source.count("\n") <= 305, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                # A constructor's signature is its schema, as long as the paper has numbers.
                first = node.body[0].lineno if node.name == "__init__" else node.lineno
                assert (node.end_lineno or 0) - first < 60, f"{file}: {node.name}"
