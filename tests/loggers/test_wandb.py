from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wandb_file import WandbFile
from wandb_runs import (
    ONE_RUN,
    child_environment,
    log_epochs,
    logger,
    rows,
    start_group,
    wandb_files,
    warnings_in,
)

from rmexp.loggers.base import RunInfo
from rmexp.loggers.wandb_service import accepted_settings

# The SDK lets its scratch folders be removed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


def test_the_file_read_back_equals_the_record(info: RunInfo, tmp_path: Path) -> None:
    group = start_group(info, logger())
    log_epochs(group, 5)
    video = tmp_path / "epoch_5.mp4"
    video.write_bytes(b"\x00\x00\x00\x18ftypmp42 any bytes: nothing may decode them")
    group.log_video("rollout/Lift/video", video, epoch=5, global_step=35)
    group.log_curve(
        "rollout/Lift/success_curve", [2, 4], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5],
        epoch=5, global_step=35,
    )  # fmt: skip
    group.finish({"rollout/best/success_rate": 0.4, "paths/run": str(info.run_dir)}, 0)
    (file,) = wandb_files(info)
    assert file.rows() == rows(info)
    assert len(file.rows()) == 5
    assert file.exit_code == 0
    assert file.run.project == "rmexp-test"
    assert file.run.display_name == "lift_bc"
    assert file.run.run_group == "sweep-1"
    assert file.run.job_type == "train"
    assert list(file.run.tags) == ["a tag"]
    assert file.config["algo"] == info.config["algo"]
    assert file.config["seed"] == 3
    assert file.summary()["rollout/best/success_rate"] == 0.4
    assert not [key for key in file.summary() if key.startswith(("paths", "how_to"))]
    _check_axes(file)
    _check_media(file, info, video)
    assert "moviepy" not in sys.modules


def _check_axes(file: WandbFile) -> None:
    metrics = file.metrics()
    assert metrics["*"].step_metric == "epoch"
    assert metrics["train/*"].step_metric == "global_step"
    assert metrics["rollout/Lift/success_rate"].step_metric == "epoch"
    assert metrics["rollout/Lift/success_rate"].summary.max
    assert metrics["valid/loss"].summary.min


def _check_media(file: WandbFile, info: RunInfo, video: Path) -> None:
    key = "rollout/Lift/video"
    (media,) = [row for row in file.all_history() if f"{key}/_type" in row]
    assert (media["epoch"], media["global_step"]) == (5, 35)
    assert media[f"{key}/_type"] == "video-file"
    (directory,) = info.run_dir.glob("wandb/offline-run-*")
    assert (directory / "files" / media[f"{key}/path"]).read_bytes() == video.read_bytes()
    (table,) = directory.glob("files/media/table/**/*.json")
    content = json.loads(table.read_text())
    assert sorted(content["data"]) == sorted(
        [x, name, y]
        for name, ys in (("success_curve", (0.2, 0.4)), ("low", (0.1, 0.3)), ("high", (0.3, 0.5)))
        for x, y in zip((2, 4), ys, strict=True)
    )


def test_a_resumed_run_keeps_its_id_and_adds_a_file(info: RunInfo) -> None:
    ids: list[str] = []
    for resumed, first in ((False, 1), (True, 3)):
        group = start_group(replace(info, resumed=resumed), logger())
        log_epochs(group, 2, first)
        group.finish({}, 0)
        ids.append((info.run_dir / "wandb_id").read_text().strip())
    files = wandb_files(info)
    assert ids[0] == ids[1]
    assert [file.run.run_id for file in files] == ids
    assert files[0].rows() + files[1].rows() == rows(info)


def test_several_runs_of_one_process_are_separate_runs(info: RunInfo, tmp_path: Path) -> None:
    infos = [replace(info, run_dir=tmp_path / f"job{i}", name=f"job{i}") for i in range(3)]
    for code, each in enumerate(infos):
        each.run_dir.mkdir()
        group = start_group(each, logger())
        log_epochs(group, code + 1)
        group.finish({}, code)
    files = [wandb_files(each)[0] for each in infos]
    assert [len(file.rows()) for file in files] == [1, 2, 3]
    assert [file.exit_code for file in files] == [0, 1, 2]
    assert len({file.run.run_id for file in files}) == 3
    assert {file.run.run_group for file in files} == {"sweep-1"}


def test_nan_reaches_the_file(info: RunInfo) -> None:
    group = start_group(info, logger())
    group.log({"train/loss": float("nan"), "train/norm": float("inf")}, epoch=1, global_step=1)
    group.finish({}, 0)
    (row,) = [r for r in wandb_files(info)[0].all_history() if "train/loss" in r]
    assert str(row["train/loss"]).lower() == "nan"
    assert str(row["train/norm"]).lower() in ("inf", "infinity")


