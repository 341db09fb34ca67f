"""What the evaluation command checks and shows; its numbers are tested with the whole run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from rmexp.errors import ConfigError, RolloutError
from rmexp.evaluate import Arguments, _output, _progress, evaluate
from rmexp.policy import Policy
from rmexp.rollout.statistics import EpisodeRecord, RolloutResult, RolloutTimes
from tests.command_line import GOLDEN, TINY, run_here


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("video", "rollout.webm", r"only \.mp4 and \.gif can be written; say video=rollout\.mp4"),
        ("video", "{tmp}/file/rollout.gif", r"file/rollout\.gif: cannot be written"),
        ("out", "{tmp}", "it is a directory"),
        ("out", "{tmp}/file/out.json", "cannot be written"),
        ("out", "/proc/x", r"^out=/proc/x: cannot be written .*choose another file"),
        ("video", "/proc/x.mp4", r"^video=/proc/x\.mp4: cannot be written"),
        ("out", "{tmp}/" + "x" * 300, "cannot be written"),
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
    assert list(path.parent.iterdir()) == []
    assert _output(Arguments(checkpoint="a.pt"), "video") is None


def test_a_file_that_is_there_keeps_what_it_holds_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("older episodes")
    assert _output(Arguments(checkpoint="a.pt", out=str(path)), "out") == path
    assert path.read_text() == "older episodes"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"num_threads": 0}, r"^num_threads=0: at least 1 .*null"),
        ({"horizon": 0}, r"^horizon=0: at least 1 .*null"),
        ({"n": 0}, r"^n=0: at least 1 .*null"),
        ({"num_envs": 0}, r"^num_envs=0: at least 1 is needed$"),
        ({"seed": -1}, r"^seed=-1: a start is at least 0"),
    ],
)
def test_numbers_are_checked_before_anything_else(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate(Arguments(checkpoint="not_there.pt", **words))


class Seen:
    """Stands where the simulators would, and looks at what would act in them."""

    env_name, final_seed, final_episodes = "Lift", 5, 1

    def run(self, policy: Policy, seeds: range, *_: Any, **__: Any) -> RolloutResult:
        self.threads = torch.get_num_threads()
        episodes = [EpisodeRecord(seed, 1.0, 3, True) for seed in seeds]
        return RolloutResult(self.env_name, episodes, RolloutTimes())

    def close(self) -> None:
        pass


def test_device_and_threads_are_the_runs_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They decide how torch rounds, and so whether the run's own number comes out again."""
    monkeypatch.chdir(tmp_path)
    before, seen, asked = torch.get_num_threads(), Seen(), list[str | None]()
    load = Policy.load

    def noted(path: Path, *, trust: list[str], device: str | None) -> Policy:
        asked.append(device)
        return load(path, trust=trust, device=device)

    outcome = run_here([*TINY, "num_threads=2", "hydra.run.dir=run"], monkeypatch, capfd)
    assert outcome.code == 0, outcome.text
    monkeypatch.setattr(Policy, "load", noted)
    monkeypatch.setattr("rmexp.evaluate._rollouts", lambda *_: seen)  # pyright: ignore[reportUnknownArgumentType]
    try:
        torch.set_num_threads(1)
        evaluate(Arguments(checkpoint="run"))
        assert (asked, seen.threads) == ([None], 2)
        evaluate(Arguments(checkpoint="run", device="cpu", num_threads=1))
        assert (asked, seen.threads) == ([None, "cpu"], 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("env_args", "said"),
    [
        (None, "no rollouts: the data have no `env_args`"),
        ({"env_name": "Hopper", "type": 2}, "no rollouts: environment 'Hopper' has type 2"),
    ],
)
def test_the_advice_is_for_who_evaluates(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    env_args: dict[str, Any] | None,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.hdf5").write_bytes((GOLDEN / "tiny_lift.hdf5").read_bytes())
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        data: Any = file["data"]
        del data.attrs["env_args"]
        if env_args:
            data.attrs["env_args"] = json.dumps(env_args)
    trained = run_here([*TINY, "dataset.path=a.hdf5", "hydra.run.dir=run"], monkeypatch, capfd)
    assert trained.code == 0, trained.text
    with pytest.raises(RolloutError) as error:
        evaluate(Arguments(checkpoint="run"))
    assert str(error.value).startswith(f"run/checkpoints/best.pt: {said}")
    assert "rollout=none" not in str(error.value)


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
