from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rmexp
from rmexp import provenance
from rmexp.errors import CheckpointError
from rmexp.run_dir import RunDirectory

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _repository(folder: Path, text: str) -> Path:
    """A repository with one commit that holds a package's `__init__.py`."""
    folder.mkdir()
    _git(folder, "init", "-q", "-b", "trunk")
    (folder / "__init__.py").write_text(text)
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "--no-verify", "-m", "first")
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that stands for the one rmexp runs from."""
    folder = _repository(tmp_path / "checkout", "a = 1\n\n")
    monkeypatch.setattr(rmexp, "__file__", str(folder / "__init__.py"))
    return folder


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


def _starts(directory: RunDirectory) -> list[dict[str, Any]]:
    return json.loads(directory.provenance_file.read_text())["starts"]


@needs_git
def test_every_start_is_an_entry_with_its_own_diff(checkout: Path, directory: RunDirectory) -> None:
    provenance.record(directory, "a" * 64)
    first = _starts(directory)
    for text in ("b = 2\n\n", "c = 3\n\n"):
        (checkout / "__init__.py").write_text(text)
        provenance.record(directory, "b" * 64)
    starts = _starts(directory)
    assert starts[:1] == first
    assert [start["diff"] for start in starts] == [None, "git-2.diff", "git-3.diff"]
    assert [start["git"]["dirty"] for start in starts] == [False, True, True]
    assert [start["dataset_sha256"][0] for start in starts] == ["a", "b", "b"]
    assert "+b = 2" in (directory.path / "git-2.diff").read_text()
    assert "+c = 3" in (directory.path / "git-3.diff").read_text()
    assert not (directory.path / "git.diff").exists()


@needs_git
def test_the_diff_can_be_applied(checkout: Path, directory: RunDirectory) -> None:
    """Its last context line is empty, and its ends of line are kept."""
    file = checkout / "__init__.py"
    file.write_bytes(b"b = 2\r\n\n")
    provenance.record(directory, "a" * 64)
    assert _starts(directory)[0]["diff"] == "git.diff"
    _git(checkout, "checkout", "-q", ".")
    assert file.read_bytes() == b"a = 1\n\n"
    _git(checkout, "apply", str(directory.path / "git.diff"))
    assert file.read_bytes() == b"b = 2\r\n\n"


@needs_git
def test_the_diff_of_a_start_that_died_is_not_overwritten(
    checkout: Path, directory: RunDirectory
) -> None:
    (checkout / "__init__.py").write_text("b = 2\n")
    (directory.path / "git.diff").write_text("of another start")
    provenance.record(directory, "a" * 64)
    assert (directory.path / "git.diff").read_text() == "of another start"
    assert _starts(directory)[0]["diff"] == "git-2.diff"


@needs_git
def test_the_git_state_is_that_of_the_code(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _git(checkout, "remote", "add", "origin", "https://me:secret@example.org/r.git")
    other = _repository(tmp_path / "other", "z = 0\n")
    monkeypatch.chdir(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    state = provenance.git_state()
    monkeypatch.delenv("GIT_DIR")
    assert state == {
        "commit": _git(checkout, "rev-parse", "HEAD"),
        "branch": "trunk",
        "dirty": False,
        "remote": "https://example.org/r.git",
    }


@needs_git
def test_a_package_inside_another_repository_has_no_git_state(
    checkout: Path, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / "site-packages" / "__init__.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(rmexp, "__file__", str(installed))
    assert provenance.git_state() is None
    provenance.record(directory, "a" * 64)
    assert (_starts(directory)[0]["git"], _starts(directory)[0]["diff"]) == (None, None)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"starts": 3}'])
def test_a_damaged_file_is_named_and_kept(directory: RunDirectory, damage: str) -> None:
    directory.provenance_file.write_text(damage)
    with pytest.raises(CheckpointError, match=r"provenance\.json: .*move"):
        provenance.record(directory, "a" * 64)
    assert directory.provenance_file.read_text() == damage