def _kill_service() -> None:
    """SIGKILL wandb-core, the SDK's own process, by its pid, and wait until it is gone."""
    started = [x for x in gc.get_objects() if type(x) is subprocess.Popen]
    (service,) = [x for x in started if "wandb-core" in str(x.args) and x.poll() is None]
    os.kill(service.pid, signal.SIGKILL)
    service.wait()


@pytest.mark.usefixtures("fresh_service")
def test_a_killed_service_costs_one_warning_and_no_row(
    info: RunInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = start_group(info, logger())
    log_epochs(group, 2)
    _kill_service()
    log_epochs(group, 3, first=3)
    group.finish({}, 0)
    (warning,) = warnings_in(caplog)
    assert "training is not affected" in warning
    assert [row["epoch"] for row in rows(info)] == [1, 2, 3, 4, 5]
    following = replace(info, run_dir=tmp_path / "next")
    following.run_dir.mkdir()
    group = start_group(following, logger())
    log_epochs(group, 2)
    group.finish({}, 0)
    assert wandb_files(following)[0].rows() == rows(following)


def test_the_commands_for_the_summary(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(info.run_dir.parent)
    view = logger()
    assert view.how_to() == {}
    view.start(info)
    assert view.how_to() == {"sync": "wandb sync run/wandb/offline-run-*"}
    assert [path.parent for path in view.offline_dirs()] == [info.run_dir / "wandb"]
    view.finish({}, 0)


def test_nothing_is_written_outside_the_run_directory(info: RunInfo) -> None:
    before = {key: os.environ.get(key) for key in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR")}
    script = ONE_RUN.replace(
        "view.finish",
        "view.log_curve('c', [1], [0.5], [0.4], [0.6], epoch=1, global_step=1)\n"
        "print('not for the dashboard')\nview.finish",
    )
    home, scratch = Path(os.environ["HOME"]), info.run_dir.parent / "scratch"
    scratch.mkdir()
    subprocess.run(
        [sys.executable, "-c", script, str(info.run_dir), "auto"],
        env=child_environment(TMPDIR=str(scratch)), cwd=scratch, check=True, capture_output=True,
    )  # fmt: skip
    assert list(home.iterdir()) == []
    assert list(scratch.iterdir()) == []
    assert not list(info.run_dir.rglob("output.log"))
    group = start_group(info, logger())
    group.finish({}, 0)
    assert {key: os.environ.get(key) for key in before} == before


def _foreign_repository(folder: Path) -> str:
    """Its commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://example.org/foreign"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "foreign"], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.usefixtures("fresh_service")
@pytest.mark.parametrize("known", [True, False])
def test_the_git_state_is_that_of_the_code(
    info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign = _foreign_repository(tmp_path)
    git = {"commit": "0123abcd" * 5, "branch": "trunk", "dirty": True, "remote": "https://e.org/r"}
    group = start_group(replace(info, git=git if known else None), logger())
    group.finish({}, 0)
    (file,) = wandb_files(info)
    if known:
        assert file.run.git.commit == git["commit"]
        assert file.run.git.remote_url == git["remote"]
        assert file.config["provenance/git"] == git
    else:
        assert not file.run.git.commit
        assert "provenance/git" not in file.config
    for path in info.run_dir.rglob("*"):
        assert not path.is_file() or foreign.encode() not in path.read_bytes(), path


def test_long_names_are_shortened_and_stay_apart(info: RunInfo) -> None:
    def sent(name: str, group: str | None) -> Any:
        each = replace(info, run_dir=info.run_dir / str(next(numbers)), name=name)
        each.run_dir.mkdir()
        start_group(replace(each, group=group), logger()).finish({}, 0)
        return wandb_files(each)[0].run

    numbers = itertools.count()
    seen: list[str] = []
    for name in ("n" * 128, "a" * 90 + "1" + "z" * 90, "a" * 90 + "2" + "z" * 90):
        seen.append(sent(name, name).display_name)
    assert seen[0] == "n" * 128
    assert [len(name) for name in seen] == [128] * 3
    assert len(set(seen)) == 3
    assert all(name[:59] == "a" * 59 and name[-59:] == "z" * 59 for name in seen[1:])
    assert sent("short", "g" * 200).run_group.startswith("g" * 59)
    assert sent("short", None).run_group == ""


def test_a_setting_that_the_sdk_refuses_is_dropped(info: RunInfo) -> None:
    view = logger()
    settings: Any = accepted_settings(view._settings | {"x_gone_in_a_later_version": 1})
    assert settings.finish_timeout == 1
    assert settings.x_transaction_log_flush_interval == 0.1
    assert accepted_settings(view._settings | {"finish_timeout": "soon"}).init_timeout == 1
