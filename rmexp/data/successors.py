"""What follows a frame in a file that records no next observations: the episode's next frame.

Nothing was recorded after an episode's last frame. Where it is a terminal (`dones`), the value of
what follows has weight 0 and the frame may follow itself. Where it is not, the frame serves as the
next observation of the one before it and as nothing else: the value of an observation that nobody
saw would be made up.
"""

from __future__ import annotations

import numpy as np

from rmexp.data.episodes import Block, EpisodeTable
from rmexp.data.windows import Windows


def usable_lengths(block: Block, table: EpisodeTable, shifted: np.ndarray) -> np.ndarray:
    """Frames of each episode that have a next observation, (E,); `shifted` as in `Inventory`."""
    last = table.starts + table.lengths - 1
    terminal = np.zeros(len(last), dtype=bool)
    if "dones" in block.others:
        terminal = block.values[:, block.others["dones"].start].cpu().numpy()[last] != 0
    return table.lengths - (shifted & ~terminal)


def describe(table: EpisodeTable, shifted: np.ndarray, usable: np.ndarray, lost: int) -> str:
    """What was done, in one line; `lost` counts the training windows that there are fewer."""
    files = [str(table.paths[i]) for i in np.unique(table.file_of[shifted])]
    cut = int((usable < table.lengths).sum())
    ends = "each one's last is a terminal (dones), which nothing follows"
    if cut:
        ends = (
            f"the last frames of {cut:,} without dones=1 at their end are used as next "
            f"observations only ({lost:,} training windows fewer)"
        )
    return (
        f"{', '.join(files)}: no next_obs; the frame that follows is taken in "
        f"{int(shifted.sum()):,} episodes, and {ends}"
    )


def followed(
    windows: Windows, table: EpisodeTable, usable: np.ndarray, split: np.ndarray
) -> Windows:
    """The same windows of the episodes in `split`, over frames that have a next observation."""
    episodes = np.flatnonzero(split)
    if (usable[episodes] == table.lengths[episodes]).all():
        return windows
    return Windows(table.starts[episodes], usable[episodes], windows.spec)
