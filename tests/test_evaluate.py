"""What the evaluation command checks and shows; its numbers are tested with the whole run."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from rmexp.errors import ConfigError
from rmexp.evaluate import Arguments, _output, _progress, evaluate


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("video", "rollout.webm", r"only \.mp4 and \.gif can be written; say video=rollout\.mp4"),
        ("video", "{tmp}/file/rollout.gif", r"file/rollout\.gif: cannot be written"),
        ("out", "{tmp}", "it is a directory"),
        ("out", "{tmp}/file/out.json", "cannot be written"),
    ],
)
def test_files_are_checked_before_anything_else(
    tmp_path: Path, name: str, word: str, said: str
) -> None:
    (tmp_path / "file").touch()
    words = {name: word.format(tmp=tmp_path)}
    with pytest.raises(ConfigError, match=said):
        evaluate(Arguments(checkpoint="not_there.pt", **words))  # pyright: ignore[reportArgumentType]


def test_the_directory_of_an_output_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rollout.gif"
    assert _output(Arguments(checkpoint="a.pt", video=str(path)), "video") == path
    assert path.parent.is_dir()
    assert _output(Arguments(checkpoint="a.pt"), "video") is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_progress_is_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with _progress("Lift", 7) as progress:
        progress(3, 7)
    text = stream.getvalue()
    if stream.isatty():
        assert "Lift: evaluating" in text
        assert "3/7" in text
        assert text.endswith("\x1b[2K")  # nothing of it stays
    else:
        assert text == ""
