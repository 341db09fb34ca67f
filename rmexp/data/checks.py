"""What is wrong with the numbers themselves, found over whole arrays and named to the row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from rmexp.data.episodes import Block, Column, EpisodeTable
from rmexp.errors import DatasetError

CHUNK = 1 << 16
ACTION_TOLERANCE = 1e-6


def check_finite(block: Block, table: EpisodeTable) -> None:
    """Raises DatasetError for the first NaN or infinity in any key."""
    values = block.values.numpy()
    for start in range(0, len(values), CHUNK):
        finite = np.isfinite(values[start : start + CHUNK])
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            _report(block, table, start + row, column)


def check_action_range(block: Block, table: EpisodeTable) -> None:
    """Raises DatasetError for an action outside [-1, 1]."""
    actions = _columns(block, block.others["actions"])[: table.num_rows]
    low, high = float(actions.min()), float(actions.max())
    if max(-low, high) <= 1 + ACTION_TOLERANCE:
        return
    row = int(np.argmax((np.abs(actions) > 1 + ACTION_TOLERANCE).any(axis=1)))
    path, demo, frame = table.locate(row)
    raise DatasetError(
        f"{path}: {demo}/actions leaves [-1, 1] at row {frame} (the data spans {low:.3g} to "
        f"{high:.3g}); policies act in [-1, 1], so give dataset.normalize_actions=min_max"
    )


def constant_dimensions(block: Block, train_rows: np.ndarray) -> list[str]:
    """One warning for the actions and one for the observations that never change in training."""
    found: list[str] = []
    for title, named in (("actions", {"actions": block.others["actions"]}), ("obs", block.obs)):
        still = []
        for key, column in named.items():
            values = _columns(block, column)[train_rows]
            constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0)).tolist()
            if constant:
                still.append(f"{key} {constant}")
        if still:
            found.append(f"constant dimensions in {title} of the training split: {_some(still)}")
    return found


def check_overlap(block: Block, table: EpisodeTable, is_train: np.ndarray) -> None:
    """Raises DatasetError when an episode of the validation split is a copy of a training one.

    Compared are all low-dimensional numbers of whole episodes; without observations among them
    (images only) nothing is compared.
    """
    if not block.obs:
        return
    values = block.values.numpy()
    seen: dict[bytes, int] = {}
    for episode in np.argsort(~is_train, kind="stable").tolist():  # the training split first
        start = table.starts[episode]
        rows = values[start : start + table.lengths[episode]].tobytes()
        twin = seen.setdefault(hashlib.blake2b(rows, digest_size=16).digest(), episode)
        if is_train[twin] and not is_train[episode]:
            path, demo, _ = table.locate(int(start))
            other, other_demo, _ = table.locate(int(table.starts[twin]))
            raise DatasetError(
                f"{path}: {demo} of the validation split equals {other_demo} of the training split"
                f"{'' if other == path else f' ({other})'}, number for number: validation on "
                "training data; remove the copy, or leave it out with dataset.valid_filter=KEY"
            )


def _some(items: list[str]) -> str:
    return ", ".join(items[:4]) + (f" and {len(items) - 4} more keys" if len(items) > 4 else "")


def _columns(block: Block, column: Column) -> np.ndarray:
    return block.values.numpy()[:, column.start : column.start + column.width]


def _report(block: Block, table: EpisodeTable, row: int, column: int) -> None:
    value = block.values[row, column].item()
    named = [(f"obs/{key}", c) for key, c in block.obs.items()] + list(block.others.items())
    key, place = next((k, column - c.start) for k, c in named if 0 <= column - c.start < c.width)
    if row >= table.num_rows:  # a next observation that is no frame of its own
        assert block.next_rows is not None
        row = int(np.argmax(block.next_rows.numpy() == row))
        key = f"next_{key}"
    path, demo, frame = table.locate(row)
    raise DatasetError(_not_finite(path, demo, key, frame, place, value))


def _not_finite(path: Path, demo: str, key: str, frame: int, place: int, value: float) -> str:
    return (
        f"{path}: {demo}/{key} is {value} at row {frame}, dimension {place}; mend it or leave "
        f"{demo} out of the split (dataset.train_filter=KEY)"
    )
