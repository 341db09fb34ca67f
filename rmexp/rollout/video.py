"""A few episodes side by side in an mp4 or a GIF; the only file that knows imageio and its kin.

A video is a convenience: what stands in its way is reported in words, never as a failed rollout.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

FRAME_EVERY = 2
"""Steps from one frame to the next: pictures cost more than steps do."""
FRAMES_PER_S = 10
"""Real time for a robot that acts at 20 Hz."""
HOLD_S = 1.0

SUFFIXES = (".mp4", ".gif")
"""mp4 is smaller and has all colours; a GIF plays inside a README."""
GIF_COLOURS = 256

BORDER = 6
RUNNING = (90, 90, 90)
SUCCEEDED = (0, 158, 115)
FAILED = (213, 94, 0)

Frames = Sequence[np.ndarray]


def video_missing() -> str | None:
    """Why no video can be written and what to do about it; None when one can."""
    absent = [name for name in ("imageio", "av") if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed; type  pip install 'rmexp[sim]'"
    import av

    if "libx264" not in av.codecs_available:
        return f"av {av.__version__} comes without the encoder libx264; reinstall it from a wheel"
    return None


def write_video(path: Path, episodes: Sequence[Frames], successes: Sequence[bool]) -> None:
    """Write the episodes' frames (each (H, W, 3) uint8), tiled; the suffix decides how.

    Raises:
        OSError, ValueError, av.FFmpegError: the file or the encoder refused.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a video ends in {' or '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    try:
        write(temporary, tiled(episodes, successes))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_mp4(path: Path, frames: Iterator[np.ndarray]) -> None:
    """As h264 that every browser plays."""
    import imageio.v3

    with imageio.v3.imopen(path, "w", plugin="pyav") as file:
        file.init_video_stream("libx264", fps=FRAMES_PER_S, pixel_format="yuv420p")
        for frame in frames:
            file.write_frame(frame)


def _write_gif(path: Path, frames: Iterator[np.ndarray]) -> None:
    """As a loop in one palette for all frames and without dithering.

    What does not move then has the same colour in every frame and is not stored again. The octree
    keeps small things of a rare colour (a cube), which a median cut gives away to the table.
    """
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    sample = [*pictures[:: max(1, len(pictures) // 8)], pictures[-1]]
    width, height = sample[0].size
    mosaic = Image.new("RGB", (width, height * len(sample)))
    for i, picture in enumerate(sample):
        mosaic.paste(picture, (0, i * height))
    palette = mosaic.quantize(GIF_COLOURS, method=Image.Quantize.FASTOCTREE)
    indexed = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    first, *rest = indexed
    duration_ms = round(1000 / FRAMES_PER_S)
    first.save(path, save_all=True, append_images=rest, duration=duration_ms, loop=0)


def tiled(episodes: Sequence[Frames], successes: Sequence[bool]) -> Iterator[np.ndarray]:
    """The frames of the video, (H', W', 3) uint8 with even sides (yuv420p halves the colours).

    An episode that is over keeps its last frame, framed in green where it succeeded, in orange
    and darker where it failed.
    """
    columns = math.ceil(math.sqrt(len(episodes)))
    rows = math.ceil(len(episodes) / columns)
    height, width = (side + 2 * BORDER for side in episodes[0][0].shape[:2])
    canvas_shape = (_even(rows * height), _even(columns * width), 3)
    length = max(len(frames) for frames in episodes) + round(HOLD_S * FRAMES_PER_S)

    for time in range(length):
        canvas = np.zeros(canvas_shape, np.uint8)
        for i, (frames, success) in enumerate(zip(episodes, successes, strict=True)):
            top, left = i // columns * height, i % columns * width
            canvas[top : top + height, left : left + width] = _tile(frames, success, time)
        yield canvas


def _tile(frames: Frames, success: bool, time: int) -> np.ndarray:
    over = time >= len(frames) - 1
    picture = frames[min(time, len(frames) - 1)]
    if over and not success:
        picture = picture // 2
    colour = (SUCCEEDED if success else FAILED) if over else RUNNING
    height, width = picture.shape[:2]
    tile = np.empty((height + 2 * BORDER, width + 2 * BORDER, 3), np.uint8)
    tile[:] = colour
    tile[BORDER:-BORDER, BORDER:-BORDER] = picture
    return tile


def _even(size: int) -> int:
    return size + size % 2
