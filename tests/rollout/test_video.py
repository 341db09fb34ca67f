from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rmexp.rollout import video
from rmexp.rollout.video import BORDER, FAILED, FRAMES_PER_S, HOLD_S, RUNNING, SUCCEEDED

imageio = pytest.importorskip("imageio.v3")
av = pytest.importorskip("av")

HOLD = round(HOLD_S * FRAMES_PER_S)


def episode(value: int, length: int, height: int = 33, width: int = 47) -> list[np.ndarray]:
    return [np.full((height, width, 3), value + i, np.uint8) for i in range(length)]


def test_tiles_freeze_and_are_marked_when_over() -> None:
    frames = list(video.tiled([episode(100, 3), episode(200, 5)], [True, False]))
    assert len(frames) == 5 + HOLD
    tile_width = 47 + 2 * BORDER
    middle = BORDER + 20

    left = [tuple(frame[0, 0]) for frame in frames]
    assert left == [RUNNING] * 2 + [SUCCEEDED] * (3 + HOLD)
    assert [frame[middle, middle, 0] for frame in frames] == [100, 101] + [102] * (3 + HOLD)

    right = [tuple(frame[0, tile_width]) for frame in frames]
    assert right == [RUNNING] * 4 + [FAILED] * (1 + HOLD)
    inside = [frame[middle, tile_width + middle, 0] for frame in frames]
    assert inside == [200, 201, 202, 203] + [204 // 2] * (1 + HOLD)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3)])
def test_grid_has_even_sides(count: int, rows: int, columns: int) -> None:
    frame = next(video.tiled([episode(7, 1)] * count, [True] * count))
    height, width = rows * (33 + 2 * BORDER), columns * (47 + 2 * BORDER)
    assert frame.shape == (height + height % 2, width + width % 2, 3)


def test_file_is_h264_that_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "epoch_1.mp4"
    video.write_video(path, [episode(40, 4), episode(160, 9)], [True, True])
    meta = imageio.immeta(path, plugin="pyav")
    assert meta["codec"] == "h264"
    assert meta["video_format"].startswith("yuv420p")
    frames = imageio.imread(path, plugin="pyav")
    assert frames.shape == (9 + HOLD, 46, 118, 3)
    middle = BORDER + 20
    assert abs(int(frames[-1, middle, middle, 0]) - 43) < 6
    assert abs(int(frames[-1, middle, 59 + middle, 0]) - 168) < 6
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_gif_loops_and_keeps_rare_colours(tmp_path: Path) -> None:
    frames = episode(40, 4)
    for frame in frames:
        frame[4:9, 4:9] = (130, 25, 35)  # a small thing
    path = tmp_path / "videos" / "rollout.gif"
    video.write_video(path, [frames, episode(160, 9)], [True, False])
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        assert gif.size == (118, 46)
        durations: list[int] = []
        for index in range(getattr(gif, "n_frames", 1)):
            gif.seek(index)
            durations.append(gif.info["duration"])
        last = np.asarray(gif.convert("RGB")).astype(int)
    assert sum(durations) == (9 + HOLD) * 1000 / FRAMES_PER_S
    for place, colour in (((12, 12), (130, 25, 35)), ((30, 30), (43,) * 3), ((0, 0), SUCCEEDED)):
        assert abs(last[place] - colour).max() < 10
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_does_not_move_is_not_stored_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (33, 47, 3)).astype(np.uint8)
    sizes: list[int] = []
    for length in (1, 31):
        moving = [still.copy() for _ in range(length)]
        for time, frame in enumerate(moving):
            frame[5, time] = 255 - frame[5, time]
        video.write_video(tmp_path / f"{length}.gif", [moving], [True])
        sizes.append((tmp_path / f"{length}.gif").stat().st_size)
    assert (sizes[1] - sizes[0]) / 30 < sizes[0] / 3  # of which 768 bytes are a palette


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a video ends in \.mp4 or \.gif"):
        video.write_video(tmp_path / "rollout.webm", [episode(40, 2)], [True])


def test_a_refused_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "rollout.mp4").mkdir()
    with pytest.raises(OSError, match=r"rollout\.mp4"):
        video.write_video(tmp_path / "rollout.mp4", [episode(40, 2)], [True])
    assert [p.name for p in tmp_path.iterdir()] == ["rollout.mp4"]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert video.video_missing() is None
    find = importlib.util.find_spec

    def without_av(name: str, *rest: Any) -> Any:
        return None if name == "av" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_av)
    assert video.video_missing() == "av not installed; type  pip install 'rmexp[sim]'"


def test_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    reason = video.video_missing()
    assert reason is not None
    assert "libx264" in reason
